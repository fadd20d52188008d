"""Tables of the documentation that show recorded frontiers. Each stands below a comment that says
what it shows:

    <!-- docs/recorded/X.json: lost known_facts at 0.5 0.7 -->
    <!-- docs/recorded/X.json: lost known_facts of sparse_memory full at 0.5 0.7 -->
    <!-- docs/recorded/X.json: pairs known_facts_nats of lora/full at 0.7 0.8 -->
    <!-- docs/recorded/X.json: points known_facts text of sparse_memory full -->

`lost` is what methods lose of a set at equal learning, `pairs` the ratio of two methods' losses and
their difference, `points` every setting. `python -m tests.results.recorded_tables` writes all
tables anew.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from memlm.results.frontier_tables import paired_cell, percent, point_cells, points_header, reached_note
from memlm.results.looks import look_of, title_of

ROOT = Path(__file__).parents[2]
PLACED = re.compile(
    r"(<!-- (docs/recorded/\S+\.json): (\w+) ([\w ]+?)(?: of ([\w/ ]+?))?(?: at ([\d. ]+))? -->\n\n)(?:(?:\|.*\n)+\n)?"
)

Frontier = Mapping[str, Any]


def pages() -> list[Path]:
    return [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


def with_tables(text: str) -> str:
    """The page with each of its tables made from its recording."""

    def table(found: re.Match[str]) -> str:
        comment, recording, kind, sets, methods, levels = found.groups()
        frontier = json.loads((ROOT / recording).read_text())
        rows = KINDS[kind](
            frontier, sets.split(), (methods or "").split(), [float(each) for each in (levels or "").split()]
        )
        lines = [f"| {' | '.join(row)} |\n" for row in (rows[0], ["---"] * len(rows[0]), *rows[1:])]
        return comment + "".join(lines) + "\n"

    return PLACED.sub(table, text)


def lost(frontier: Frontier, sets: Sequence[str], methods: Sequence[str], levels: Sequence[float]) -> list[list[str]]:
    (name,) = sets
    methods = methods or list(frontier["start"])
    at = {row["learning"]: row["methods"] for row in frontier["matched"] + frontier["partly_matched"]}
    unit = " above chance" if not name.endswith("_nats") and "text" not in name else ""
    rows = [[f"{title_of(name)} lost{unit}, at learning", *(look_of(frontier, method).name for method in methods)]]
    return rows + [
        [f"{level:.1f}", *(_lost(at.get(level, {}).get(method), name) for method in methods)] for level in levels
    ]


def _lost(found: Mapping[str, Any] | None, name: str) -> str:
    if found is None:
        return "not reached"
    drop = found["sets"][name]
    decimals = 2 if name.endswith("_nats") or name.startswith("text") else 1
    low, high = (f"{100 * bound:.{decimals}f}" for bound in drop["ci"])
    return f"{percent(drop['forgetting'], decimals=decimals)} [{low}, {high}]{reached_note(found['reached'])}"


def pairs(frontier: Frontier, sets: Sequence[str], methods: Sequence[str], levels: Sequence[float]) -> list[list[str]]:
    (name,) = sets
    at = {(row["method"], row["against"], row["learning"]): row for row in frontier["paired"] if row["set"] == name}
    unit = "nats per token" if next(iter(at.values()))["unit"] == "nats per token" else "points"
    rows = [[f"{title_of(name)}: ratio, difference ({unit})", *(f"at {level:.1f}" for level in levels)]]
    for pair in methods:
        method, against = pair.split("/")
        cells = [paired_cell(at.get((method, against, level))) for level in levels]
        rows.append([f"{look_of(frontier, method).name} - {look_of(frontier, against).name}", *cells])
    return rows


def points(frontier: Frontier, sets: Sequence[str], methods: Sequence[str], levels: Sequence[float]) -> list[list[str]]:
    header = points_header(frontier)
    shown = [
        header.index(each) for each in ("method", "hyperparameters", "learning", *(f"{name} drop" for name in sets))
    ]
    chosen = [point for point in frontier["points"] if not methods or point["method"] in methods]
    rows = [point_cells(frontier, point) for point in chosen]
    return [[header[column] for column in shown], *([row[column] for column in shown] for row in rows)]


KINDS: Mapping[str, Callable[..., list[list[str]]]] = {"lost": lost, "pairs": pairs, "points": points}


if __name__ == "__main__":
    for page in pages():
        before = page.read_text()
        after = with_tables(before)
        if after != before:
            page.write_text(after)
            print(f"wrote the tables of {page.relative_to(ROOT)}")
