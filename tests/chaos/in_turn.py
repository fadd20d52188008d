"""Several pipelines one after another in one process with one Ray, because importing libraries and
starting Ray take longer than a small run.

    python -m tests.chaos.in_turn COMMANDS.json

COMMANDS.json is a list of command lines, each a list of words without `python pipelines/`. A
word `@TEXT` stands for the words that follow TEXT in the last line that contains it, of all that
was printed before. Prints `>>> STATUS COMMAND` after each.
"""

import io
import json
import runpy
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from memlm.jobs.on_ray.cluster import connect
from tests.jobs.running import ROOT, smoke

ENDED = ">>>"


class _Tee(io.TextIOBase):
    """A stream that keeps the printed text and prints it."""

    def __init__(self) -> None:
        self.kept, self.console = io.StringIO(), sys.stdout

    def write(self, text: str) -> int:
        self.kept.write(text)
        return self.console.write(text)

    def flush(self) -> None:
        self.console.flush()

    def words_after(self, text: str) -> list[str]:
        lines = [line for line in self.kept.getvalue().splitlines() if text in line]
        return shlex.split(lines[-1].partition(text)[2])


def run(command: Sequence[str]) -> int:
    """Exit status of `python pipelines/COMMAND`."""
    sys.argv = [str(ROOT / "pipelines" / command[0]), *command[1:]]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def main(commands: Sequence[Sequence[str]]) -> int:
    printed = _Tee()
    sys.stdout = printed
    statuses = []
    with connect(smoke("/nowhere")):
        for command in commands:
            words = [
                word
                for given in command
                for word in (printed.words_after(given[1:]) if given.startswith("@") else [given])
            ]
            began = time.monotonic()
            statuses.append(run(words))
            print(f"{ENDED} {statuses[-1]} {shlex.join(command)} ({time.monotonic() - began:.1f} s)", flush=True)
    return int(any(statuses))


if __name__ == "__main__":
    sys.exit(main(json.loads(Path(sys.argv[1]).read_text())))
