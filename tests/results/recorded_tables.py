"""Tables of the documentation that show recorded frontiers. Each stands below a comment that says
what it shows:

    <!-- docs/recorded/X.json: lost known_facts at 0.5 0.7 -->
    <!-- docs/recorded/X.json: lost known_facts of sparse_memory full at 0.5 0.7 -->
    <!-- docs/recorded/X.json: pairs known_facts_nats of lora/full at 0.7 0.8 -->

`lost` is what methods lose of a set at equal learning, `pairs` the ratio of two methods' losses and
their difference, `checkpoints` the ratio by each pair of a world and a pretraining alone.
`python -m tests.results.recorded_tables` writes all tables anew.
"""

import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from memlm.results.frontier_tables import decimals_of, matched_cell, paired_cell
from memlm.results.looks import look_of, title_of

ROOT = Path(__file__).parents[2]
PLACED = re.compile(
    r"(<!-- (docs/recorded/\S+\.json): (lost|pairs|checkpoints) (\w+)(?: of ([\w/ ]+?))? at ([\d. ]+) -->\n\n)(?:(?:\|.*\n)+\n)?"
)

Frontier = Mapping[str, Any]


def pages() -> list[Path]:
    return [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


def with_tables(text: str) -> str:
    """The page with each of its tables made from its recording."""

    def table(found: re.Match[str]) -> str:
        comment, recording, kind, name, methods, levels = found.groups()
        frontier = json.loads((ROOT / recording).read_text())
        rows = KINDS[kind](frontier, name, (methods or "").split(), [float(each) for each in levels.split()])
        lines = [f"| {' | '.join(row)} |\n" for row in (rows[0], ["---"] * len(rows[0]), *rows[1:])]
        return comment + "".join(lines) + "\n"

    return PLACED.sub(table, text)


def lost(frontier: Frontier, name: str, methods: Sequence[str], levels: Sequence[float]) -> list[list[str]]:
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


def pairs(frontier: Frontier, name: str, methods: Sequence[str], levels: Sequence[float]) -> list[list[str]]:
    at = {(row["method"], row["against"], row["learning"]): row for row in frontier["paired"] if row["set"] == name}
    unit = "nats per token" if next(iter(at.values()))["unit"] == "nats per token" else "points"
    rows = [[f"{title_of(name)}: ratio, difference ({unit})", *(f"at {level:.1f}" for level in levels)]]
    for pair in methods:
        method, against = pair.split("/")
        cells = [paired_cell(at.get((method, against, level))) for level in levels]
        rows.append([f"{look_of(frontier, method).name} - {look_of(frontier, against).name}", *cells])
    return rows


def checkpoints(frontier: Frontier, name: str, methods: Sequence[str], levels: Sequence[float]) -> list[list[str]]:
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


KINDS: Mapping[str, Callable[..., list[list[str]]]] = {
    "lost": lost,
    "pairs": pairs,
    "checkpoints": checkpoints,
}


if __name__ == "__main__":
    for page in pages():
        before = page.read_text()
        after = with_tables(before)
        if after != before:
            page.write_text(after)
            print(f"wrote the tables of {page.relative_to(ROOT)}")
