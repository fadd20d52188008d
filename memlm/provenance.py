"""Where a result came from: the code, the user and the data sets, as the tracking server's
readers look for them."""

import getpass
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

DIRTY = "-dirty"


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """What a run read: an artifact or one part of it."""

    name: str
    digest: str
    uri: str
    context: str
    """What it was read for: "training" or "evaluation"."""


def git_sha(directory: Path = Path(__file__).parent) -> str:
    """The commit of the code that runs, with "-dirty" when files differ from it; "" outside a
    checkout."""
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
    """MLflow's own tags for who ran what, which its pages show as user, source and commit."""
    tags = {"mlflow.source.type": "LOCAL", "mlflow.source.name": "memlm"}
    with suppress(OSError, KeyError):  # a container's user may have no name
        tags["mlflow.user"] = getpass.getuser()
    sha = git_sha()
    if sha:
        tags["git_sha"] = sha
        tags["mlflow.source.git.commit"] = sha.removesuffix(DIRTY)
    return tags
