"""Rows of `make chaos`, which check memlm's promises while processes die, stores fail and bytes are
damaged.

    frame.py       the definition of a row, its discovery, and the result of one run
    __main__.py    `python -m tests.chaos`: run rows, write runs/chaos/chaos.json
    test_small_tiers.py  the small tier of every row, inside `make test-all`
    any other      rows, found by their files

To add one, write a module in this folder that offers `ROWS`:

    def lose_workers(seed: int, small: bool) -> Outcome:
        ...  # real processes, real kills; everything random comes from `seed`
        return Outcome(tries=kills, survived=..., differences=...)

    ROWS = [Row(name="count_workers", bar="30 kills, 0 differing counts", tries=30,
                run=lose_workers, seconds=400, small_seconds=10)]

A row removes what it made and ends what it started, also when it fails. It may not rely on
another row having run.
"""

import importlib
import pkgutil
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import tests.chaos

SMALL_SECONDS = 180
"""Limit for the small tiers of all rows together."""
EVERYDAY_SECONDS = 10
"""Limit for a row whose small tier is part of `make test`; those of the others are part of
`make test-all`."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    tries: int  # faults that were really caused: kills, mutations, races, requests
    survived: int  # faults after which everything was as if nothing had happened
    differences: int  # results that differ from the undisturbed ones: silent corruption, lost or double work
    details: dict[str, Any] = field(default_factory=dict)  # counts for the reader, by class of fault or by file


@dataclass(frozen=True, kw_only=True)
class Row:
    name: str
    bar: str  # in words, for the report
    run: Callable[[int, bool], Outcome]  # (seed, small) -> what came of it
    tries: int  # faults that a full run must cause; a small one must cause one
    seconds: float  # estimate of a full run on two cores
    small_seconds: float  # 0: the row has no small tier
    starts_ray: bool = False  # in this process: its small tier shares one with other tests
    cannot_run: Callable[[], str] = lambda: ""  # what this machine lacks for the row, or an empty text


@dataclass(frozen=True, kw_only=True)
class Record:
    """A line of chaos.json."""

    what: str
    bar: str
    ok: bool
    tries: int
    survived: int
    differences: int
    seconds: float
    seed: int
    small: bool
    details: dict[str, Any]
    error: str | None = None  # the traceback, if the row itself failed
    skipped: str | None = None  # what this machine lacks; the bar is then neither met nor missed

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def find_rows() -> list[Row]:
    """The rows of every module in this folder, by name."""
    names = [module.name for module in pkgutil.iter_modules(tests.chaos.__path__)]
    skipped = ("frame", "__main__")
    modules = [
        importlib.import_module(f"tests.chaos.{name}")
        for name in names
        if name not in skipped and not name.startswith("test_")
    ]
    rows = [row for module in modules for row in getattr(module, "ROWS", [])]
    return sorted(rows, key=lambda row: row.name)


def with_small_tier(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.small_seconds]


def measure(row: Row, seed: int, small: bool) -> Record:
    """Run a row and compare it with its bar: enough tries, all survived, nothing differs."""
    began, error, skipped = time.monotonic(), None, row.cannot_run() or None
    outcome = Outcome(tries=0, survived=0, differences=0)
    try:
        if not skipped:
            outcome = row.run(seed, small)
    except Exception:  # the other rows still run; the record says what happened here
        error = traceback.format_exc()
    enough = outcome.tries >= (1 if small else row.tries)
    return Record(
        what=row.name,
        bar=row.bar,
        ok=enough and outcome.survived == outcome.tries and outcome.differences == 0,
        tries=outcome.tries,
        survived=outcome.survived,
        differences=outcome.differences,
        seconds=round(time.monotonic() - began, 1),
        seed=seed,
        small=small,
        details=outcome.details,
        error=error,
        skipped=skipped,
    )
