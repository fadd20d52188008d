"""The result of a sweep as tables of text, for a terminal and for the report."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from memlm.results.looks import look_of

PAPER_FORGETTING = {"sparse_memory": 0.11, "lora": 0.71, "full": 0.89}
"""NaturalQuestions F1 lost at the same learning (Lin et al. 2025, arXiv 2510.15103, abstract)."""


def format_table(frontier: Mapping[str, Any]) -> str:
    """The result for a terminal: every point (`*`: on its method's frontier), then forgetting at
    matched learning."""
    sets = list(frontier["points"][0]["sets"])
    header = ["", "method", "hyperparameters", "learning", "forgetting", *(f"{name} drop" for name in sets)]
    lines = [f"recipe {frontier['recipe']}: learning against forgetting, with 95% intervals", ""]
    lines += [*_columns(header, [point_cells(frontier, point) for point in frontier["points"]]), ""]
    header, rows = matched_cells(frontier, PAPER_FORGETTING)
    lines += _columns(header, rows) if frontier["matched"] else ["no level of learning that all compared methods reach"]
    if frontier["failed"]:
        lines += ["", "left out, because learning diverged", *_columns(*failed_cells(frontier))]
    lines += ["", "start and hypervolume (from learning 0, forgetting 100%; more is better)"]
    return "\n".join([*lines, *_columns(*start_cells(frontier))]) + "\n"


def _columns(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    table = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    table.insert(1, ["-" * width for width in widths])
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def point_cells(frontier: Mapping[str, Any], point: Mapping[str, Any]) -> list[str]:
    settings = " ".join(
        f"{name.rsplit('.', 1)[-1]}={number_cell(point['hyperparameters'][name])}"
        for name in _varying(frontier, point["method"])
    )
    drops = [
        percent(held_out["drop"]) + ("" if held_out["counted"] else " (left out)")
        for held_out in point["sets"].values()
    ]
    axes = [_with_interval(point[axis], point[f"{axis}_ci"]) for axis in ("learning", "forgetting")]
    return ["*" if point["on_frontier"] else "", look_of(frontier, point["method"]).name, settings, *axes, *drops]


def failed_cells(frontier: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    rows = [
        [
            setting["method"],
            " ".join(
                f"{name.rsplit('.', 1)[-1]}={number_cell(value)}" for name, value in setting["hyperparameters"].items()
            ),
            " ".join(map(str, setting["seeds"])),
            setting["reason"],
        ]
        for setting in frontier["failed"]
    ]
    return ["method", "hyperparameters", "seeds", "what happened"], rows


def _varying(frontier: Mapping[str, Any], method: str) -> list[str]:
    """The hyperparameters in which a method's points differ; all of them for a method of one
    point."""
    settings = [point["hyperparameters"] for point in frontier["points"] if point["method"] == method]
    varying = [name for name in settings[0] if len({setting.get(name) for setting in settings}) > 1]
    return varying or list(settings[0])


def matched_cells(frontier: Mapping[str, Any], paper: Mapping[str, float]) -> tuple[list[str], list[list[str]]]:
    methods = list(frontier["start"])
    rows = []
    for row in frontier["matched"]:
        found = [row["methods"].get(method) for method in methods]
        cells = [_matched_cell(value) if value else "out of range" for value in found]
        rows.append([percent(row["learning"], decimals=0), *cells])
    rows.append(["paper", *(percent(paper.get(method), decimals=0) for method in methods)])
    return ["forgetting at learning", *(look_of(frontier, method).name for method in methods)], rows


def _matched_cell(value: Mapping[str, Any]) -> str:
    """One cell, with a note if part of the interval rests on resamples that did not learn this
    much."""
    short = 1 - value["reached"]
    note = f" (short in {percent(short, decimals=0)} of resamples)" if short > 0.025 else ""
    return _with_interval(value["forgetting"], value["ci"]) + note


def start_cells(frontier: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    names = list(dict.fromkeys(name for start in frontier["start"].values() for name in start))
    rows = []
    for method, start in frontier["start"].items():
        volume, (low, high) = frontier["hypervolume"][method], frontier["hypervolume_ci"][method]
        cells = [f"{start[name]:.3f}" for name in names]
        rows.append([look_of(frontier, method).name, *cells, f"{volume:.3f} [{low:.3f}, {high:.3f}]"])
    return ["method", *(f"{name} at start" for name in names), "hypervolume"], rows


def percent(share: float | None, *, decimals: int = 1) -> str:
    return "-" if share is None else f"{round(100 * share, decimals) + 0.0:.{decimals}f}%"  # never -0.0


def _with_interval(value: float, interval: Sequence[float]) -> str:
    return f"{percent(value)} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def number_cell(value: float | int | str) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
