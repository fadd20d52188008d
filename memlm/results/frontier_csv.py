"""The points of a frontier as CSV, for a spreadsheet."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_csv(frontier: Mapping[str, Any], path: str | Path) -> None:
    """One row per point, for a spreadsheet: a column per hyperparameter, per bound of an
    interval and per score."""
    rows = []
    for point in frontier["points"]:
        row = {"method": point["method"]}
        row |= {f"hyperparameters.{name}": value for name, value in point["hyperparameters"].items()}
        row["seeds"] = " ".join(map(str, point["seeds"]))
        for axis in ("learning", "forgetting"):
            low, high = point[f"{axis}_ci"] or (None, None)
            row |= {axis: point[axis], f"{axis}_low": low, f"{axis}_high": high}
        row |= {flag: point[flag] for flag in ("on_frontier", "on_joint_frontier")}
        row |= {f"drop.{name}": held_out["drop"] for name, held_out in point["sets"].items()}
        rows.append(row | {f"scores.{name}": value for name, value in point["scores"].items()})
    # Methods differ in their hyperparameters; the stable sort brings the columns of all of them
    # to the front.
    names = dict.fromkeys(name for row in rows for name in row)
    columns = sorted(names, key=lambda name: not name.startswith(("method", "hyperparameters.")))
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
