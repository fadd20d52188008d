"""Sweeps that differ in one number, such as the number of facts or of slots: their points together,
as JSON and as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, ScalarFormatter

from memlm.results.looks import FAINT, INK, look_of
from memlm.results.scores import LEARNING_SET

PANELS = 2


def series_of(recipe: str, field: str, frontiers: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """All points of the sweeps, by the value of the field. The frontiers themselves lie with the
    sweeps."""
    rows = [
        {
            "value": value,
            "method": point["method"],
            "hyperparameters": point["hyperparameters"],
            "seeds": point["seeds"],
            "steps": point["scores"]["steps"],
            "learning": point["learning"],
            "learning_ci": point["learning_ci"],
            "start": frontier["start"][point["method"]],
            "sets": {name: found for name, found in point["sets"].items() if name != LEARNING_SET},
        }
        for value, frontier in frontiers.items()
        for point in frontier["points"]
    ]
    return {
        "recipe": recipe,
        "field": field,
        "headline_set": next(iter(frontiers.values()))["headline_set"],
        "provenance": {str(value): frontier.get("provenance") for value, frontier in frontiers.items()},
        "rows": rows,
    }


def draw_series(series: Mapping[str, Any], path: str | Path) -> None:
    """Learning, and the drop on the headline set, against the value and against the steps where
    they differ; a line for each setting."""
    lines: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in series["rows"]:
        lines.setdefault((row["method"], str(sorted(row["hyperparameters"].items()))), []).append(row)
    axes_of = {"value": series["field"].rpartition(".")[2].replace("_", " ")}
    if len({row["steps"] for row in series["rows"]}) > 1:
        axes_of["steps"] = "steps, one fact each"
    figure = Figure(figsize=(5.2 * len(axes_of), 7.4), layout="constrained")
    grid = figure.subplots(PANELS, len(axes_of), squeeze=False)
    for column, (key, label) in enumerate(axes_of.items()):
        for (method, _), rows in lines.items():
            _draw_line(list(grid[:, column]), method, rows, key, series)
        for axes in grid[:, column]:
            axes.set_xscale("log")
            ticks = sorted({row[key] for row in series["rows"]})
            axes.set_xticks(ticks, labels=[f"{tick:,.0f}" for tick in ticks])
            axes.minorticks_off()
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            axes.set_xlabel(label, color=INK)
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(colors=FAINT)
    grid[0, 0].set_ylabel("Learning: accuracy on new facts", color=INK)
    grid[1, 0].set_ylabel(f"Lost of {series['headline_set'].replace('_', ' ')}", color=INK)
    grid[0, 0].legend(frameon=False)
    figure.savefig(Path(path), dpi=130)


def _draw_line(
    column: Sequence[Any], method: str, rows: Sequence[Mapping[str, Any]], key: str, series: Mapping[str, Any]
) -> None:
    look = look_of({"start": {row["method"]: {} for row in series["rows"]}}, method)
    values = [row[key] for row in rows]
    drops = [row["sets"][series["headline_set"]] for row in rows]
    learning = [(row["learning"], row["learning_ci"]) for row in rows]
    for axes, found in zip(column, (learning, [(drop["drop"], drop["drop_ci"]) for drop in drops]), strict=True):
        middle = [value for value, _ in found]
        ends = [[abs(interval[side] - value) for value, interval in found] for side in (0, 1)]
        axes.errorbar(values, middle, yerr=ends, color=look.color, marker=look.marker, label=look.name, capsize=2)


def format_series(series: Mapping[str, Any]) -> str:
    """A table of the points."""
    headline = series["headline_set"]
    lines = [f"{series['field']:>28} {'method':24} {'steps':>6} {'learning':>9} {'lost of ' + headline:>20}"]
    for row in series["rows"]:
        drop = row["sets"][headline]["drop"]
        lost = "-" if drop is None else f"{drop:.1%}"
        lines.append(f"{row['value']:>28} {row['method']:24} {row['steps']:>6.0f} {row['learning']:>9.3f} {lost:>20}")
    return "\n".join(lines)
