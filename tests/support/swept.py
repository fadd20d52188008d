import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.running import Ended, artifacts_in, run_pipeline, smoke


@dataclass(frozen=True)
class Swept:
    """The results of `python pipelines/pareto_sweep.py smoke`."""

    storage: Path
    ended: Ended
    made: frozenset[str]
    """The artifacts at the end of the sweep; later tests add to the run."""

    @property
    def run(self) -> Path:
        return self.storage / "smoke"

    def copy_to(self, run: Path, *, without: tuple[str, ...]) -> None:
        """Copy the run, without some of its parts, to another name or storage."""
        shutil.copytree(self.run, run, ignore=shutil.ignore_patterns("ray", *without))

    def frontier(self) -> dict[str, Any]:
        return json.loads((self.run / "frontier.json").read_text())

    def ledger(self) -> dict[str, Path]:
        return {path.stem: path for path in sorted((self.run / "trials").glob("*.json"))}


LEARNED = ("checkpoint-*", "counts*", "trials", "learned", "frontier*", "report*", "stages.json", "leases")
"""Parts of a run apart from its corpus and its questions."""


@pytest.fixture(scope="session")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    storage = tmp_path_factory.mktemp("smoke")
    ended = run_pipeline("pareto_sweep", "smoke", "--storage", str(storage), timeout=550)
    assert ended.code == 0, f"{ended.out}\n{ended.err}"
    return Swept(storage, ended, frozenset(artifacts_in(storage / "smoke")))


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which clients reach an S3 server on this machine."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{server.get_host_and_port()[1]}",
        "MEMLM_CACHE": str(tmp_path_factory.mktemp("cache")),
    }
    server.stop()


@pytest.fixture(scope="session")
def cluster(s3_server: dict[str, str]) -> Iterator[None]:
    """One local Ray for all jobs that run in this process. Its workers reach the S3 server; a test
    that needs it in this process too sets the variables itself."""
    from memlm.jobs.on_ray.cluster import connect

    before = dict(os.environ)
    os.environ.update(s3_server)
    with connect(smoke("/nowhere")):
        for name in s3_server:
            del os.environ[name]
        os.environ.update({name: before[name] for name in s3_server if name in before})
        yield
    os.environ.clear()
    os.environ.update(before)
