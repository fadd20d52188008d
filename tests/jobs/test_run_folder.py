"""The folder of a run must be new or made by memlm, since reports and pictures are written
there."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from memlm import storage
from memlm.cli import parse
from memlm.jobs.on_ray.checks import require_ready
from memlm.run import RunError
from tests.support.faults import client_environment, faulty_s3, make_bucket


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with faulty_s3() as proxy:
        for name, value in {**client_environment(proxy), "MEMLM_CACHE": str(tmp_path / "cache")}.items():
            monkeypatch.setenv(name, value)
        yield make_bucket(proxy)


@pytest.fixture
def config(tmp_path: Path):
    return parse("", ["smoke", "--storage", str(tmp_path), "--run-name", "thesis"])


def test_a_folder_of_other_files_is_refused_and_not_changed(config, tmp_path: Path) -> None:
    (tmp_path / "thesis" / "corpus").mkdir(parents=True)
    (tmp_path / "thesis" / "corpus" / "manifest.json").write_text('{"name": "web"}')
    (tmp_path / "thesis" / "report.html").write_text("three years of work")
    with pytest.raises(
        RunError, match=r"thesis contains report.html and nothing that memlm made. Give another --run-name"
    ):
        require_ready(config)
    assert (tmp_path / "thesis" / "report.html").read_text() == "three years of work"


def test_new_folders_and_folders_of_runs_are_accepted(config, tmp_path: Path) -> None:
    require_ready(config)
    (tmp_path / "thesis" / "blocks-attempts").mkdir(parents=True)
    (tmp_path / "thesis" / ".corpus.partial").mkdir()
    require_ready(config)
    with storage.write_artifact(str(tmp_path / "thesis" / "world"), kind="world", config={}) as draft:
        (draft.path / "w").touch()
    (tmp_path / "thesis" / "report.html").touch()
    require_ready(config)
    (tmp_path / "thesis" / "world" / "manifest.json").write_text("")
    require_ready(config)
    assert (tmp_path / "thesis" / "report.html").is_file() and (tmp_path / "thesis" / "world" / "w").is_file()


def test_other_objects_on_s3_are_refused_and_not_changed(bucket: str) -> None:
    config = parse("", ["smoke", "--storage", bucket, "--run-name", "site", "--tracking", "off"])
    require_ready(config)
    storage.write_bytes(f"{bucket}/site/leases/pretrain", b"{}")
    require_ready(config)
    storage.write_bytes(f"{bucket}/site/report.html", b"three years of work")
    with pytest.raises(
        RunError, match=r"site contains report.html and nothing that memlm made. Give another --run-name"
    ):
        require_ready(config)
    assert storage.read_bytes(f"{bucket}/site/report.html") == b"three years of work"
    with storage.write_artifact(f"{bucket}/site/world", kind="world", config={}) as draft:
        (draft.path / "w").touch()
    require_ready(config)
