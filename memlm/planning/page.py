"""A plan as a page to read: lines of quantities, a column for each layout, and how each line grows."""

import math
from collections.abc import Sequence
from typing import Any

from memlm.planning.stages import Assumptions, Plan, Quantity, growth

PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
UNITS_WRITTEN_OUT = ("s", "GPU-h")


def as_page(recipe: str, plans: Sequence[Plan]) -> str:
    """Raises nothing: what cannot be planned was refused before."""
    grows = growth(plans[0])
    names = dict.fromkeys((line.section, line.name, line.unit) for plan in plans for line in plan.quantities())
    values = [{(line.section, line.name): line.value for line in plan.quantities()} for plan in plans]
    lines = [("", *map(_title, plans), "grows with")]
    section = ""
    for part, name, unit in names:
        row = [column.get((part, name), 0.0) for column in values]
        if not any(row) and name != "fits":
            continue
        if part != section:
            lines += [("",) * (len(plans) + 2), (part, *("",) * (len(plans) + 1))]
            section = part
        lines.append((f"  {name}", *(_shown(value, unit, name) for value in row), grows.get((part, name), "")))
    head = f"{recipe} on {plans[0].memory.machine.name} ({plans[0].memory.machine.source})"
    notes = list(dict.fromkeys(note for plan in plans for note in plan.notes))
    said = "\n".join(["", *(f"- {note}" for note in [*_stated(plans[0].assumptions), *notes])])
    return f"{head}\n\n{_aligned(lines)}\n{said}"


def as_json(recipe: str, plans: Sequence[Plan]) -> dict[str, Any]:
    """The same for programs; what is endless is null."""
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


def _title(plan: Plan) -> str:
    slots, tokens = plan.config.model.memory.num_slots, plan.memory.num_tokens
    return f"{plan.memory.layout.devices} x {_number(slots)} slots x {_number(tokens)} tokens"


def _shown(value: float, unit: str, name: str) -> str:
    if name == "fits":
        return "yes" if value else "NO"
    if math.isinf(value):
        return "endless"
    if name in ("goodput", "utilisation over the whole step"):
        return f"{value:.1%}"
    if unit in UNITS_WRITTEN_OUT:
        return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
    return f"{_number(value)}{' ' if unit and abs(value) < 1e3 else ''}{unit}"


def _number(value: float) -> str:
    for size, prefix in PREFIXES:
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}" if value < 999.5 * size else f"{value / size:,.0f} {prefix}"
    return f"{value:.3g}"


def _stated(assumptions: Assumptions) -> list[str]:
    failure = assumptions.failures_per_gpu_hour
    rate = f"one failure in {1 / failure:,.0f} GPU-hours" if failure else "no failures"
    return [
        f"stated, not measured: {assumptions.utilisation:.0%} of the peak while multiplying; {rate}",
        "bytes are decimal: 1 GB = 1e9 B; GPU-hours of a stage include failures for pretraining the memory model alone",
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
