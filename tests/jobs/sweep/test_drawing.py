"""A frontier is computed and drawn again from the items that its sweep kept."""

import json
import sys
from pathlib import Path

import pytest

from memlm import storage
from memlm.cli import main
from memlm.jobs.sweep.drawing import FRONTIER_FILES, draw_files, read_items
from memlm.results.comparing.items import SweepItems
from memlm.results.frontier import frontier_of
from tests.results.making import random_trials


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A sweep's folder."""
    items = SweepItems(recipe="laptop", trials=random_trials(), samples=100, tuning_seeds=[2])
    folder = tmp_path / "run"
    folder.mkdir()
    draw_files(frontier_of(items), folder, stages={})
    storage.write_record(str(folder / "items.json"), items.to_json())
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["memlm", "frontier", *arguments])
    main()


def test_every_number_is_equal(kept, tmp_path, monkeypatch, capsys):
    run(monkeypatch, str(kept / "items.json"), "--out", str(tmp_path / "again"))
    made = {path.name for path in (tmp_path / "again").iterdir()}
    assert made == {*FRONTIER_FILES}
    for name in ("frontier.json", "frontier.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (kept / name).read_bytes()
    assert "known facts: lost at learning" in capsys.readouterr().out


def test_no_file_is_overwritten(kept, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, str(kept / "items.json"), "--out", str(kept))
    assert "frontier.csv exists already; name another folder with --out, or move it away" in capsys.readouterr().err


@pytest.mark.parametrize("change", [{"trials": 3}, {"format": 9}, {"sets": {}}])
def test_a_file_that_is_no_items_is_refused_on_one_line(kept, change):
    path = kept / "items.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change, "digest": None}))
    with pytest.raises(storage.StorageError, match=r"items.json") as caught:
        read_items(str(path))
    assert "\n" not in str(caught.value)


def test_a_changed_item_is_noticed(kept):
    path = kept / "items.json"
    path.write_text(path.read_text().replace('"right": "0', '"right": "1', 1))
    with pytest.raises(storage.DamagedArtifact, match="does not match its own digest"):
        read_items(str(path))
