"""Rows of `make infra-test`, which check the promises of infra/.

    frame.py         what a row is, how rows are found, what one run of a row comes to
    __main__.py      `python -m tests.infra`: run rows, write runs/infra/infra.json
    offline.py       Terraform without a cloud; provider/ is the AWS provider that it then uses
    stack.py         environments that are applied, and what is in their state
    iam.py           IAM's decisions; contract.py what must hold of every applied environment
    test_*.py        the quick part of it, inside `make test`
    any other        rows, found by being here

A row's module offers `ROWS`. A row that cannot run here raises Unavailable, with the reason and
the remedy, and is skipped.
"""

import importlib
import pkgutil
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import tests.infra.rows
from tests.infra.offline import Unavailable


@dataclass(frozen=True, kw_only=True)
class Outcome:
    ok: bool  # the bar is met
    measured: str  # in words, next to the bar
    details: dict[str, Any] = field(default_factory=dict)  # further facts for the reader


@dataclass(frozen=True, kw_only=True)
class Row:
    name: str
    bar: str
    run: Callable[[], Outcome]
    seconds: float  # estimate on two cores


@dataclass(frozen=True, kw_only=True)
class Record:
    """A line of infra.json. A skipped row is not ok, and fails nothing."""

    what: str
    bar: str
    measured: str
    ok: bool
    skipped: str | None  # the reason why it could not run here
    seconds: float
    details: dict[str, Any]
    error: str | None = None  # the traceback, if the row itself failed

    @property
    def missed(self) -> bool:
        return not self.ok and self.skipped is None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def find_rows() -> list[Row]:
    """The rows of every module in rows/, cheapest first."""
    modules = [
        importlib.import_module(f"tests.infra.rows.{found.name}")
        for found in pkgutil.iter_modules(tests.infra.rows.__path__)
    ]
    rows = [row for module in modules for row in getattr(module, "ROWS", [])]
    return sorted(rows, key=lambda row: (row.seconds, row.name))


def measure(row: Row) -> Record:
    began, skipped, error = time.monotonic(), None, None
    try:
        outcome = row.run()
    except Unavailable as reason:
        skipped, outcome = str(reason), Outcome(ok=False, measured="not run here")
    except Exception:  # the other rows still run; the record says what happened here
        error, outcome = traceback.format_exc(), Outcome(ok=False, measured="the row itself failed")
    return Record(
        what=row.name,
        bar=row.bar,
        measured=outcome.measured,
        ok=outcome.ok,
        skipped=skipped,
        seconds=round(time.monotonic() - began, 1),
        details=outcome.details,
        error=error,
    )
