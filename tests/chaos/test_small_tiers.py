"""The small tier of each row of `make chaos`, and tests of the frame."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import frame
from tests.chaos.__main__ import main
from tests.chaos.frame import EVERYDAY_SECONDS, SMALL_SECONDS, Outcome, Row, find_rows, measure, with_small_tier


def marked(row: Row) -> Any:
    """A row with the marks of its small tier, most of which wait for `make test-all`."""
    slow = row.starts_ray or row.small_seconds > EVERYDAY_SECONDS
    marks = [*([pytest.mark.ray] if row.starts_ray else []), *([pytest.mark.slow] if slow else [])]
    return pytest.param(row, id=row.name, marks=marks)


@pytest.mark.parametrize("row", [marked(row) for row in with_small_tier(find_rows())])
def test_small_tier(row: Row, request: pytest.FixtureRequest) -> None:
    if row.starts_ray:
        request.getfixturevalue("cluster")
    record = measure(row, seed=0, small=True)
    if record.skipped:
        pytest.skip(record.skipped)
    assert record.ok, record


def test_small_tiers_fit_into_the_whole_suite() -> None:
    rows = find_rows()
    assert sum(row.small_seconds for row in rows) <= SMALL_SECONDS
    assert len({row.name for row in rows}) == len(rows)


def row_of(outcome: Outcome, name: str = "kills", tries: int = 3) -> Row:
    return Row(name=name, bar="3 kills", tries=tries, run=lambda seed, small: outcome, seconds=1, small_seconds=1)


@pytest.mark.parametrize(
    ("outcome", "ok"),
    [
        (Outcome(tries=3, survived=3, differences=0), True),
        (Outcome(tries=2, survived=2, differences=0), False),  # too few
        (Outcome(tries=3, survived=2, differences=0), False),
        (Outcome(tries=3, survived=3, differences=1), False),
    ],
)
def test_a_row_is_held_to_its_bar(outcome: Outcome, ok: bool) -> None:
    assert measure(row_of(outcome), seed=1, small=False).ok == ok


def test_a_row_that_cannot_run_here_gives_the_reason_and_meets_no_bar() -> None:
    row = replace(row_of(Outcome(tries=3, survived=3, differences=0)), cannot_run=lambda: "no root")
    record = measure(row, seed=1, small=False)
    assert (record.skipped, record.ok, record.tries) == ("no root", False, 0)


def test_a_row_without_tries_is_not_passed() -> None:
    assert not measure(row_of(Outcome(tries=0, survived=0, differences=0)), seed=1, small=True).ok


def test_the_command_writes_every_row_and_fails_when_one_does(tmp_path: Path) -> None:
    def breaks(seed: int, small: bool) -> Outcome:
        raise RuntimeError(f"seed {seed}")

    good = row_of(Outcome(tries=3, survived=3, differences=0), "good")
    bad = Row(name="bad", bar="none", tries=1, run=breaks, seconds=1, small_seconds=1)
    assert main([bad, good], ["--seed", "5", "--output", str(tmp_path)]) == 1
    lines = json.loads((tmp_path / "chaos.json").read_text())["rows"]
    assert [(line["what"], line["ok"], line["seed"]) for line in lines] == [("bad", False, 5), ("good", True, 5)]
    assert "seed 5" in lines[0]["error"]
    assert main([bad, good], ["--only", "good", "--output", str(tmp_path)]) == 0
    rows = [good, replace(bad, cannot_run=lambda: "no root")]
    for option, status in ((), 0), (("--require-all",), 1):
        assert main(rows, ["--output", str(tmp_path), *option]) == status
    with pytest.raises(SystemExit):
        main(rows, ["--only", "goood"])


def test_rows_are_found_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "found_by_file.py").write_text(
        "from tests.chaos.frame import Outcome, Row\n"
        "run = lambda seed, small: Outcome(tries=1, survived=1, differences=0)\n"
        "ROWS = [Row(name='found', bar='', tries=1, run=run, seconds=1, small_seconds=1)]\n"
    )
    monkeypatch.setattr(frame.tests.chaos, "__path__", [*frame.tests.chaos.__path__, str(tmp_path)])
    assert "found" in [row.name for row in find_rows()]
    sys.modules.pop("tests.chaos.found_by_file")
