"""Growth of a step's time and memory with the number of slots, of tokens, and of trainable slots t.

Each point is one of our contenders alone in its process; the plain definition next to it shows
the possible savings.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

from tests.benchmarks.inputs import LayerShape
from tests.benchmarks.measure import Budget, ContenderError, Process, Spec, in_turns
from tests.benchmarks.rows import GROWTH_DISTINCT

HALF_KEYS = (128, 256, 1024, 2048)
TOKENS = (256, 1024, 16384)
TRAINABLE = (50, 500, 5000)
MIDDLE = LayerShape(num_half_keys=512)
BUDGET = Budget(seconds=1.5, fewest=3, most=15)

POOL_STEP = "SMF step on the pool: rank, gradient, update"
WHOLE_STEP = "SMF step with its search and read"
TRAINING_STEP = "pretraining step of the layer, lazy Adam"
PLAIN_STEP = "SMF step on the pool by its plain definition: dense gradient, all rows"
STYLES: dict[str, dict[str, Any]] = {
    POOL_STEP: {"color": "#1b6ca8", "marker": "o"},
    WHOLE_STEP: {"color": "#5aa9d6", "marker": "s"},
    TRAINING_STEP: {"color": "#2a7f4f", "marker": "^"},
    PLAIN_STEP: {"color": "#b03a2e", "marker": "x", "linestyle": "--"},
}


@dataclass(frozen=True, kw_only=True)
class Point:
    """One contender at one size."""

    axis: str
    """The axis that varies: slots, tokens or t."""
    size: int
    step: str
    milliseconds: float
    working_mib: float
    """Peak that the steps added to the memory before the first one, which holds the pool and the
    background counts. With lazy Adam it includes the moments of the rows read so far, whose memory
    the system provides when they are first written."""


@dataclass(frozen=True, kw_only=True)
class _Measured:
    axis: str
    size: int
    spec: Spec


def planned_points(device: str) -> list[_Measured]:
    """All points of the plot. A step of sparse memory finetuning reads the same number of distinct
    slots in each pool."""
    plan = []
    for num_half_keys in HALF_KEYS:
        shape = LayerShape(num_half_keys=num_half_keys)
        for build in (_pool, _whole, _training, _plain):
            plan.append(_Measured(axis="slots", size=shape.num_slots, spec=build(shape, device)))
    for num_tokens in TOKENS:
        shape = LayerShape(num_half_keys=MIDDLE.num_half_keys, num_tokens=num_tokens)
        for build in (_pool, _whole, _training):
            plan.append(_Measured(axis="tokens", size=num_tokens, spec=build(shape, device)))
    return [*plan, *(_Measured(axis="t", size=t, spec=_pool(MIDDLE, device, t=t)) for t in TRAINABLE)]


def _arguments(shape: LayerShape, device: str, t: int) -> dict[str, Any]:
    return {"device": device, "num_trainable_slots": t, "distinct": GROWTH_DISTINCT, "layer": shape.json()}


def _pool(shape: LayerShape, device: str, *, t: int = 500) -> Spec:
    return Spec(
        name=POOL_STEP,
        contender="contenders.sparse_steps:OurPoolStep",
        arguments=_arguments(shape, device, t),
        needs_bytes=int(1.5 * shape.table_bytes),
    )


def _whole(shape: LayerShape, device: str) -> Spec:
    pool = _pool(shape, device)
    return replace(pool, name=WHOLE_STEP, arguments={**pool.arguments, "whole": True})


def _plain(shape: LayerShape, device: str) -> Spec:
    return Spec(
        name=PLAIN_STEP,
        contender="contenders.sparse_steps:PlainPoolStep",
        arguments=_arguments(shape, device, 500),
        needs_bytes=int(2.5 * shape.table_bytes),
    )


def _training(shape: LayerShape, device: str) -> Spec:
    return Spec(
        name=TRAINING_STEP,
        contender="contenders.layers:OurLayer",
        arguments={"device": device, **shape.json()},
        needs_bytes=int(3.5 * shape.table_bytes),
    )


def measure_growth(device: str, folder: Path, say: Callable[[str], None]) -> list[Point]:
    """Measure all points; one whose tables do not fit in memory is left out with a message."""
    points: list[Point] = []
    plan = planned_points(device)
    for number, measured in enumerate(plan, start=1):
        what = f"growth {number}/{len(plan)}: {measured.size:,} {measured.axis}: {measured.spec.name}"
        try:
            points.append(_point(measured, folder))
        except ContenderError as error:
            say(f"{what}: left out: {error}")
            continue
        say(f"{what}: {points[-1].milliseconds:.1f} ms, {points[-1].working_mib:.0f} MiB")
    return points


def _point(measured: _Measured, folder: Path) -> Point:
    with Process(measured.spec, folder) as process:
        (timing,) = in_turns([process], BUDGET)
        working_bytes = process.ask("memory")["working_bytes"]
    return Point(
        axis=measured.axis,
        size=measured.size,
        step=measured.spec.name,
        milliseconds=1e3 * (timing.median + sum(timing.aside.values())),
        working_mib=working_bytes / 2**20,
    )


def draw(points: Sequence[Point], path: Path) -> None:
    """Draw time above and memory below, with a column per axis."""
    shape = MIDDLE
    columns = {
        "slots": f"slots ({shape.num_tokens:,} tokens, t 500)",
        "tokens": f"tokens ({shape.num_slots:,} slots, t 500)",
        "t": f"trainable slots t ({shape.num_slots:,} slots, {shape.num_tokens:,} tokens)",
    }
    figure, axes = pyplot.subplots(2, 3, figsize=(13, 7), sharex="col", sharey="row", layout="constrained")
    for column, (axis, label) in enumerate(columns.items()):
        here = [point for point in points if point.axis == axis]
        _draw_lines(axes[0, column], here, lambda point: point.milliseconds)
        _draw_lines(axes[1, column], here, lambda point: point.working_mib)
        axes[1, column].set_xlabel(label)
        _label_sizes(axes[1, column], axis, sorted({point.size for point in here}))
    axes[0, 0].set_ylabel("time of a step, ms")
    axes[1, 0].set_ylabel("memory that steps add\nbeyond the pool, MiB")
    handles = {
        label: handle for axes_ in axes.flat for handle, label in zip(*axes_.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _draw_lines(axes: Axes, points: Sequence[Point], value: Callable[[Point], float]) -> None:
    for step, style in STYLES.items():
        mine = sorted((point for point in points if point.step == step), key=lambda point: point.size)
        if mine:
            axes.plot([point.size for point in mine], [value(point) for point in mine], label=step, **style)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(alpha=0.25, which="major")
    axes.spines[["top", "right"]].set_visible(False)


def _label_sizes(axes: Axes, axis: str, sizes: Sequence[int]) -> None:
    def name(size: int) -> str:
        return f"$2^{{{size.bit_length() - 1}}}$" if axis == "slots" else f"{size:,}"

    axes.set_xticks(sizes, [name(size) for size in sizes])
    axes.minorticks_off()


def as_json(points: Sequence[Point]) -> list[dict[str, Any]]:
    return [asdict(point) for point in points]
