from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.faults import FaultyProxy, client_environment, faulty_s3, make_bucket


@pytest.fixture(scope="session")
def server() -> Iterator[FaultyProxy]:
    with faulty_s3() as proxy:
        yield proxy


@pytest.fixture
def proxy(server: FaultyProxy) -> Iterator[FaultyProxy]:
    server.plan()
    server.stall_seconds, server.seconds_ahead, server.flips_after = 3, 0, b""
    server.checks_sums = False
    server.drops, server.refuses, server.hides, server.sizes = (), (), (), "declared"
    yield server
    server.plan()


@pytest.fixture
def bucket(proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in client_environment(proxy).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MEMLM_CACHE", str(tmp_path / "cache"))
    return make_bucket(proxy)


@pytest.fixture(params=["disk", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "runs") if request.param == "disk" else request.getfixturevalue("bucket") + "/runs"
