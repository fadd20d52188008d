"""Recorded frontiers follow from the items recorded next to them."""

from pathlib import Path

import pytest

from memlm import storage
from memlm.jobs.sweep.drawing import read_items
from memlm.results.frontier import frontier_of

RECORDED = Path(__file__).parents[2] / "docs" / "recorded"


@pytest.mark.slow
@pytest.mark.parametrize("items", sorted(RECORDED.glob("*-items.json")), ids=lambda path: path.stem)
def test_a_recorded_frontier_follows_from_its_items(items: Path) -> None:
    frontier = items.with_name(items.name.replace("-items", "-frontier"))
    assert frontier_of(read_items(str(items))) == storage.read_record(str(frontier))
