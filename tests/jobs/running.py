"""Calls of the jobs in tests: as a user, or in this process if only the job matters."""

import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from memlm import storage
from memlm.cli import launch, parse
from memlm.config import Config

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
STARTS_RAY = ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")


def environment(**changes: str) -> dict[str, str]:
    """Environment without variables that point to another Ray cluster."""
    kept = {name: value for name, value in os.environ.items() if name not in STARTS_RAY}
    return {**kept, "PATH": f"{BIN}:{os.environ['PATH']}", **changes}


@dataclass(frozen=True, kw_only=True)
class Ended:
    code: int
    out: str
    err: str
    seconds: float


def run_command(*command: str, timeout: float = 300, **changes: str) -> Ended:
    began = time.monotonic()
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=environment(**changes), timeout=timeout
    )
    return Ended(code=done.returncode, out=done.stdout, err=done.stderr, seconds=time.monotonic() - began)


def run_pipeline(name: str, *arguments: str, timeout: float = 300) -> Ended:
    return run_command(sys.executable, f"pipelines/{name}.py", *arguments, timeout=timeout)


def smoke(root: Path | str, *arguments: str) -> Config:
    return parse("", ["smoke", "--storage", str(root), *arguments])


def the_error_line(code: object, out: str, err: str) -> str:
    """Error line of a failed command. Checks that the status is not 0 and that this line is the
    last one and memlm's own."""
    lines = err.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert code == 1, f"ended with status {code}:\n{out}\n{err}"
    assert errors == lines[-1:], err
    assert "Traceback" not in out + err and "ray::" not in out + err
    return lines[-1]


def refused(capfd: pytest.CaptureFixture, job: Callable[[Config], Any], config: Config) -> str:
    """Error line of a job that runs in this process."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as stopped:
        launch(lambda: job(config))
    return the_error_line(stopped.value.code, *capfd.readouterr())


def said_with(capfd: pytest.CaptureFixture, words: str, *, seconds: float = 10.0) -> str:
    """Output, once it contains these words: if the cluster stays up, lines from workers come half a
    second after the job."""
    said, deadline = capfd.readouterr().out, time.monotonic() + seconds
    while words not in said and time.monotonic() < deadline:
        time.sleep(0.1)
        said += capfd.readouterr().out
    return said


def artifacts_in(folder: Path | str) -> set[str]:
    """Finished artifacts below a folder, by path."""
    return {str(path.parent.relative_to(folder)) for path in Path(folder).rglob(storage.MANIFEST)}


def uploaded(folder: Path) -> set[str]:
    """Files that Ray itself would package from a working directory."""
    from ray._private.runtime_env.packaging import create_package

    with tempfile.TemporaryDirectory() as place:
        package = Path(place) / "package.zip"
        create_package(str(folder), package, include_gitignore=True)
        return {name for name in zipfile.ZipFile(package).namelist() if not name.endswith("/")}
