"""`make bench`: measure the rows, write runs/bench/bench.json and growth.png, print the table.

    python -m tests.benchmarks                       # everything
    python -m tests.benchmarks layer_1m counting     # these rows; bench.json then holds them alone
    python -m tests.benchmarks growth                # the picture

Ends with status 0 if every row ran, whether or not it reached its bar; the table and `ok` say
that.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import torch

from tests.benchmarks import growth, report
from tests.benchmarks.gpu_rows import gpu_only_rows
from tests.benchmarks.measure import ContenderError
from tests.benchmarks.report import Record
from tests.benchmarks.rows import Row, table_rows

GROWTH = "growth"
GROWTH_SECONDS = 250
"""Estimate for the points of the picture on two cores."""


def main() -> int:
    # As with Ctrl-C: contenders are ended, and the files that they exchanged are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    planned = [(device, row) for device in devices for row in table_rows(device)]
    planned += [("cuda", row) for row in gpu_only_rows()] if "cuda" in devices else []
    options = _options([row.name for _, row in planned])
    wanted = [(device, row) for device, row in planned if not options.names or row.name in options.names]
    draws = not options.names or GROWTH in options.names
    progress = _Progress(sum(row.seconds for _, row in wanted) + GROWTH_SECONDS * draws)
    # Below the output, because the system's folder for temporary files can be in memory.
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".exchange-", dir=options.output) as folder:
        records = _measure(wanted, Path(folder), options.output / "bench.json", progress)
        if draws:
            _draw_growth(devices[-1], Path(folder), options.output, progress)
    if records:
        print(f"\n{report.table(records)}\n")
        if "cuda" not in devices:
            print(
                "the same rows on a GPU, bytes per second of the read, and a large pretraining step: not measured: no GPU"
            )
        print(report.verdict(records))
    print(f"written to {options.output} in {progress.elapsed:.0f} s")
    return int(any(record["ratio"] is None for record in records))


def _options(names: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Measure memlm next to its peers.")
    parser.add_argument(
        "names", nargs="*", metavar="ROW", help=f"rows to measure (default: all): {', '.join(names)}, {GROWTH}"
    )
    parser.add_argument("--output", type=lambda path: Path(path).absolute(), default=Path("runs/bench").absolute())
    options = parser.parse_args()
    for name in options.names:
        if name not in (*names, GROWTH):
            nearest = get_close_matches(name, [*names, GROWTH], n=1, cutoff=0.0)[0]
            parser.error(f"unknown row {name!r}; did you mean {nearest!r}? Known: {', '.join(names)}, {GROWTH}")
    return options


class _Progress:
    """Print lines with the remaining time: the estimates of the remaining rows, scaled by how long
    the finished ones took."""

    def __init__(self, estimated: float) -> None:
        self.estimated, self.done = estimated, 0.0
        self.began = time.monotonic()

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.began

    def say(self, text: str) -> None:
        print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)

    def advance(self, estimated: float, text: str) -> None:
        self.done += estimated
        left = (self.estimated - self.done) * self.elapsed / self.done
        self.say(f"{text}; {self.elapsed:.0f} s so far, about {left:.0f} s to go")


def _measure(wanted: Sequence[tuple[str, Row]], folder: Path, path: Path, progress: _Progress) -> list[Record]:
    """Run the rows one by one, and write the results after each, so that an interrupted run keeps
    them."""
    records: list[Record] = []
    if wanted:
        progress.say(
            f"{len(wanted)} rows, about {progress.estimated:.0f} s on two cores; load average {os.getloadavg()[0]:.1f}"
        )
    for device, row in wanted:
        machine = report.machine_of(device)
        try:
            records.append(report.record_of(row, row.run(folder), machine))
            text = f"{row.name}: {records[-1]['ratio']:.2f}"
        except ContenderError as error:
            records.append(report.failed_record(row, str(error), machine))
            text = f"{row.name}: not measured: {error}"
        report.write(records, path)
        progress.advance(row.seconds, text)
    return records


def _draw_growth(device: str, folder: Path, output: Path, progress: _Progress) -> None:
    points = growth.measure_growth(device, folder, progress.say)
    (output / "growth.json").write_text(json.dumps(growth.as_json(points), indent=1) + "\n")
    growth.draw(points, output / "growth.png")
    progress.advance(GROWTH_SECONDS, f"growth: {len(points)} points in {output / 'growth.png'}")


if __name__ == "__main__":
    raise SystemExit(main())
