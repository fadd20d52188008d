"""What a frontier is computed from, as one file: every trial's items.

The scores of a model before learning are the same for many trials, so each distinct score is
written once per set, and trials name it by its number. Items are written as text, which is short:
a row of 0 and 1 (`right`), or whole millionths, to which they are rounded when they are measured.
Others are written as numbers (`values`).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from memlm.results.bootstrap import UNITS_PER_ONE
from memlm.results.scores import FailedSetting, ScoreError, SetScore, TrialResult

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class SweepItems:
    """The arguments of `build_frontier`."""

    recipe: str
    trials: Sequence[TrialResult]
    failed: Sequence[FailedSetting] = ()
    samples: int = 2000
    seed: int = 0
    tuning_seeds: Sequence[int] = ()
    first_sets: Sequence[str] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Without the trials' answers."""
        scores = _Scores()
        trials = [
            {
                **{name: value for name, value in trial.to_json().items() if name not in ("start", "end")},
                "start": {name: scores.number(name, score) for name, score in trial.start.items()},
                "end": {name: scores.number(name, score) for name, score in trial.end.items()},
            }
            for trial in self.trials
        ]
        return {
            "format": FORMAT,
            **{each.name: getattr(self, each.name) for each in dataclasses.fields(self)},
            "trials": trials,
            "failed": [dataclasses.asdict(setting) for setting in self.failed],
            "sets": scores.written,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "SweepItems":
        """Read the output of to_json. Raises ScoreError, KeyError, TypeError or ValueError for
        anything else."""
        if value["format"] != FORMAT:
            raise ScoreError(f"format is {value['format']!r}; this version reads format {FORMAT}: sweep again")
        sets = {name: [_read(score) for score in scores] for name, scores in value["sets"].items()}

        def scores(numbers: Mapping[str, int]) -> dict[str, Any]:
            return {name: dataclasses.asdict(sets[name][number]) for name, number in numbers.items()}

        trials = [
            TrialResult.from_json({**trial, "start": scores(trial["start"]), "end": scores(trial["end"])})
            for trial in value["trials"]
        ]
        failed = [FailedSetting(**{**each, "seeds": tuple(each["seeds"])}) for each in value["failed"]]
        plain = {each.name: value[each.name] for each in dataclasses.fields(cls)}
        return cls(**{**plain, "trials": trials, "failed": failed})


class _Scores:
    """The distinct scores of each set, written once."""

    def __init__(self) -> None:
        self.written: dict[str, list[dict[str, Any]]] = {}
        self._numbers: dict[tuple[str, SetScore], int] = {}

    def number(self, name: str, score: SetScore) -> int:
        found = self._numbers.get((name, score))
        if found is None:
            of_set = self.written.setdefault(name, [])
            found = self._numbers[name, score] = len(of_set)
            of_set.append({"task": score.task, "measure": score.measure, "chance": score.chance, **_items(score)})
        return found


def _items(score: SetScore) -> dict[str, Any]:
    if all(item in (0.0, 1.0) for item in score.items):
        return {"right": "".join(str(int(item)) for item in score.items)}
    millionths = [round(item * UNITS_PER_ONE) for item in score.items]
    if all(each / UNITS_PER_ONE == item for each, item in zip(millionths, score.items, strict=True)):
        return {"millionths": " ".join(map(str, millionths))}
    return {"values": list(score.items)}


def _read(score: Mapping[str, Any]) -> SetScore:
    items: Sequence[float]
    if "right" in score:
        items = [float(item) for item in score["right"]]
    elif "millionths" in score:
        items = [int(item) / UNITS_PER_ONE for item in score["millionths"].split()]
    else:
        items = score["values"]
    return SetScore(task=score["task"], measure=score["measure"], chance=score["chance"], items=tuple(items))
