"""Parts of the facts or documents to learn: one for choosing the methods' settings, the other for
comparing the methods. Imports no torch."""

from collections.abc import Sequence
from typing import TypeVar

from memlm.data.config import Part

TUNING_STRIDE = 4
"""One fact in this many is in the tuning part."""

T = TypeVar("T")


def items_of_part(items: Sequence[T], part: Part) -> Sequence[T]:
    """The items of a part: every fourth one is for tuning, the others are for evaluation. Raises
    ValueError if there are none."""
    if part == "all":
        return items
    chosen = [item for index, item in enumerate(items) if _is_for_tuning(index) == (part == "tuning")]
    if not chosen:
        raise ValueError(
            f"stream.part is {part!r}, and none of the {len(items)} facts or documents to learn is in it: one in {TUNING_STRIDE} is for tuning, "
            f"the others are for evaluation; give at least {TUNING_STRIDE}, or leave out stream.part and sweep.tuning_seeds"
        )
    return chosen


def size_of_part(number: int, part: Part) -> int:
    """Number of items in a part of `number` items."""
    tuning = number // TUNING_STRIDE
    return {"all": number, "tuning": tuning, "evaluation": number - tuning}[part]


def _is_for_tuning(index: int) -> bool:
    return index % TUNING_STRIDE == TUNING_STRIDE - 1
