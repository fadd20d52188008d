"""The result of a sweep as one HTML page.

Reads the document that `frontier.build_frontier` makes and computes nothing new: every number
here is in frontier.json. The page is one file without scripts or anything to fetch, so that it
can be mailed or kept as an artifact.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memlm.results.frontier_picture import figure_of
from memlm.results.frontier_tables import (
    PAPERS_SETS,
    failed_cells,
    matched_tables,
    notes,
    number_cell,
    paired_tables,
    percent,
    point_cells,
    points_header,
    reached_note,
    start_cells,
    unmatched,
)
from memlm.results.looks import headline, look_of, title_of
from memlm.results.pages import embedded, write_page


def write_report(
    frontier: Mapping[str, Any],
    path: str | Path,
    *,
    stages: Mapping[str, Mapping[str, Any]],
    paper: Mapping[str, float],
) -> None:
    """One HTML page.

    `stages`: what to show of each; `seconds` is written as a time, `command` under how to repeat
    it. `paper`: the forgetting that the paper reports, by method.
    """
    points = [point_cells(frontier, point) for point in frontier["points"]]
    row = headline(frontier)
    write_page(
        path,
        "report",
        frontier=frontier,
        headline=title_of(frontier["headline_set"]),
        notes=notes(frontier),
        level=percent(row["learning"], decimals=0) if row else "",
        cards=_cards(frontier, row["methods"]) if row else [],
        unmatched="" if row else unmatched(frontier),
        picture=embedded(figure_of(frontier), dpi=160),
        matched=matched_tables(frontier, paper),
        has_paper=any(name in frontier["counted_sets"] for name in PAPERS_SETS),
        paired=paired_tables(frontier, list(dict.fromkeys(row["set"] for row in frontier["paired"]))),
        start=start_cells(frontier),
        settings=(points_header(frontier)[1:], [cells[1:] for cells in points]),
        chosen=[index for index, cells in enumerate(points) if cells[0]],
        failed=failed_cells(frontier),
        provenance=_provenance_lines(frontier["provenance"]),
        stages=_stage_cells(stages),
        commands=[str(stage["command"]) for stage in stages.values() if "command" in stage],
    )


def _cards(frontier: Mapping[str, Any], methods: Mapping[str, Any]) -> list[dict[str, str]]:
    """The one sentence that a visitor remembers, a box per method."""
    cards = []
    for method, value in methods.items():
        look, lost = look_of(frontier, method), value["sets"][frontier["headline_set"]]
        interval = " to ".join(f"{100 * bound:.1f}" for bound in lost["ci"] or ())
        shown = {"lost": percent(lost["forgetting"]), "interval": interval, "reached": reached_note(value["reached"])}
        cards.append({"name": look.name, "color": look.color, **shown})
    return cards


def _provenance_lines(provenance: Mapping[str, Any]) -> list[str]:
    """What the trials were made from, a line per fact."""
    lines = []
    for name, value in provenance.items():
        if isinstance(value, Mapping):
            lines += [f"{name} {line}".strip() for line in _provenance_lines(value)]
        else:
            lines.append(f"{name} {value}")
    return lines


def _stage_cells(stages: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    names = list(dict.fromkeys(name for stage in stages.values() for name in stage if name != "command"))
    rows = []
    for stage, values in stages.items():
        shown = {name: _duration(value) if name == "seconds" else number_cell(value) for name, value in values.items()}
        rows.append([stage, *(shown.get(name, "-") for name in names)])
    return ["stage", *("time" if name == "seconds" else name for name in names)], rows


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
