"""Provenance of a result: code, user and data sets, in the form that the tracking server shows."""

import getpass
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

DIRTY = "-dirty"


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Data that a run read: an artifact or a part of one."""

    name: str
    digest: str
    uri: str
    context: str
    """Purpose of reading it: "training" or "evaluation"."""


def git_sha(directory: Path = Path(__file__).parent) -> str:
    """Commit of the running code, with "-dirty" if files differ from it; "" outside a checkout."""
    try:
        sha, changes = (
            subprocess.run(
                ["git", *arguments], cwd=directory, capture_output=True, text=True, check=True
            ).stdout.strip()
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        return ""
    return f"{sha}{DIRTY}" if changes else sha


@lru_cache(maxsize=1)
def source_tags() -> dict[str, str]:
    """MLflow's own tags, which its pages show as user, source and commit."""
    tags = {"mlflow.source.type": "LOCAL", "mlflow.source.name": "memlm"}
    with suppress(OSError, KeyError):  # a container's user may have no name
        tags["mlflow.user"] = getpass.getuser()
    sha = git_sha()
    if sha:
        tags["git_sha"] = sha
        tags["mlflow.source.git.commit"] = sha.removesuffix(DIRTY)
    return tags
