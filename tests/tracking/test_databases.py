"""Location of the local database, and other files in its place."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from memlm.cli import parse
from memlm.run import tracking_uri
from memlm.tracking import Tracker, TrackingError


def test_nothing_is_written_next_to_the_database(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a full address MLflow would make mlflow.db or mlruns in the working directory."""
    monkeypatch.chdir(tmp_path)
    Tracker(uri, "elsewhere").run("k", name="a").log_metrics({"loss": 1.0})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", ["sqlite:///mlflow.db", "sqlite://", "mlruns", "file:///x", "postgresql://x/y"])
def test_addresses_that_are_refused(bad: str) -> None:
    with pytest.raises(TrackingError, match="sqlite:////absolute"):
        Tracker(bad, "x")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("not a database, but long enough to be taken for its header" * 20)
    with pytest.raises(TrackingError, match="cannot be opened.*not a database"):
        Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}", "x")


def test_a_storage_folder_of_any_name_holds_its_own_database_and_nothing_appears_elsewhere(tmp_path: Path) -> None:
    """SQLAlchemy ends a path at a question mark and decodes %41; MLflow makes a folder from the
    undecoded address."""
    folder = tmp_path / "a?b%41 %#é=c"
    address = tracking_uri(parse("", ["smoke", "--storage", str(folder)]))
    with Tracker(address, "all").run("k", name="n") as run:
        run.log_metrics({"loss": 1.0})
        run.log_file(__file__)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        assert connection.execute("SELECT key, value FROM metrics").fetchall() == [("loss", 1.0)]
    assert [path.name for path in (folder / "mlflow_artifacts").rglob("*.py")] == [Path(__file__).name]


def test_a_question_mark_in_an_address_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="Write %3F"):
        Tracker(f"sqlite:///{tmp_path}/a?b/mlflow.db", "all")
    assert list(tmp_path.iterdir()) == []


def test_another_programs_database_is_not_touched(tmp_path: Path) -> None:
    database = tmp_path / "photos.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE photos (name TEXT)")
        connection.commit()
    before = database.read_bytes()
    with pytest.raises(TrackingError, match="is another program's database"):
        Tracker(f"sqlite:///{database}", "all")
    assert database.read_bytes() == before


def test_links_and_pipes_in_the_place_of_the_database_or_its_lock_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db.lock").symlink_to(tmp_path / "target")
    with pytest.raises(TrackingError, match="mlflow.db.lock: cannot be opened"):
        Tracker(f"sqlite:///{tmp_path}/mlflow.db", "all")
    assert not (tmp_path / "target").exists()
    os.mkfifo(tmp_path / "pipe.db")
    with pytest.raises(TrackingError, match="is a folder or a pipe"):
        Tracker(f"sqlite:///{tmp_path}/pipe.db", "all")
