"""Tables of the documentation that show recorded frontiers. Each stands below a comment that says
what it shows:

    <!-- docs/recorded/X.json: lost known_facts at 0.5 0.7 -->
    <!-- docs/recorded/X.json: lost known_facts of sparse_memory full at 0.5 0.7 -->
    <!-- docs/recorded/X.json: pairs known_facts_nats of lora/full at 0.7 0.8 -->
    <!-- docs/recorded/X-frontier.json: sequences -->
    <!-- docs/recorded/X-items.json docs/recorded/Y-items.json: recall of sparse_memory -->

`lost` is what methods lose of a set at equal learning, `pairs` the ratio of two methods' losses and
their difference, `checkpoints` the ratio by each pair of a world and a pretraining alone.
`sequences` are documents that were learned one by one. `recall` compares sweeps that learned the
same facts, each method at the setting that learned most without losing much, with differences to
the first sweep.
`python -m tests.results.recorded_tables` writes all tables anew; with the paths of items files, it
prints their recall.
"""

import itertools
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from memlm.jobs.sweep.drawing import read_items
from memlm.results.comparing.recall import Recall, recalls
from memlm.results.frontier_tables import decimals_of, matched_cell, paired_cell, percent
from memlm.results.looks import look_of, title_of
from memlm.results.sequences import sequence_table

ROOT = Path(__file__).parents[2]
PLACED = re.compile(
    r"(<!-- (docs/recorded/\S+\.json(?: docs/recorded/\S+\.json)*): (\w+)((?: [\w/.]+)*) -->\n\n)(?:(?:\|.*\n)+\n)?"
)

Frontier = Mapping[str, Any]
Rows = list[list[str]]
Table = Callable[[Sequence[Path], Sequence[str]], Rows]


def pages() -> list[Path]:
    return [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


def with_tables(text: str) -> str:
    """The page with each of its tables made from its recording."""

    def table(found: re.Match[str]) -> str:
        comment, recordings, kind, words = found.groups()
        return comment + markdown(KINDS[kind]([ROOT / each for each in recordings.split()], words.split())) + "\n"

    return PLACED.sub(table, text)


def markdown(rows: Rows) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in (rows[0], ["---"] * len(rows[0]), *rows[1:]))


def of_frontier(rows: Callable[[Frontier, str, Sequence[str], Sequence[float]], Rows]) -> Table:
    """A table of one set, at levels of learning."""

    def table(recordings: Sequence[Path], words: Sequence[str]) -> Rows:
        (recording,), ((name,), methods, levels) = recordings, in_parts(words)
        return rows(json.loads(recording.read_text()), name, methods, [float(level) for level in levels])

    return table


def sequences_table(recordings: Sequence[Path], words: Sequence[str]) -> Rows:
    (recording,) = recordings
    table = sequence_table(json.loads(recording.read_text()))
    assert table is not None and not words, f"{recording} has no documents that were learned one by one"
    return [table[0], *table[1]]


def recall_table(recordings: Sequence[Path], words: Sequence[str]) -> Rows:
    _, methods, _ = in_parts(words)
    sweeps = {name_of(each): read_items(str(each)) for each in recordings}
    header = ["", "learned in seen wordings", "in unseen wordings", "difference to the first", "known facts lost"]
    return [header, *(recall_cells(each) for each in recalls(sweeps, methods))]


def recall_cells(row: Recall) -> list[str]:
    look = look_of({"start": {row.method: {}}}, row.method).name
    difference = "" if row.difference is None else f"{100 * row.difference:+.1f} {bounds(row.difference_ci)}"
    return [
        f"{row.sweep}: {look}, rate {row.hyperparameters['optimizer.learning_rate']:g}",
        percent(row.seen),
        f"{percent(row.unseen)} {bounds(row.unseen_ci)}",
        difference,
        f"{percent(row.lost)} {bounds(row.lost_ci)}",
    ]


def bounds(interval: Sequence[float] | None) -> str:
    return "" if interval is None else "[{:.1f}, {:.1f}]".format(*(100 * bound for bound in interval))


def name_of(items: Path) -> str:
    """The name of a sweep: of its recording, or of its run's folder."""
    return items.parent.name if items.name == "items.json" else items.stem.removesuffix("-items")


def in_parts(words: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """The words before `of`, between `of` and `at`, and after `at`."""
    parts: dict[str, list[str]] = {"": [], "of": [], "at": []}
    part = parts[""]
    for word in words:
        if word in parts:
            part = parts[word]
        else:
            part.append(word)
    return parts[""], parts["of"], parts["at"]


def lost(frontier: Frontier, name: str, methods: Sequence[str], levels: Sequence[float]) -> Rows:
    methods = methods or list(frontier["start"])
    at = {row["learning"]: row["methods"] for row in frontier["matched"] + frontier["partly_matched"]}
    held_out = frontier["points"][0]["sets"][name]
    unit = "" if held_out["measure"] == "nats_per_token" else " above chance"
    rows = [[f"{title_of(name)} lost{unit}, at learning", *(look_of(frontier, method).name for method in methods)]]
    for level in levels:
        found = at.get(level, {})
        rows.append(
            [f"{level:.1f}", *(matched_cell(found.get(method), name, decimals_of(held_out)) for method in methods)]
        )
    return rows


def pairs(frontier: Frontier, name: str, methods: Sequence[str], levels: Sequence[float]) -> Rows:
    at = {(row["method"], row["against"], row["learning"]): row for row in frontier["paired"] if row["set"] == name}
    unit = "nats per token" if next(iter(at.values()))["unit"] == "nats per token" else "points"
    rows = [[f"{title_of(name)}: ratio, difference ({unit})", *(f"at {level:.1f}" for level in levels)]]
    for pair in methods:
        method, against = pair.split("/")
        cells = [paired_cell(at.get((method, against, level))) for level in levels]
        rows.append([f"{look_of(frontier, method).name} - {look_of(frontier, against).name}", *cells])
    return rows


def checkpoints(frontier: Frontier, name: str, methods: Sequence[str], levels: Sequence[float]) -> Rows:
    at = {(row["method"], row["against"], row["learning"]): row for row in frontier["paired"] if row["set"] == name}
    names = list(next(iter(at.values()))["by_checkpoint"])
    rows = [[f"{title_of(name)}: ratio", "at learning", *(f"pair {each}" for each in names), "all"]]
    for pair, level in itertools.product(methods, levels):
        method, against = pair.split("/")
        found = at.get((method, against, level), {})
        ratios = [(found.get("by_checkpoint", {}).get(each) or {}).get("ratio") for each in names]
        title = f"{look_of(frontier, method).name} / {look_of(frontier, against).name}"
        cells = ["not reached" if ratio is None else f"{ratio:.2f}" for ratio in [*ratios, found.get("ratio")]]
        rows.append([title, f"{level:.1f}", *cells])
    return rows


KINDS: Mapping[str, Table] = {
    "lost": of_frontier(lost),
    "pairs": of_frontier(pairs),
    "checkpoints": of_frontier(checkpoints),
    "sequences": sequences_table,
    "recall": recall_table,
}


if __name__ == "__main__":
    if paths := [Path(each).absolute() for each in sys.argv[1:]]:
        print(markdown(recall_table(paths, [])))
    for page in pages() if not paths else []:
        before = page.read_text()
        after = with_tables(before)
        if after != before:
            page.write_text(after)
            print(f"wrote the tables of {page.relative_to(ROOT)}")
