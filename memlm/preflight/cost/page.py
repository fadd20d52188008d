"""Page of a plan: lines of quantities, a column for each layout, and the growth of each line."""

import math
from collections.abc import Sequence
from typing import Any

from memlm.preflight.cost.growth import growth
from memlm.preflight.cost.stages import Assumptions, Plan, Quantity

PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
WRITTEN_OUT = ("s", "h", "min", "device-h", "core-h")
FITS, SHARES = "fits", ("goodput", "utilisation over the whole step")


def as_page(recipe: str, plans: Sequence[Plan]) -> str:
    """Page for people. Lines that are zero in every column are left out; the growth is that of the
    first column."""
    grows = growth(plans[0])
    columns = [{(line.section, line.name): line for line in plan.quantities()} for plan in plans]
    lines: list[list[str]] = []
    shown = ""
    for section, name in dict.fromkeys(key for column in columns for key in column):
        row = [column.get((section, name)) for column in columns]
        if name != FITS and not any(line and line.value for line in row):
            continue
        if section != shown:
            lines += [[""] * (len(plans) + 2), [section, *[""] * len(plans), "" if lines else "grows with"]]
            shown = section
        lines.append(
            [f"  {name}", *("" if line is None else _shown(line) for line in row), grows.get((section, name), "")]
        )
    machine = plans[0].memory.machine
    notes = [*_stated(plans[0].assumptions), *(f"{_name(plan)}: {note}" for plan in plans for note in plan.notes)]
    listed = "\n".join(f"- {note}" for note in notes)
    return f"{recipe} on {machine.name} ({machine.source})\n{_aligned(lines)}\n\n{listed}"


def as_json(recipe: str, plans: Sequence[Plan]) -> dict[str, Any]:
    """The same plan for programs; infinite values are null."""
    return {
        "recipe": recipe,
        "machine": plans[0].memory.machine.name,
        "utilisation": plans[0].assumptions.utilisation,
        "failures_per_gpu_hour": plans[0].assumptions.failures_per_gpu_hour,
        "columns": [
            {
                "gpus": plan.memory.layout.devices,
                "slots": plan.config.model.memory.num_slots,
                "tokens": plan.memory.num_tokens,
                "notes": list(plan.notes),
                "quantities": [_entry(line, grows) for line in plan.quantities()],
            }
            for plan in plans
            for grows in [growth(plan)]
        ],
    }


def _entry(line: Quantity, grows: dict[tuple[str, str], str]) -> dict[str, Any]:
    return {
        "section": line.section,
        "name": line.name,
        "value": line.value if math.isfinite(line.value) else None,
        "unit": line.unit,
        "grows_with": grows[line.section, line.name],
    }


def _name(plan: Plan) -> str:
    return f"{plan.memory.layout.devices} devices, {_number(plan.config.model.memory.num_slots)} slots"


def _shown(line: Quantity) -> str:
    if line.name == FITS:
        return "yes" if line.value else "NO"
    if math.isinf(line.value):
        return "endless"
    if line.name in SHARES:
        return f"{line.value:.1%}"
    if line.unit in WRITTEN_OUT:
        return f"{line.value:,.0f} {line.unit}" if line.value >= 100 else f"{line.value:.3g} {line.unit}"
    return f"{_number(line.value)}{' ' if line.unit and line.value < 1e3 else ''}{line.unit}"


def _number(value: float) -> str:
    for size, prefix in PREFIXES:
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}" if value < 999.5 * size else f"{value / size:,.0f} {prefix}"
    return f"{value:.3g}"


def _stated(assumptions: Assumptions) -> list[str]:
    failure = assumptions.failures_per_gpu_hour
    rate = f"one failure in {1 / failure:,.0f} GPU-hours" if failure else "no failures"
    return [
        f"assumed, not measured: {assumptions.utilisation:.0%} of the peak while multiplying; {rate}",
        "bytes are decimal: 1 GB = 1e9 B; device hours ignore failures, except for pretraining of the memory model",
    ]


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    rows = []
    for line in lines:
        cells = [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:-1], widths[1:-1], strict=True)),
        ]
        rows.append("  ".join([*cells, line[-1]]).rstrip())
    return "\n".join(rows)
