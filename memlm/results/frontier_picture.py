"""Learning against forgetting as a picture, one line per method."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import patheffects
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from memlm.results.frontier_tables import percent
from memlm.results.looks import FAINT, INK, LOOKS, headline, look_of


def draw_frontier(frontier: Mapping[str, Any], path: str | Path) -> None:
    """The picture; the suffix of the path chooses the format (png, svg, pdf)."""
    figure_of(frontier).savefig(Path(path), dpi=160)


def draw_frontiers(frontiers: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Several sweeps side by side, each in a panel of its own: other streams and held-out sets
    share no axis."""
    figure = Figure(figsize=(8.2 * len(frontiers), 5.9), layout="constrained")
    for axes, frontier in zip(figure.subplots(1, len(frontiers), squeeze=False)[0], frontiers, strict=True):
        _draw_axes(axes, frontier)
    figure.savefig(Path(path), dpi=130)


def figure_of(frontier: Mapping[str, Any]) -> Figure:
    """Drawn without pyplot, which would keep every figure alive and ask for a display."""
    figure = Figure(figsize=(9, 5.7), layout="constrained")
    _draw_axes(figure.add_subplot(), frontier)
    return figure


def _draw_axes(axes: Any, frontier: Mapping[str, Any]) -> None:
    # Likelihoods are not clipped and may more than double; one such point must not flatten all
    # others.
    highest = max([0.2, *(bound for p in frontier["points"] for bound in (p["forgetting"], p["forgetting_ci"][1]))])
    lowest = min([0.0, *(bound for p in frontier["points"] for bound in (p["forgetting"], p["forgetting_ci"][0]))])
    top = min(highest * 1.05, 1.1)
    axes.set(xlim=(0, 1.02), ylim=(max(lowest * 1.05, -0.5) - 0.02 * top, top))
    for method in frontier["start"]:
        _draw_method(axes, frontier, method)
    _draw_headline(axes, frontier)
    beyond = sum(point["forgetting"] > top for point in frontier["points"])
    if beyond:
        note = f"{beyond} point{'s' * (beyond > 1)} above the picture"
        axes.text(0.99, 0.985, note, transform=axes.transAxes, ha="right", va="top", color=FAINT, fontsize=10)
    seeds = len({seed for point in frontier["points"] for seed in point["seeds"]})
    axes.set_title(
        "What a method forgets for what it learns", loc="left", color=INK, fontsize=15, weight="bold", pad=26
    )
    detail = f"recipe {frontier['recipe']}, mean over {seeds} seed{'s' * (seeds > 1)}, bars are 95% intervals"
    axes.text(0, 1.025, detail, transform=axes.transAxes, color=FAINT, fontsize=11)
    axes.set_xlabel("Learning: accuracy on new facts in unseen wordings", color=INK, fontsize=12)
    axes.set_ylabel("Forgetting: relative drop on held-out sets", color=INK, fontsize=12)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.tick_params(colors=INK, labelsize=11, length=0)
    axes.grid(color="#e6eaef", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.axhline(0, color=FAINT, linewidth=1, zorder=1)
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


def _draw_method(axes: Any, frontier: Mapping[str, Any], method: str) -> None:
    look = look_of(frontier, method)
    points = [point for point in frontier["points"] if point["method"] == method]
    for point in points:
        bars = {
            f"{a}err": _bars(point[axis], point[f"{axis}_ci"]) for a, axis in (("x", "learning"), ("y", "forgetting"))
        }
        weight = (
            {"alpha": 1, "markersize": 7, "zorder": 4} if point["on_frontier"] else {"alpha": 0.35, "markersize": 4.5}
        )
        style = {"marker": look.marker, "color": look.color, "markeredgecolor": "white", "elinewidth": 1.1}
        axes.errorbar(point["learning"], point["forgetting"], **bars, **style, **weight)
    line = sorted((point["learning"], point["forgetting"]) for point in points if point["on_frontier"])
    style = {"marker": look.marker, "markersize": 7, "markeredgecolor": "white", "color": look.color}
    axes.plot(*zip(*line, strict=True), **style, linewidth=2.2, zorder=3, label=look.name)


def _bars(value: float, interval: Sequence[float]) -> list[list[float]]:
    """Distances as errorbar wants them. A percentile interval may, rarely, end short of the
    value itself."""
    return [[max(value - interval[0], 0)], [max(interval[1] - value, 0)]]


def _draw_headline(axes: Any, frontier: Mapping[str, Any]) -> None:
    """Forgetting at the headline level, written where the lines of the compared methods cross
    it."""
    if (row := headline(frontier)) is None:
        return
    axes.axvline(row["learning"], color=FAINT, linewidth=1, linestyle=(0, (4, 4)), zorder=1)
    bottom, top = axes.get_ylim()
    outline = [patheffects.withStroke(linewidth=4, foreground="white")]
    line_height, height = 0.052 * (top - bottom), -math.inf
    compared = [(row["methods"][method]["forgetting"], look.color) for method, look in LOOKS.items()]
    for forgetting, color in sorted(compared):
        height = max(forgetting + 0.25 * line_height, height + line_height)
        style = {"color": color, "fontsize": 12, "weight": "bold", "path_effects": outline, "zorder": 6}
        axes.text(row["learning"] - 0.012, height, percent(forgetting), ha="right", va="bottom", **style)
