"""Learning against what is lost as a picture: a panel per counted set, a line per method."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import patheffects
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from memlm.results.frontier_tables import percent
from memlm.results.looks import FAINT, INK, LOOKS, counted_of, headline, look_of, title_of

SMALL_ROWS = 2
"""Rows of the small panels next to the large one."""


def draw_frontier(frontier: Mapping[str, Any], path: str | Path) -> None:
    """The picture; the suffix of the path chooses the format (png, svg, pdf)."""
    figure_of(frontier).savefig(Path(path), dpi=160)


def draw_frontiers(frontiers: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Several sweeps side by side, the headline set of each in a panel of its own: other streams
    and held-out sets share no axis."""
    figure = Figure(figsize=(8.2 * len(frontiers), 5.9), layout="constrained")
    for axes, frontier in zip(figure.subplots(1, len(frontiers), squeeze=False)[0], frontiers, strict=True):
        _draw_large(axes, frontier, counted_of(frontier)[0])
    figure.savefig(Path(path), dpi=130)


def figure_of(frontier: Mapping[str, Any]) -> Figure:
    """The headline set large, the other counted sets small next to it. Drawn without pyplot, which
    would keep every figure alive and ask for a display."""
    first, *others = counted_of(frontier)
    columns = math.ceil(len(others) / SMALL_ROWS)
    figure = Figure(figsize=(9 + 3.4 * columns, 5.7), layout="constrained")
    grid = figure.add_gridspec(SMALL_ROWS, 1 + columns, width_ratios=[9, *[3.4] * columns])
    _draw_large(figure.add_subplot(grid[:, 0]), frontier, first)
    for number, name in enumerate(others):
        row, column = number % SMALL_ROWS, 1 + number // SMALL_ROWS
        # A set without another below it has the room of both.
        place = grid[row:, column] if number == len(others) - 1 else grid[row, column]
        _draw_small(figure.add_subplot(place), frontier, name)
    return figure


def _draw_small(axes: Any, frontier: Mapping[str, Any], name: str) -> None:
    _draw_panel(axes, frontier, name, scale=0.6)
    axes.set_title(title_of(name).capitalize(), loc="left", color=INK, fontsize=11, weight="bold")


def _draw_large(axes: Any, frontier: Mapping[str, Any], name: str) -> None:
    _draw_panel(axes, frontier, name, scale=1.0)
    _draw_headline(axes, frontier, name)
    axes.set_title(
        f"What a method loses of {title_of(name)} for what it learns",
        loc="left",
        color=INK,
        fontsize=15,
        weight="bold",
        pad=26,
    )
    axes.text(0, 1.025, _detail(frontier), transform=axes.transAxes, color=FAINT, fontsize=11)
    axes.set_xlabel("Learning: accuracy on new facts in unseen wordings", color=INK, fontsize=12)
    axes.set_ylabel("Lost, of what was known better than chance", color=INK, fontsize=12)
    arrow = {"arrowstyle": "->", "color": FAINT, "linewidth": 1.3}
    place: dict[str, Any] = {"xy": (0.995, 0.03), "xytext": (0.93, 0.13), "xycoords": "axes fraction", "ha": "center"}
    axes.annotate("better", **place, color=FAINT, fontsize=11, arrowprops=arrow)
    many = len(frontier["start"]) > 6
    axes.legend(
        loc="upper left",
        frameon=False,
        fontsize=8 if many else 12,
        labelcolor=INK,
        handlelength=2.2,
        ncols=2 if many else 1,
    )


def _detail(frontier: Mapping[str, Any]) -> str:
    seeds = len({seed for point in frontier["points"] for seed in point["seeds"]})
    checkpoints = len({name for point in frontier["points"] for name in point.get("checkpoints", [""])})
    over = f"{seeds} seed{'s' * (seeds > 1)}" + (f" and {checkpoints} checkpoints" if checkpoints > 1 else "")
    return f"recipe {frontier['recipe']}, mean over {over}, bars are 95% intervals"


def _draw_panel(axes: Any, frontier: Mapping[str, Any], name: str, *, scale: float) -> None:
    """`scale`: of lines, marks and letters."""
    drops = [point["sets"][name] for point in frontier["points"] if point["sets"][name]["drop"] is not None]
    bounds = [bound for each in drops for bound in (each["drop"], *(each["drop_ci"] or ()))]
    # Likelihoods are not clipped and may more than double; one such point must not flatten all
    # others.
    top = min(max([0.02, *bounds]) * 1.05, 1.1)
    lowest = min([0.0, *bounds])
    axes.set(xlim=(0, 1.02), ylim=(max(lowest * 1.05, -0.5) - 0.02 * top, top))
    for method in frontier["start"]:
        _draw_method(axes, frontier, name, method, scale)
    beyond = sum(each["drop"] > top for each in drops)
    if beyond:
        note = f"{beyond} point{'s' * (beyond > 1)} above the picture"
        axes.text(0.99, 0.985, note, transform=axes.transAxes, ha="right", va="top", color=FAINT, fontsize=10)
    decimals = 0 if top > 0.05 else 1
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=decimals))
    axes.tick_params(colors=INK, labelsize=11 if scale == 1 else 9, length=0)
    axes.grid(color="#e6eaef", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.axhline(0, color=FAINT, linewidth=1, zorder=1)


def _draw_method(axes: Any, frontier: Mapping[str, Any], name: str, method: str, scale: float) -> None:
    look = look_of(frontier, method)
    points = [point for point in frontier["points"] if point["method"] == method]
    style = {"marker": look.marker, "color": look.color, "markeredgecolor": "white"}
    for point in points:
        value = point["sets"][name]
        if value["drop"] is None:
            continue
        bars = {
            "xerr": _bars(point["learning"], point["learning_ci"]),
            "yerr": _bars(value["drop"], value["drop_ci"]),
        }
        weight = (
            {"alpha": 1, "markersize": 7 * scale, "zorder": 4}
            if point["on_frontier"]
            else {"alpha": 0.35, "markersize": 4.5 * scale}
        )
        axes.errorbar(point["learning"], value["drop"], **bars, **style, **weight, elinewidth=1.1 * scale)
    chosen = [(point["learning"], point["sets"][name]["drop"]) for point in points if point["on_frontier"]]
    line = [(frontier["start"][method]["learning"], 0.0), *sorted(each for each in chosen if each[1] is not None)]
    marked = {**style, "markersize": 7 * scale, "markevery": slice(1, None)}
    axes.plot(*zip(*line, strict=True), **marked, linewidth=2.2 * scale, zorder=3, label=look.name)


def _bars(value: float, interval: Sequence[float] | None) -> list[list[float]]:
    """Distances as errorbar wants them. A percentile interval may, rarely, end short of the
    value itself."""
    low, high = interval or (value, value)
    return [[max(value - low, 0)], [max(high - value, 0)]]


def _draw_headline(axes: Any, frontier: Mapping[str, Any], name: str) -> None:
    """What is lost at the headline level, written where the lines of the compared methods cross
    it."""
    row = headline(frontier)
    if row is None or not all("sets" in value for value in row["methods"].values()):
        return
    axes.axvline(row["learning"], color=FAINT, linewidth=1, linestyle=(0, (4, 4)), zorder=1)
    bottom, top = axes.get_ylim()
    outline = [patheffects.withStroke(linewidth=4, foreground="white")]
    line_height, height = 0.052 * (top - bottom), -math.inf
    compared = [
        (value["sets"][name]["forgetting"], look_of(frontier, method).color)
        for method, value in row["methods"].items()
        if method in LOOKS or (method in frontier["start"] and len(row["methods"]) <= len(LOOKS) + 2)
    ]
    for lost, color in sorted(compared):
        height = max(lost + 0.25 * line_height, height + line_height)
        style = {"color": color, "fontsize": 12, "weight": "bold", "path_effects": outline, "zorder": 6}
        axes.text(row["learning"] - 0.012, height, percent(lost), ha="right", va="bottom", **style)
