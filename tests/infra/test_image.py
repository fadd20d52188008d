"""The recipe of the machine image: it locks the versions that the project pins, and nothing else
gets in."""

import re
import subprocess
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.jobs.running import ROOT

IMAGE = ROOT / "infra/image"
LOCK = (IMAGE / "requirements.lock").read_text()
ENTRIES = re.split(r"\n(?=[A-Za-z0-9])", LOCK.strip())
LOCKED = {
    match[1].lower(): Version(match[2]) for entry in ENTRIES if (match := re.match(r"([\w.-]+)==([^\s;]+)", entry))
}


NOT_ON_NODES = {"lm-eval", "pytest-xdist", "execnet"}


def required() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["cluster"]]
    for file in (IMAGE / "requirements.in", ROOT / ".ci/constraints.txt"):
        lines += [line for line in file.read_text().splitlines() if line and line[0] != "#"]
    return [each for each in map(Requirement, lines) if each.name not in NOT_ON_NODES]


@pytest.mark.parametrize("requirement", required(), ids=str)
def test_the_lock_file_agrees_with_the_pins(requirement):
    assert requirement.specifier.contains(LOCKED[requirement.name.lower()], prereleases=True), (
        "run: make -C infra/image lock"
    )


def test_every_file_has_a_digest_and_no_address():
    assert len(LOCKED) == len(ENTRIES) > 100
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in ENTRIES)
    assert not re.search(r"https?:|file:|@|--(extra-)?index", LOCK)


def test_torch_is_the_build_for_gpus():
    assert not LOCKED["torch"].local and any(name.startswith("nvidia-nccl") for name in LOCKED)


@pytest.mark.parametrize("script", ["install.sh"])
def test_scripts_parse(script):
    subprocess.run(["bash", "-n", str(IMAGE / script)], check=True)


def test_packages_come_by_digest_alone():
    installs = [line for line in (IMAGE / "install.sh").read_text().splitlines() if line.startswith("pip install")]
    assert len(installs) == 2 and all("--require-hashes --no-deps" in line for line in installs)
