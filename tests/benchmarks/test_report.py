"""The report: whether a bar is reached, and why not."""

import json
from pathlib import Path

import pytest

from tests.benchmarks.report import failed_record, reaches, record_of, table, verdict, write
from tests.benchmarks.rows import Bound, Figures, Row

MACHINE = {"device": "cpu"}


def row(name: str = "search", *, bound: Bound = "min", bar: float | None = 2, aim: float | None = 4) -> Row:
    return Row(name=name, unit="ms", bound=bound, bar=bar, aim=aim, seconds=1, run=lambda folder: figures(1))


def figures(ratio: float, *failures: str) -> Figures:
    return Figures(
        ours=10, peer=10 * ratio, peer_name="torch", ratio=ratio, conditions={"shape": "s"}, failures=list(failures)
    )


@pytest.mark.parametrize(
    ("ratio", "bound", "bar", "expected"),
    [
        (2, "min", 2, True),
        (1.99, "min", 2, False),
        (1.15, "max", 1.15, True),
        (1.16, "max", 1.15, False),
        (0.1, "min", None, True),
        (float("nan"), "min", 2, False),
    ],
)
def test_a_bar_is_a_minimum_or_maximum_ratio(ratio: float, bound: Bound, bar: float | None, expected: bool) -> None:
    assert reaches(ratio, bound, bar) is expected


def test_a_record_has_the_promised_fields_and_is_not_ok_if_outputs_differ() -> None:
    good, missed, wrong = (record_of(row(), figures(*f), MACHINE) for f in ((3,), (1,), (3, "y differs")))
    assert list(good) == ["name", "ours", "peer", "peer_name", "unit", "ratio", "bound", "bar", "ok", "conditions"]
    assert list(good) == list(failed_record(row(), "no memory", MACHINE))
    assert (good["ok"], missed["ok"], wrong["ok"]) == (True, False, False)
    assert good["conditions"]["shape"] == "s" and good["conditions"]["device"] == "cpu"
    assert wrong["conditions"]["failures"] == ["y differs"]
    assert not good["conditions"]["aim_reached"]


def test_the_table_and_the_verdict_say_which_bars_are_missed_and_why() -> None:
    records = [
        record_of(row("fine"), figures(5), MACHINE),
        record_of(row("short"), figures(3), MACHINE),
        record_of(row("slow"), figures(1.5), MACHINE),
        record_of(row("grows", bound="max", bar=1.25, aim=1.05), figures(1.5), MACHINE),
        record_of(row("wrong"), figures(9, "y differs"), MACHINE),
        failed_record(row("broken"), "needs 9 GiB", MACHINE),
    ]
    lines = {line.split()[0]: line for line in table(records).splitlines()[2:]}
    assert "yes" in lines["fine"] and "MISSED" in lines["slow"] and "<= 1.25" in lines["grows"]
    assert "differs" in lines["wrong"] and "needs 9 GiB" in lines["broken"]
    assert verdict(records).splitlines() == [
        "bar missed: slow is 1.50 and must be at least 2",
        "bar missed: grows is 1.50 and must be at most 1.25",
        "outputs differ: wrong: y differs",
        "not measured: broken: needs 9 GiB",
        "bar reached, aim not: short",
    ]
    assert verdict(records[:1]) == "every bar and every aim is reached"


def test_the_file_is_a_list_of_records(tmp_path: Path) -> None:
    records = [record_of(row(), figures(3), MACHINE), failed_record(row("broken"), "why", MACHINE)]
    write(records, tmp_path / "new" / "bench.json")
    assert json.loads((tmp_path / "new" / "bench.json").read_text()) == records
