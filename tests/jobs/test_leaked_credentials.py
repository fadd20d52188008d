"""Credentials of every kind that memlm reads must not leak: neither to places that outlive a
command, nor to places that other users see."""

import base64
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest

from memlm.credentials import VARIABLES
from tests.jobs.running import ROOT, environment

NOBODY = "127.0.0.1:9"  # nothing listens there


@dataclass
class Planted:
    """Canaries by the place where they were planted, and the folders where none may appear."""

    home: Path
    storage: Path
    ray: Path
    canaries: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    commands: set[str] = field(default_factory=set)
    """Command lines of all observed processes."""
    listening: set[str] = field(default_factory=set)
    """Addresses on which they listened."""
    said: str = ""

    def new(self, place: str) -> str:
        self.canaries[place] = f"canary{len(self.canaries):02d}{secrets.token_hex(12)}"
        return self.canaries[place]

    def found_in(self, text: bytes) -> set[str]:
        return {place for place, canary in self.canaries.items() if any(form in text for form in spellings(canary))}

    def found(self) -> list[tuple[str, str]]:
        """Every canary that leaked."""
        places = [("console", self.said.encode()), ("process arguments", "\n".join(self.commands).encode())]
        kept = {
            self.home / name for name in (".ray/auth_token", ".aws/credentials", ".netrc", ".cache/huggingface/token")
        }
        for folder in (self.storage, self.ray, self.home):
            files = (
                path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and path not in kept
            )
            places += [(str(path), path.read_bytes()) for path in files]
        return [(place, canary) for place, text in places for canary in sorted(self.found_in(text))]


def spellings(canary: str) -> list[bytes]:
    """The canary itself, and its three base64 forms, one for each offset."""
    shifted = [base64.b64encode(b"x" * offset + canary.encode())[4:-4] for offset in range(3)]
    return [canary.encode(), quote(canary).encode(), *shifted]


def plant(home: Path, storage: Path, ray: Path) -> Planted:
    planted = Planted(home, storage, ray)
    for name in (*VARIABLES, "SOME_OTHER_KEY"):
        if name != "RAY_AUTH_TOKEN":  # left out, so that a local Ray makes its own
            planted.variables[name] = planted.new(name)
    planted.variables["AWS_ACCESS_KEY_ID"] = planted.canaries["AWS_ACCESS_KEY_ID"] = (
        f"AKIA{secrets.token_hex(8).upper()}"
    )
    for name in ("AWS_ENDPOINT_URL_S3", "HF_ENDPOINT"):
        planted.variables[name] = f"http://user:{planted.new(name)}@{NOBODY}"
    for path, text in (
        (".aws/credentials", "[default]\naws_access_key_id = AKIA\naws_secret_access_key = {}\n"),
        (".netrc", "machine 127.0.0.1 login somebody password {}\n"),
        (".cache/huggingface/token", "{}"),
    ):
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_text(text.format(planted.new(path)))
    planted.variables |= {"HOME": str(home), "RAY_TMPDIR": str(ray), "AWS_MAX_ATTEMPTS": "1"}
    return planted


def watched(planted: Planted, *command: str, timeout: float) -> int:
    """Run a command, and observe it and its children as other users of the machine can. Returns its
    status."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment(**planted.variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    threading.Thread(target=_look, args=(planted, psutil.Process(process.pid)), daemon=True).start()
    said, _ = process.communicate(timeout=timeout)
    planted.said += said
    return process.returncode


def _look(planted: Planted, process: psutil.Process) -> None:
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        for each in [process, *process.children(recursive=True)]:
            try:
                planted.commands.add("\n".join(each.cmdline()))
                open_now = each.net_connections("inet")
            except psutil.Error:  # it has ended
                continue
            planted.listening |= {one.laddr.ip for one in open_now if one.status == psutil.CONN_LISTEN}
        time.sleep(1)


@pytest.fixture(scope="module")
def swept_with_canaries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planted]:
    """A whole smoke run, with two parallel pretraining workers."""
    ray = Path(tempfile.mkdtemp(prefix="mr"))  # names of sockets are limited, and pytest's folders have long paths
    planted = plant(tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("storage"), ray)
    options = ["--storage", str(planted.storage), "--cluster.num-workers", "2", "--pretraining.micro-batch-blocks", "8"]
    try:
        status = watched(planted, "pipelines/pareto_sweep.py", "smoke", *options, timeout=550)
        assert status == 0, planted.said
        yield planted
    finally:
        shutil.rmtree(ray, ignore_errors=True)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.xdist_group("canaries")
def test_a_whole_run_leaves_no_credential_anywhere(swept_with_canaries):
    planted = swept_with_canaries
    logs = list(planted.ray.rglob("runtime_env_agent.log"))
    assert (
        logs and (planted.storage / "mlflow.db").is_file() and (planted.storage / "smoke" / "frontier.json").is_file()
    )
    assert planted.said.count("\n") > 10 and any("raylet" in command for command in planted.commands)
    planted.canaries["~/.ray/auth_token"] = (planted.home / ".ray" / "auth_token").read_text()
    assert planted.found() == []


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.xdist_group("canaries")
def test_a_whole_run_listens_on_loopback_alone(swept_with_canaries):
    assert swept_with_canaries.listening <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


REFUSALS: dict[str, Callable[[Planted], list[str]]] = {
    "a store that does not answer": lambda planted: ["prepare_corpus", "--storage", "s3://bucket/runs", "--tracking", "off"],
    "a hub that does not answer": lambda planted: ["prepare_corpus", "--corpus.path", f"hf://datasets/o/n@{'0' * 40}"],
    "a tracking server's password": lambda planted: [
        "prepare_corpus", "--tracking", f"HTTP://user:{planted.new('tracking')}/x@{NOBODY}",
    ],
    "an endpoint's token": lambda planted: [
        "write_statements", "--writer.endpoint.base-url", f"http://{NOBODY}/v1?token={planted.new('endpoint')}",
    ],
    "a question set's": lambda planted: [
        "prepare_corpus", "--questions.facts.path", f"https://user:{planted.new('set')}@host/x.csv",
    ],
    "a setting that there is not": lambda planted: ["pretrain", "--trakcing", f"postgresql://u:{planted.new('typo')}@h"],
    "a session token with a line break": lambda planted: _broken(planted, "AWS_SESSION_TOKEN"),
}  # fmt: skip

PATIENT = [
    "a store that does not answer",
    "a hub that does not answer",
    "a session token with a line break",
]
"""Cases in which memlm retries for half a minute."""


def _broken(planted: Planted, variable: str) -> list[str]:
    planted.variables[variable] = f"{planted.new('first half')}\n{planted.new('second half')}"
    return ["prepare_corpus", "--tracking", "off"]


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] if case in PATIENT else []) for case in REFUSALS]
)
def test_an_error_names_no_credential(case, tmp_path):
    planted = plant(tmp_path / "home", tmp_path / "storage", tmp_path / "ray")
    for folder in (planted.storage, planted.ray):
        folder.mkdir()
    pipeline, *options = REFUSALS[case](planted)
    storage = [] if "--storage" in options else ["--storage", str(planted.storage)]
    status = watched(planted, f"pipelines/{pipeline}.py", "smoke", *storage, *options, timeout=120)
    assert status in (1, 2) and "Traceback" not in planted.said, planted.said
    planted.commands = set()  # put there by the user
    assert planted.found() == [], planted.said


def test_trials_are_given_no_credentials_by_ray_tune(monkeypatch):
    from ray import tune
    from ray.tune.execution.class_cache import _ActorClassCache

    import memlm.jobs.sweep.trials  # noqa: F401  what a sweep imports

    for name in VARIABLES:
        monkeypatch.setenv(name, "a canary")
    actor = _ActorClassCache().get(type("Trainable", (tune.Trainable,), {}))
    given = actor._default_options["runtime_env"]["env_vars"]
    assert given and not set(given) & set(VARIABLES) and "a canary" not in given.values()
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "a canary"
