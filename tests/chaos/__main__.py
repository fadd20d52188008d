"""`make chaos`: run the rows, write runs/chaos/chaos.json, print the table.

    python -m tests.chaos                                # all rows, about 70 minutes on two cores
    python -m tests.chaos --only s3_faults commit_races  # these rows alone, also in chaos.json
    python -m tests.chaos --small --seed 7               # the tier of `make test-all`, other seed
    python -m tests.chaos --require-all                  # a row that cannot run is a failure

Ends with status 1 if a row misses its bar.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from tests.chaos.frame import Record, Row, find_rows, measure, with_small_tier


def main(known: Sequence[Row], arguments: Sequence[str]) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # rows end what they started
    options = _options([row.name for row in known], arguments)
    rows = [row for row in known if not options.only or row.name in options.only]
    rows = with_small_tier(rows) if options.small and not options.only else rows
    options.output.mkdir(parents=True, exist_ok=True)
    records: list[Record] = []
    for number, row in enumerate(rows, start=1):
        left = sum(_estimate(other, options.small) for other in rows[number - 1 :])
        print(f"[{number}/{len(rows)}] {row.name}: about {left / 60:.1f} min to go with what follows", flush=True)
        records.append(measure(row, options.seed, options.small))
        _write(options.output / "chaos.json", records)  # after each row: a run that is stopped keeps what it has
        print(_line(records[-1]), flush=True)
    missed = [record.what for record in records if not record.ok and not record.skipped]
    print(f"{len(records)} rows, {sum(record.seconds for record in records):.0f} s, in {options.output}/chaos.json")
    skipped = [record.what for record in records if record.skipped]
    print(f"missed their bar: {', '.join(missed)}" if missed else "all rows that ran meet their bars")
    print(f"not run here: {', '.join(skipped)}" if skipped else "none was skipped")
    return int(bool(missed or (options.require_all and skipped)))


def _options(names: Sequence[str], arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Hold memlm to what it promises.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=[], metavar="ROW", help=f"of: {', '.join(names)}")
    parser.add_argument("--small", action="store_true", help="the small tier of each row")
    parser.add_argument("--require-all", action="store_true", help="fail if a row cannot run on this machine")
    parser.add_argument("--output", type=lambda path: Path(path).absolute(), default=Path("runs/chaos").absolute())
    options = parser.parse_args(arguments)
    for name in options.only:
        if name not in names:
            nearest = get_close_matches(name, names, n=1, cutoff=0.0)
            parser.error(f"unknown row {name!r}; did you mean {nearest}? Known: {', '.join(names)}")
    return options


def _estimate(row: Row, small: bool) -> float:
    return row.small_seconds if small else row.seconds


def _write(path: Path, records: Sequence[Record]) -> None:
    partial = path.with_suffix(".partial")
    made = {"made_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    partial.write_text(json.dumps({**made, "rows": [record.to_json() for record in records]}, indent=1))
    partial.rename(path)


def _line(record: Record) -> str:
    if record.skipped:
        return f"    skipped: {record.skipped}"
    verdict = "ok" if record.ok else "MISSED"
    numbers = f"{record.survived} of {record.tries} survived, {record.differences} differences"
    text = f"    {verdict}: {numbers}, {record.seconds:.0f} s (bar: {record.bar})"
    return text + (f"\n{record.error}" if record.error else "")


if __name__ == "__main__":
    sys.exit(main(find_rows(), sys.argv[1:]))
