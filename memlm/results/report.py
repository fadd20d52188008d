"""The result of a sweep as one HTML page.

Reads the document that `frontier.build_frontier` makes and computes nothing new: every number
here is in frontier.json. The page is one file without scripts or anything to fetch, so that it
can be mailed or kept as an artifact.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memlm.results.frontier_picture import figure_of
from memlm.results.frontier_tables import failed_cells, matched_cells, number_cell, percent, point_cells, start_cells
from memlm.results.looks import headline, look_of
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
    sets = list(frontier["points"][0]["sets"])
    points = [point_cells(frontier, point) for point in frontier["points"]]
    header = ["method", "hyperparameters", "learning", "forgetting", *(f"{name} drop" for name in sets)]
    row = headline(frontier)
    write_page(
        path,
        "report",
        frontier=frontier,
        left_out=[name for name in sets if name not in frontier["forgetting_sets"]],
        level=percent(row["learning"], decimals=0) if row else "",
        cards=_cards(frontier, row["methods"]) if row else [],
        picture=embedded(figure_of(frontier), dpi=160),
        matched=matched_cells(frontier, paper),
        start=start_cells(frontier),
        settings=(header, [cells[1:] for cells in points]),
        on_frontier=[index for index, cells in enumerate(points) if cells[0]],
        failed=failed_cells(frontier),
        stages=_stage_cells(stages),
        commands=[str(stage["command"]) for stage in stages.values() if "command" in stage],
    )


def _cards(frontier: Mapping[str, Any], methods: Mapping[str, Any]) -> list[dict[str, str]]:
    """The one sentence that a visitor remembers, a box per method."""
    cards = []
    for method, value in methods.items():
        look, (low, high) = look_of(frontier, method), (f"{100 * bound:.1f}" for bound in value["ci"])
        forgetting = percent(value["forgetting"])
        cards.append({"name": look.name, "color": look.color, "forgetting": forgetting, "low": low, "high": high})
    return cards


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
