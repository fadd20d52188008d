"""A traced stream as text for the terminal and as a picture. Reads the document that
`stream_metrics` makes and computes nothing new."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

_INK, _FAINT, _GRID = "#1d2733", "#8793a1", "#e6eaef"
_LEARNED, _LIKELIHOOD = "#1f5fd0", "#e08a00"
_HELD_OUT = ("#c2274b", "#2e8b6f", "#7b52ab", "#8a6d3b")


def format_stream(metrics: Mapping[str, Any]) -> str:
    """The result for a terminal, with 95 % intervals over facts."""
    lines = [
        f"stream of {metrics['num_facts']} facts in {metrics['num_steps']} steps of {metrics['method']}, with 95% intervals over facts"
    ]
    lines += ["", f"  {'':30}{'exact match':30}nats per token of the answer"]
    for name in ("start", "right_after", "end", "backward_transfer", "forgetting"):
        cells = [_with_interval(metrics[measure][name]) for measure in ("exact_match", "nats_per_token")]
        lines.append(f"  {name.replace('_', ' '):30}{cells[0]:30}{cells[1]}")
    gap = metrics["paraphrase_gap"]
    for moment, name in (("after", "paraphrase gap"), ("end", "paraphrase gap, at the end")):
        cells = [_with_interval(gap[moment][measure]) for measure in ("exact_match", "nats_per_token")]
        lines.append(f"  {name:30}{cells[0]:30}{cells[1]}")
    lines += ["", "  forgetting by facts learned since"]
    for age in metrics["forgetting_by_age"]:
        label = f"  {age['from_age']} to {age['to_age']}"
        lines.append(f"  {label:30}{_with_interval(age['exact_match']):30}{_with_interval(age['nats_per_token'])}")
    shared = metrics["shared_slots"]
    if shared is not None:
        lines += ["", f"  slots that two facts share (Jaccard) {_with_interval(shared['jaccard'])}"]
        lines += [f"  share of a fact's slots moved again by later ones {_with_interval(shared['rewritten_share'])}"]
        lines += [f"  slots of a fact {shared['slots_per_fact']['mean']:.0f}, of all facts {shared['slots_of_all']}"]
    return "\n".join(lines) + "\n"


def _with_interval(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return "-"
    return f"{value['mean'] + 0.0:.3f} [{value['ci'][0] + 0.0:.3f}, {value['ci'][1] + 0.0:.3f}]"


def draw_stream(metrics: Mapping[str, Any], path: str | Path) -> None:
    """Two panels: the learning curve, and forgetting by the number of facts learned since."""
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    learning, forgetting = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw_curve(learning, metrics)
    _draw_ages(forgetting, metrics)
    for axes in (learning, forgetting):
        axes.tick_params(colors=_INK, labelsize=10, length=0)
        axes.grid(color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[:].set_visible(False)
    figure.suptitle(
        f"{metrics['method'].replace('_', ' ')}: {metrics['num_facts']} facts, one a step",
        x=0.01, ha="left", color=_INK, fontsize=14, weight="bold",
    )  # fmt: skip
    figure.savefig(Path(path), dpi=160)


def _draw_curve(axes: Any, metrics: Mapping[str, Any]) -> None:
    steps = [point["step"] for point in metrics["curve"]]
    right = [point["exact_match"] for point in metrics["curve"]]
    axes.plot(steps, right, color=_LEARNED, linewidth=2.4, marker="o", markersize=4, label="new facts, unseen wording")
    names = list(metrics["curve"][0]["held_out"]) if metrics["curve"] else []
    for number, name in enumerate(names):
        values = [point["held_out"][name] for point in metrics["curve"]]
        style = {"color": _HELD_OUT[number % len(_HELD_OUT)], "linewidth": 1.6, "linestyle": (0, (4, 2))}
        axes.plot(steps, values, **style, label=f"{name.replace('_', ' ')} (held out)")
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_title("Learning curve", loc="left", color=_INK, fontsize=12)
    axes.set_xlabel("steps", color=_INK)
    axes.set_ylabel("exact match", color=_INK)
    nats = axes.twinx()
    nats.plot(
        steps, [point["nats_per_token"] for point in metrics["curve"]],
        color=_LIKELIHOOD, linewidth=1.6, label="new facts: nats per token of the answer (right)",
    )  # fmt: skip
    nats.set_ylim(bottom=0)
    nats.tick_params(colors=_LIKELIHOOD, labelsize=10, length=0)
    nats.spines[:].set_visible(False)
    lines = [*axes.get_lines(), *nats.get_lines()]
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13), "ncols": 2}
    axes.legend(lines, [line.get_label() for line in lines], frameon=False, fontsize=9, labelcolor=_INK, **place)


def _draw_ages(axes: Any, metrics: Mapping[str, Any]) -> None:
    """Two bars per age: exact match, and the likelihood, which moves long before an answer."""
    ages = metrics["forgetting_by_age"]
    axes.set_title("Forgetting by age: lost since right after learning", loc="left", color=_INK, fontsize=12)
    axes.set_xlabel("facts learned since", color=_INK)
    if not ages:
        axes.text(0.5, 0.5, "one fact, nothing after it", transform=axes.transAxes, ha="center", color=_FAINT)
        return
    nats = axes.twinx()
    sides = (
        (axes, "exact_match", _LEARNED, -0.2, 0.1, "exact match"),
        (nats, "nats_per_token", _LIKELIHOOD, 0.2, 0.05, "nats per token of the answer (right)"),
    )
    drawn = []
    for side, measure, color, shift, least, label in sides:
        values = [age[measure] for age in ages]
        means = [value["mean"] for value in values]
        bars = [
            [max(value["mean"] - value["ci"][0], 0) for value in values],
            [max(value["ci"][1] - value["mean"], 0) for value in values],
        ]
        places = [place + shift for place in range(len(ages))]
        style = {"color": color, "ecolor": _FAINT, "width": 0.36, "capsize": 2.5, "label": label}
        drawn.append(side.bar(places, means, yerr=bars, **style))
        side.set_ylim(0, max(least, 1.15 * max(value["ci"][1] for value in values)))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    nats.tick_params(colors=_LIKELIHOOD, labelsize=10, length=0)
    nats.spines[:].set_visible(False)
    axes.set_xticks(range(len(ages)), [f"{age['from_age']}-{age['to_age']}" for age in ages])
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13), "ncols": 1}
    axes.legend(handles=drawn, frameon=False, fontsize=9, labelcolor=_INK, **place)
