"""Documents that were learned one by one, as exact match and F1 on the questions about them: before
learning, right after each document, and after the last.

SEAL's own figures stand next to those on its passages (Zweiger et al. 2025, arXiv 2506.10943).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from memlm.results.looks import look_of
from memlm.results.scores import LEARNING_SET

SEAL_RECIPES = ("smollm2_seal", "smollm2_seal_alone")
SEALS_MODEL = "Qwen2.5-7B with LoRA; share that GPT-4.1 judges right"
"""How SEAL's figures differ from ours: another model, and no exact match."""
SEAL_ALONE = {
    "the passage alone": (0.323, 0.335),
    "rewrites by the model itself": (0.327, 0.397),
    "rewrites by GPT-4.1": (0.318, 0.463),
    "rewrites by SEAL": (0.334, 0.470),
}
"""Before and after each of 200 passages alone (knowledge-incorporation/results/query_server/eval of
https://github.com/Continual-Intelligence/SEAL at 4cb1e7d, 974 questions)."""
SEAL_IN_SEQUENCE = {"rewrites by SEAL": (0.315, 0.425, 0.234)}
"""The first seven of eight passages: before, right after each, and after the eighth, over 64
sequences (results/continual_self_edits/overall_results.json there)."""

Table = tuple[list[str], list[list[str]]]
BEFORE, AFTER, END = MOMENTS = ("start", "right_after", "end")


def sequence_table(frontier: Mapping[str, Any]) -> Table | None:
    """A row per setting, and SEAL's below those on its passages; None for a frontier whose
    documents were not learned one by one."""
    points = [point for point in frontier["points"] if _score(point, AFTER) is not None]
    if not points:
        return None
    in_sequence = any(_score(point, f"earlier_{AFTER}") is not None for point in points)
    header = ["exact match / F1", "before", "right after the passage"]
    rows = [_row(frontier, point, in_sequence) for point in points]
    if in_sequence:
        header += ["all but the last: before", "right after", "after the last", "change"]
    if frontier["recipe"] in SEAL_RECIPES:
        rows += _rows_of_seal(in_sequence)
    return header, rows


def _row(frontier: Mapping[str, Any], point: Mapping[str, Any], in_sequence: bool) -> list[str]:
    cells = [_pair(point, moment) for moment in (BEFORE, AFTER)]
    if in_sequence:
        cells += [_pair(point, f"earlier_{moment}") for moment in MOMENTS]
        changes = [
            _score(point, f"earlier_{END}{measure}") - _score(point, f"earlier_{AFTER}{measure}")
            for measure in ("", "_f1")
        ]
        cells.append(" / ".join(_signed(change) for change in changes))
    rate = point["hyperparameters"].get("optimizer.learning_rate")
    name = look_of(frontier, point["method"]).name
    return [f"{name}, rate {rate:g}" if rate else name, *cells]


def _rows_of_seal(in_sequence: bool) -> list[list[str]]:
    """SEAL's figures, in the column of exact match, though a model judged them."""
    if not in_sequence:
        figures: Mapping[str, Sequence[float]] = SEAL_ALONE
        return [[_name_of_seal(name), *map(_number, values)] for name, values in figures.items()]
    return [
        [_name_of_seal(name), "", "", *map(_number, values), _signed(values[2] - values[1])]
        for name, values in SEAL_IN_SEQUENCE.items()
    ]


def _name_of_seal(rewrites: str) -> str:
    return f"SEAL, {rewrites} ({SEALS_MODEL})"


def _score(point: Mapping[str, Any], moment: str) -> Any:
    return point["scores"].get(f"{LEARNING_SET}_{moment}")


def _pair(point: Mapping[str, Any], moment: str) -> str:
    return " / ".join(_number(_score(point, f"{moment}{measure}")) for measure in ("", "_f1"))


def _number(value: float) -> str:
    return f"{value:.3f}"


def _signed(value: float) -> str:
    return f"{value:+.3f}"
