"""`make infra-test`: run the rows, write runs/infra/infra.json, print the table.

    python -m tests.infra                          # everything, at most 15 minutes on two cores
    python -m tests.infra --only iam checkov       # these rows; infra.json then holds them alone

Ends with status 1 if a row misses its bar. A row that cannot run here is skipped, says why, and
misses nothing.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from tests.infra.frame import Record, Row, find_rows, measure


def main(known: Sequence[Row], arguments: Sequence[str]) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # rows end what they started
    options = _options([row.name for row in known], arguments)
    rows = [row for row in known if not options.only or row.name in options.only]
    options.output.mkdir(parents=True, exist_ok=True)
    records: list[Record] = []
    for number, row in enumerate(rows, start=1):
        left = sum(other.seconds for other in rows[number - 1 :])
        print(f"[{number}/{len(rows)}] {row.name}: about {left / 60:.1f} min to go with what follows", flush=True)
        records.append(measure(row))
        _write(options.output / "infra.json", records)  # after each row: a run that is stopped keeps what it has
        print(_line(records[-1]), flush=True)
    missed = [record.what for record in records if record.missed]
    print(f"{len(records)} rows, {sum(record.seconds for record in records):.0f} s, in {options.output}/infra.json")
    print(f"missed their bar: {', '.join(missed)}" if missed else "all rows that ran meet their bars")
    return int(bool(missed))


def _options(names: Sequence[str], arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.infra", description="Hold infra/ to what it says.")
    parser.add_argument("--only", nargs="+", default=[], metavar="ROW", help=f"of: {', '.join(names)}")
    parser.add_argument("--output", type=lambda path: Path(path).absolute(), default=Path("runs/infra").absolute())
    options = parser.parse_args(arguments)
    for name in options.only:
        if name not in names:
            nearest = get_close_matches(name, names, n=1, cutoff=0.0)
            parser.error(f"unknown row {name!r}; did you mean {nearest}? Known: {', '.join(names)}")
    return options


def _write(path: Path, records: Sequence[Record]) -> None:
    partial = path.with_suffix(".partial")
    made = {"made_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    partial.write_text(json.dumps({**made, "rows": [record.to_json() for record in records]}, indent=1))
    partial.rename(path)


def _line(record: Record) -> str:
    verdict = "MISSED" if record.missed else "skipped" if record.skipped else "ok"
    text = f"    {verdict}: {record.skipped or record.measured}, {record.seconds:.0f} s (bar: {record.bar})"
    return text + (f"\n{record.error}" if record.error else "")


if __name__ == "__main__":
    sys.exit(main(find_rows(), sys.argv[1:]))
