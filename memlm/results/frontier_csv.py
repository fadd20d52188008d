"""The points of a frontier as CSV, for a spreadsheet."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_csv(frontier: Mapping[str, Any], path: str | Path) -> None:
    """One row per point, for a spreadsheet: a column per hyperparameter, per bound of an
    interval and per score. The average over sets comes behind the sets."""
    rows = []
    for point in frontier["points"]:
        row = {"method": point["method"]}
        row |= {f"hyperparameters.{name}": value for name, value in point["hyperparameters"].items()}
        row["seeds"] = " ".join(map(str, point["seeds"]))
        row["checkpoints"] = " ".join(point["checkpoints"])
        row |= _with_bounds("learning", point["learning"], point["learning_ci"])
        for name in frontier["sets"]:
            row |= _with_bounds(f"drop.{name}", point["sets"][name]["drop"], point["sets"][name]["drop_ci"])
        row |= _with_bounds("average_drop", point["forgetting"], point["forgetting_ci"])
        row |= {flag: point[flag] for flag in ("on_frontier", "on_joint_frontier")}
        row |= {name: point[name] for name in ("seconds_per_step", "seconds")}
        rows.append(row | {f"scores.{name}": value for name, value in point["scores"].items()})
    # Methods differ in their hyperparameters; the stable sort brings the columns of all of them
    # to the front.
    names = dict.fromkeys(name for row in rows for name in row)
    columns = sorted(names, key=lambda name: not name.startswith(("method", "hyperparameters.")))
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _with_bounds(name: str, value: float | None, interval: list[float] | None) -> dict[str, Any]:
    low, high = interval or (None, None)
    return {name: value, f"{name}_low": low, f"{name}_high": high}
