import json

import pytest

from memlm.results.frontier import build_frontier
from memlm.results.series import draw_series, format_series, series_of
from tests.results.test_frontier import accuracy, trial


def frontier_of(learning: float, left: float, steps: int) -> dict:
    known = {"known_facts": accuracy(1)}, {"known_facts": accuracy(left)}
    trials = [
        trial(method, learning, *known, seed=seed, extra={"steps": float(steps), "seconds_learning": 1.0})
        for method in ("sparse_memory", "full")
        for seed in (0, 1)
    ]
    return build_frontier("laptop_saturation", trials, samples=20)


@pytest.fixture
def series() -> dict:
    frontiers = {10: frontier_of(0.9, 0.95, 80), 100: frontier_of(0.8, 0.85, 800)}
    return series_of("laptop_saturation", "stream.num_facts", frontiers)


def test_every_point_of_every_sweep_is_a_row_with_its_value(series: dict) -> None:
    rows = [(row["value"], row["method"], row["steps"], row["learning"]) for row in series["rows"]]
    assert rows == [
        (10, "sparse_memory", 80, 0.9),
        (10, "full", 80, 0.9),
        (100, "sparse_memory", 800, 0.8),
        (100, "full", 800, 0.8),
    ]
    assert [row["sets"]["known_facts"]["drop"] for row in series["rows"]] == pytest.approx([0.05, 0.05, 0.15, 0.15])
    assert series["headline_set"] == "known_facts"
    assert json.loads(json.dumps(series)) == series


def test_the_picture_and_the_table_are_drawn(series: dict, tmp_path) -> None:
    draw_series(series, tmp_path / "series.png")
    assert (tmp_path / "series.png").stat().st_size > 10_000
    assert "15.0%" in format_series(series)
