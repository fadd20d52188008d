import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.running import Ended, run_pipeline, smoke


@dataclass(frozen=True)
class Swept:
    """What `python pipelines/pareto_sweep.py smoke` left behind."""

    storage: Path
    ended: Ended

    @property
    def run(self) -> Path:
        return self.storage / "smoke"

    def copy_to(self, run: Path, *, without: tuple[str, ...]) -> None:
        """The run under another name or in another storage, but for these of its parts."""
        shutil.copytree(self.run, run, ignore=shutil.ignore_patterns("ray", *without))

    def frontier(self) -> dict[str, Any]:
        return json.loads((self.run / "frontier.json").read_text())

    def ledger(self) -> dict[str, Path]:
        return {path.stem: path for path in sorted((self.run / "trials").glob("*.json"))}


LEARNED = ("checkpoint-*", "counts*", "trials", "learned", "frontier*", "report*", "stages.json", "leases")
"""What a run has beside its corpus and its questions."""


@pytest.fixture(scope="session")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    storage = tmp_path_factory.mktemp("smoke")
    ended = run_pipeline("pareto_sweep", "smoke", "--storage", str(storage))
    assert ended.code == 0, f"{ended.out}\n{ended.err}"
    return Swept(storage, ended)


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """A local Ray for all jobs that run in this process; each of them would start one of its own
    otherwise."""
    from memlm.jobs.on_ray.cluster import connect

    before = dict(os.environ)
    with connect(smoke("/nowhere")):
        yield
    os.environ.clear()
    os.environ.update(before)
