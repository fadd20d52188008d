"""What each checkpoint of a sweep says alone, next to what they say together."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from memlm.results.scores import TrialResult

PAIR = ("set", "learning", "method", "against")
"""What a paired difference is of."""
SAID = ("ratio", "ratio_ci", "difference", "ci", "reached")


def with_each_checkpoint(
    paired: Sequence[Mapping[str, Any]],
    trials: Sequence[TrialResult],
    frontier_of: Callable[[list[TrialResult]], Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Paired differences with what the frontier of each checkpoint's own trials says of them, None
    where it does not reach the level. Those of a single checkpoint stay as they are."""
    checkpoints = sorted({trial.checkpoint for trial in trials})
    if len(checkpoints) == 1:
        return [dict(row) for row in paired]
    alone = {name: _by_pair(frontier_of([each for each in trials if each.checkpoint == name])) for name in checkpoints}
    return [{**row, "by_checkpoint": {name: alone[name].get(_pair(row)) for name in checkpoints}} for row in paired]


def _by_pair(frontier: Mapping[str, Any]) -> dict[tuple[Any, ...], dict[str, Any]]:
    return {_pair(row): {key: row[key] for key in SAID} for row in frontier["paired"]}


def _pair(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[key] for key in PAIR)
