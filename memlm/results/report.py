"""How does a sweep's result look: in the terminal, as a picture, as one HTML page?

Reads the document that `frontier.build_frontier` makes and computes nothing new: every number
here is in frontier.json. The page is one file without scripts or anything to fetch, so that it
can be mailed or kept as an artifact.
"""

import base64
import html
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import patheffects
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

PAPER_FORGETTING = {"sparse_memory": 0.11, "lora": 0.71, "full": 0.89}
"""NaturalQuestions F1 lost at the same learning (Lin et al. 2025, arXiv 2510.15103, abstract)."""
HEADLINE_LEARNING = 0.6


class _Look(NamedTuple):
    name: str
    color: str
    marker: str


_LOOKS = {
    "sparse_memory": _Look("Sparse memory", "#1f5fd0", "o"),
    "lora": _Look("LoRA", "#e08a00", "s"),
    "full": _Look("Full finetuning", "#c2274b", "^"),
}
_CONTROL_COLORS = (
    "#5f7a8a",
    "#7b52ab",
    "#2e8b6f",
    "#8a6d3b",
    "#d65f9e",
    "#4aa3c7",
    "#9aa11b",
    "#3b3b3b",
    "#b58bd6",
    "#59b36a",
)
_CONTROL_MARKERS = "DvPX<>hp"
_INK, _FAINT = "#1d2733", "#8793a1"


def _look(frontier: Mapping[str, Any], method: str) -> _Look:
    controls = sorted(name for name in frontier["start"] if name not in _LOOKS)
    if method not in controls:
        return _LOOKS[method]
    number = controls.index(method)
    color, marker = _CONTROL_COLORS[number % len(_CONTROL_COLORS)], _CONTROL_MARKERS[number % len(_CONTROL_MARKERS)]
    return _Look(method.replace("_", " ").capitalize(), color, marker)


def draw_frontier(frontier: Mapping[str, Any], path: str | Path) -> None:
    """The picture; the suffix of the path chooses the format (png, svg, pdf)."""
    _figure(frontier).savefig(Path(path), dpi=160)


def draw_frontiers(frontiers: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Several sweeps side by side, each in a panel of its own: other streams and held-out sets
    share no axis."""
    figure = Figure(figsize=(8.2 * len(frontiers), 5.9), layout="constrained")
    for axes, frontier in zip(figure.subplots(1, len(frontiers), squeeze=False)[0], frontiers, strict=True):
        _draw_axes(axes, frontier)
    figure.savefig(Path(path), dpi=130)


def _figure(frontier: Mapping[str, Any]) -> Figure:
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
        axes.text(0.99, 0.985, note, transform=axes.transAxes, ha="right", va="top", color=_FAINT, fontsize=10)
    seeds = len({seed for point in frontier["points"] for seed in point["seeds"]})
    axes.set_title(
        "What a method forgets for what it learns", loc="left", color=_INK, fontsize=15, weight="bold", pad=26
    )
    detail = f"recipe {frontier['recipe']}, mean over {seeds} seed{'s' * (seeds > 1)}, bars are 95% intervals"
    axes.text(0, 1.025, detail, transform=axes.transAxes, color=_FAINT, fontsize=11)
    axes.set_xlabel("Learning: accuracy on new facts in unseen wordings", color=_INK, fontsize=12)
    axes.set_ylabel("Forgetting: relative drop on held-out sets", color=_INK, fontsize=12)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.tick_params(colors=_INK, labelsize=11, length=0)
    axes.grid(color="#e6eaef", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.axhline(0, color=_FAINT, linewidth=1, zorder=1)
    arrow = {"arrowstyle": "->", "color": _FAINT, "linewidth": 1.3}
    place: dict[str, Any] = {"xy": (0.995, 0.03), "xytext": (0.93, 0.13), "xycoords": "axes fraction", "ha": "center"}
    axes.annotate("better", **place, color=_FAINT, fontsize=11, arrowprops=arrow)
    many = len(frontier["start"]) > 6
    axes.legend(
        loc="upper left",
        frameon=False,
        fontsize=8 if many else 12,
        labelcolor=_INK,
        handlelength=2.2,
        ncols=2 if many else 1,
    )


def _draw_method(axes: Any, frontier: Mapping[str, Any], method: str) -> None:
    look = _look(frontier, method)
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


def _headline(frontier: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return min(frontier["matched"], key=lambda row: abs(row["learning"] - HEADLINE_LEARNING), default=None)


def _draw_headline(axes: Any, frontier: Mapping[str, Any]) -> None:
    """Forgetting at the headline level, written where the lines of the compared methods cross
    it."""
    if (row := _headline(frontier)) is None:
        return
    axes.axvline(row["learning"], color=_FAINT, linewidth=1, linestyle=(0, (4, 4)), zorder=1)
    bottom, top = axes.get_ylim()
    outline = [patheffects.withStroke(linewidth=4, foreground="white")]
    line_height, height = 0.052 * (top - bottom), -math.inf
    compared = [(row["methods"][method]["forgetting"], look.color) for method, look in _LOOKS.items()]
    for forgetting, color in sorted(compared):
        height = max(forgetting + 0.25 * line_height, height + line_height)
        style = {"color": color, "fontsize": 12, "weight": "bold", "path_effects": outline, "zorder": 6}
        axes.text(row["learning"] - 0.012, height, _percent(forgetting), ha="right", va="bottom", **style)


def format_table(frontier: Mapping[str, Any]) -> str:
    """The result for a terminal: every point (`*`: on its method's frontier), then forgetting at
    matched learning."""
    sets = list(frontier["points"][0]["sets"])
    header = ["", "method", "hyperparameters", "learning", "forgetting", *(f"{name} drop" for name in sets)]
    lines = [f"recipe {frontier['recipe']}: learning against forgetting, with 95% intervals", ""]
    lines += [*_columns(header, [_point_cells(frontier, point) for point in frontier["points"]]), ""]
    header, rows = _matched_cells(frontier, PAPER_FORGETTING)
    lines += _columns(header, rows) if frontier["matched"] else ["no level of learning that all compared methods reach"]
    if frontier["failed"]:
        lines += ["", "left out, because learning diverged", *_columns(*_failed_cells(frontier))]
    lines += ["", "start and hypervolume (from learning 0, forgetting 100%; more is better)"]
    return "\n".join([*lines, *_columns(*_start_cells(frontier))]) + "\n"


def _columns(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    table = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    table.insert(1, ["-" * width for width in widths])
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def _point_cells(frontier: Mapping[str, Any], point: Mapping[str, Any]) -> list[str]:
    settings = " ".join(
        f"{name.rsplit('.', 1)[-1]}={_number(point['hyperparameters'][name])}"
        for name in _varying(frontier, point["method"])
    )
    drops = [
        _percent(held_out["drop"]) + ("" if held_out["counted"] else " (left out)")
        for held_out in point["sets"].values()
    ]
    axes = [_with_interval(point[axis], point[f"{axis}_ci"]) for axis in ("learning", "forgetting")]
    return ["*" if point["on_frontier"] else "", _look(frontier, point["method"]).name, settings, *axes, *drops]


def _failed_cells(frontier: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    rows = [
        [
            setting["method"],
            " ".join(
                f"{name.rsplit('.', 1)[-1]}={_number(value)}" for name, value in setting["hyperparameters"].items()
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


def _matched_cells(frontier: Mapping[str, Any], paper: Mapping[str, float]) -> tuple[list[str], list[list[str]]]:
    methods = list(frontier["start"])
    rows = []
    for row in frontier["matched"]:
        found = [row["methods"].get(method) for method in methods]
        cells = [_matched_cell(value) if value else "out of range" for value in found]
        rows.append([_percent(row["learning"], decimals=0), *cells])
    rows.append(["paper", *(_percent(paper.get(method), decimals=0) for method in methods)])
    return ["forgetting at learning", *(_look(frontier, method).name for method in methods)], rows


def _matched_cell(value: Mapping[str, Any]) -> str:
    """Says so where part of the interval rests on resamples that did not learn this much."""
    short = 1 - value["reached"]
    note = f" (short in {_percent(short, decimals=0)} of resamples)" if short > 0.025 else ""
    return _with_interval(value["forgetting"], value["ci"]) + note


def _start_cells(frontier: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    names = list(dict.fromkeys(name for start in frontier["start"].values() for name in start))
    rows = []
    for method, start in frontier["start"].items():
        volume, (low, high) = frontier["hypervolume"][method], frontier["hypervolume_ci"][method]
        cells = [f"{start[name]:.3f}" for name in names]
        rows.append([_look(frontier, method).name, *cells, f"{volume:.3f} [{low:.3f}, {high:.3f}]"])
    return ["method", *(f"{name} at start" for name in names), "hypervolume"], rows


def _percent(share: float | None, *, decimals: int = 1) -> str:
    return "-" if share is None else f"{round(100 * share, decimals) + 0.0:.{decimals}f}%"  # never -0.0


def _with_interval(value: float, interval: Sequence[float]) -> str:
    return f"{_percent(value)} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def _number(value: float | int | str) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


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
    picture = io.BytesIO()
    _figure(frontier).savefig(picture, format="png", dpi=160)
    encoded = base64.b64encode(picture.getvalue()).decode()
    counted, sets = frontier["forgetting_sets"], list(frontier["points"][0]["sets"])
    left_out = [name for name in sets if name not in counted]
    note = f" Left out, since a model starts near chance there: {html.escape(', '.join(left_out))}." if left_out else ""
    points = [_point_cells(frontier, point) for point in frontier["points"]]
    header = ["method", "hyperparameters", "learning", "forgetting", *(f"{name} drop" for name in sets)]
    frontier_rows = [index for index, cells in enumerate(points) if cells[0]]
    commands = [str(stage["command"]) for stage in stages.values() if "command" in stage]
    body = [
        f"<h1>Learning against forgetting</h1><p class=lead>Recipe {html.escape(frontier['recipe'])}. "
        "Learning is accuracy on new facts in wordings never trained on; forgetting is the drop on held-out sets "
        f"relative to the model's own start, the mean over {html.escape(', '.join(counted))}.{note} Intervals are 95% "
        f"percentiles of {frontier['bootstrap']['samples']} bootstrap resamples over seeds and items.</p>",
        _cards(frontier),
        f'<img alt="Forgetting against learning, one line per method" src="data:image/png;base64,{encoded}">',
        "<h2>Forgetting at matched learning</h2>",
        _table(*_matched_cells(frontier, paper)),
        "<p>Linear between two settings of a method's frontier. Paper: loss of NaturalQuestions F1 at the same "
        "learning, another model and scale (Lin et al. 2025, arXiv 2510.15103).</p><h2>Start and hypervolume</h2>",
        _table(*_start_cells(frontier)),
        "<p>Hypervolume: the area that the settings dominate, from learning 0 and forgetting 100%; more is better.</p>",
        "<h2>All settings</h2><p>By method, then learning. In bold: on the method's own frontier.</p>",
        _table(header, [cells[1:] for cells in points], bold=frontier_rows),
        *(
            ["<h2>Left out, because learning diverged</h2>", _table(*_failed_cells(frontier))]
            if frontier["failed"]
            else []
        ),
        "<h2>Stages</h2>",
        _table(*_stage_cells(stages)),
        "<h2>How to repeat this</h2>",
        f"<pre>{html.escape(chr(10).join(commands))}</pre>",
    ]
    head = "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
    title = f"<title>memlm: {html.escape(frontier['recipe'])}</title>"
    page = f"{head}{title}<style>{_STYLE}</style><main>{''.join(body)}</main></html>\n"
    Path(path).write_text(page, encoding="utf-8")


def _cards(frontier: Mapping[str, Any]) -> str:
    """The one sentence a visitor takes away, a box per method."""
    if (row := _headline(frontier)) is None:
        return "<p><b>No level of learning is reached by all compared methods;</b> widen the sweep.</p>"
    boxes = ""
    for method, value in row["methods"].items():
        look = _look(frontier, method)
        low, high = (f"{100 * bound:.1f}" for bound in value["ci"])
        boxes += (
            f"<div style='border-color:{look.color}'>{html.escape(look.name)} forgets<b style='color:{look.color}'>"
        )
        boxes += f"{_percent(value['forgetting'])}</b><small>95% interval {low} to {high}</small></div>"
    return f"<p>At {_percent(row['learning'], decimals=0)} learned:</p><section>{boxes}</section>"


def _stage_cells(stages: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    names = list(dict.fromkeys(name for stage in stages.values() for name in stage if name != "command"))
    rows = []
    for stage, values in stages.items():
        shown = {name: _duration(value) if name == "seconds" else _number(value) for name, value in values.items()}
        rows.append([stage, *(shown.get(name, "-") for name in names)])
    return ["stage", *("time" if name == "seconds" else name for name in names)], rows


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], *, bold: Sequence[int] = ()) -> str:
    head = "".join(f"<th>{html.escape(cell)}" for cell in header)
    body = ""
    for index, row in enumerate(rows):
        body += f"<tr{' class=bold' if index in bold else ''}>" + "".join(f"<td>{html.escape(cell)}" for cell in row)
    return f"<div class=scroll><table><thead><tr>{head}<tbody>{body}</table></div>"


_STYLE = """
body{margin:0;background:#f4f6f8;color:#1d2733;font:16px/1.5 system-ui,sans-serif}
main{max-width:1240px;margin:2rem auto;padding:2rem 3rem;background:#fff;border-radius:12px;box-shadow:0 1px 6px #0002}
h1{margin:0;font-size:1.8rem}h2{margin:2.2rem 0 .6rem;font-size:1.2rem}p{color:#4a5766}.lead{margin-top:.4rem}
img{display:block;width:100%;max-width:980px;margin:1.5rem auto 0}section{display:flex;flex-wrap:wrap;gap:1rem}
section div{flex:1;min-width:9rem;padding:.7rem 1rem;background:#f8fafb;border-left:4px solid;border-radius:6px}
section b{display:block;font-size:1.9rem;line-height:1.2}small{color:#6b7885}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.82rem;font-variant-numeric:tabular-nums}
th,td{padding:.35rem .5rem;border-bottom:1px solid #e6eaef;text-align:left;white-space:nowrap}th{color:#6b7885}
.bold td{font-weight:600}pre{padding:1rem;background:#f4f6f8;border-radius:6px;overflow-x:auto}
"""
