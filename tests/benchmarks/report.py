"""Records of the rows, the table, and the list of missed bars."""

import json
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.rows import Bound, Figures, Row

Record = dict[str, Any]


def reaches(ratio: float, bound: Bound, bar: float | None) -> bool:
    """Whether a ratio reaches the bar; true if there is no bar."""
    if bar is None:
        return True
    return ratio >= bar if bound == "min" else ratio <= bar


def record_of(row: Row, figures: Figures, machine: Mapping[str, Any]) -> Record:
    """A row in bench.json. It is ok if it reaches its bar and its outputs agree."""
    agrees = not figures.failures
    return {
        "name": row.name,
        "ours": figures.ours,
        "peer": figures.peer,
        "peer_name": figures.peer_name,
        "unit": row.unit,
        "ratio": figures.ratio,
        "bound": row.bound,
        "bar": row.bar,
        "ok": agrees and reaches(figures.ratio, row.bound, row.bar),
        "conditions": {
            **figures.conditions,
            "aim": row.aim,
            "aim_reached": agrees and reaches(figures.ratio, row.bound, row.aim),
            **({} if agrees else {"failures": figures.failures}),
            **machine,
        },
    }


def failed_record(row: Row, error: str, machine: Mapping[str, Any]) -> Record:
    """A row without figures, and the reason."""
    return {
        "name": row.name,
        "ours": None,
        "peer": None,
        "peer_name": None,
        "unit": row.unit,
        "ratio": None,
        "bound": row.bound,
        "bar": row.bar,
        "ok": False,
        "conditions": {"error": error, "aim": row.aim, **machine},
    }


def machine_of(device: str) -> dict[str, Any]:
    """Conditions needed to interpret a figure."""
    hardware = torch.cuda.get_device_name() if device == "cuda" else _cpu_name()
    return {
        "device": device,
        "hardware": hardware,
        "threads": 1,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def write(records: Sequence[Record], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(list(records), indent=1, allow_nan=False) + "\n")


def table(records: Sequence[Record]) -> str:
    """Columns of even width, numbers to the right."""
    header = ["row", "ours", "peer", "unit", "ratio", "bar", "aim", "ok", "peer is"]
    lines = [header, *map(_cells, records)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header) - 1)]
    left = {0, 3, 7}

    def laid_out(line: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=False))
        ]
        return "  ".join([*cells, line[-1]]).rstrip()

    return "\n".join([laid_out(header), "  ".join("-" * width for width in widths), *map(laid_out, lines[1:])])


def _cells(record: Record) -> list[str]:
    conditions = record["conditions"]
    sign = ">=" if record["bound"] == "min" else "<="

    def limit(value: float | None) -> str:
        return f"{sign} {value:g}" if value is not None else "-"

    name = record["name"] if conditions["device"] == "cpu" else f"{record['name']} ({conditions['device']})"
    limits = [limit(record["bar"]), limit(conditions["aim"])]
    if record["ratio"] is None:
        return [name, "-", "-", record["unit"], "-", *limits, "error", conditions["error"]]
    ok = "yes" if record["ok"] else "differs" if "failures" in conditions else "MISSED"
    figures = [f"{record[side]:,.4g}" if record[side] < 1000 else f"{record[side]:,.0f}" for side in ("ours", "peer")]
    return [name, *figures, record["unit"], f"{record['ratio']:.2f}", *limits, ok, record["peer_name"]]


def verdict(records: Sequence[Record]) -> str:
    """A sentence about the missed bars and the reasons, or that none is missed."""
    lines = []
    for record in records:
        conditions = record["conditions"]
        if record["ratio"] is None:
            lines.append(f"not measured: {record['name']}: {conditions['error']}")
        elif "failures" in conditions:
            lines += [f"outputs differ: {record['name']}: {sentence}" for sentence in conditions["failures"]]
        elif not record["ok"]:
            rule = "at least" if record["bound"] == "min" else "at most"
            lines.append(f"bar missed: {record['name']} is {record['ratio']:.2f} and must be {rule} {record['bar']:g}")
    below_aim = [
        record["name"] for record in records if record["ok"] and not record["conditions"].get("aim_reached", True)
    ]
    if below_aim:
        lines.append(f"bar reached, aim not: {', '.join(below_aim)}")
    return "\n".join(lines) or "every bar and every aim is reached"
