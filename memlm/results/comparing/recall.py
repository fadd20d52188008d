"""Recall of new facts over several sweeps that learn the same facts, such as by a memory that was
pretrained with its model and by one that was added: in wordings that they were learned in, and in
others.

Each method is shown at the setting that learned most on the tuning split, of those that lost there
at most MOST_LOST of the first held-out set. Differences are paired: sweeps share the draws of
checkpoints, seeds and items.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite
from statistics import fmean
from typing import Any

from memlm.results.bootstrap import Resamples, interval
from memlm.results.comparing.items import SweepItems
from memlm.results.comparing.measuring import MeasuredSetting, measure_method
from memlm.results.comparing.sets import in_order, reported_items, tuning_items
from memlm.results.comparing.trials import method_order, require_comparable, setting_key, settings_of, split_by_seed
from memlm.results.pareto import Array
from memlm.results.scores import LEARNING_SET, SEEN_WORDINGS, ScoreError, TrialResult

Bounds = Sequence[float] | None
MOST_LOST = 0.1
"""Share of that set, above chance. At the highest rate of a grid most is learned, and much
more is lost, of which a table of recall would say little."""


@dataclass(frozen=True, kw_only=True)
class Recall:
    """One method of one sweep."""

    sweep: str
    method: str
    hyperparameters: Mapping[str, Any]
    start: float
    """The share of the facts that is answered before learning, in unseen wordings."""
    unseen: float
    unseen_ci: Bounds
    seen: float | None
    """In the wordings that were learned; None where the sweep did not ask for them."""
    lost: float | None
    """The share of the first held-out set, above chance, that is lost; None where the start leaves
    nothing to lose."""
    lost_ci: Bounds
    difference: float | None
    """In unseen wordings, to the same method of the first sweep, on the same checkpoints; None for
    that sweep itself, and for a method that it lacks."""
    difference_ci: Bounds


def recalls(sweeps: Mapping[str, SweepItems], methods: Sequence[str] = ()) -> list[Recall]:
    """The methods of each sweep, by its name; all of them if none are named. Raises ScoreError for
    sweeps that were not scored on the same sets."""
    require_comparable(
        [replace(trial, method=f"{trial.method} of {name}") for name, items in sweeps.items() for trial in items.trials]
    )
    parts = {name: _Sweep(items) for name, items in sweeps.items()}
    first = next(iter(parts))
    if missing := [name for name, part in parts.items() if not part.checkpoints <= parts[first].checkpoints]:
        raise ScoreError(
            f"sweep {missing[0]} has checkpoints that {first} lacks, so they cannot be compared in pairs; sweep both over the same checkpoints"
        )
    return list(_rows(parts, first, methods))


class _Sweep:
    """Reported trials of a sweep, and those that choose settings."""

    def __init__(self, items: SweepItems) -> None:
        self.items = items
        reported, self.tuning = split_by_seed(items.trials, items.tuning_seeds)
        self.reported = [reported_items(trial) for trial in reported] if items.tuning_seeds else reported
        self.checkpoints = {trial.checkpoint for trial in reported}
        self.methods = sorted({trial.method for trial in reported}, key=method_order)
        self.first_set = in_order(self.reported[0].start, items.first_sets)[0]

    def chosen(self, method: str) -> list[TrialResult]:
        """The reported trials of the setting that is chosen on the tuning split; without one, on
        what is reported."""
        settings = {setting_key(each[0]): each for each in settings_of(_of(self.reported, method))}
        if not self.items.tuning_seeds:
            scores = {key: self._axes(each) for key, each in settings.items()}
        else:
            tuned = settings_of(_of(self.tuning, method))
            scores = {setting_key(each[0]): self._axes([tuning_items(trial) for trial in each]) for each in tuned}
        return settings[max(settings, key=lambda key: _rank(*scores.get(key, NEVER)))]

    def _axes(self, trials: Sequence[TrialResult]) -> tuple[float, float]:
        """What one setting learns, and what it loses of the first set, of which there may be
        nothing to lose."""
        lost = fmean(trial.start[self.first_set].drop_to(trial.end[self.first_set]) for trial in trials)
        return fmean(trial.end[LEARNING_SET].value for trial in trials), lost if isfinite(lost) else 0.0


NEVER = (-1.0, inf)


def _rank(learned: float, lost: float) -> tuple[float, float]:
    """What has most learned comes first; what has lost too much comes after all others, by what it
    lost."""
    return (1.0, learned) if lost <= MOST_LOST else (0.0, -lost)


def _of(trials: Sequence[TrialResult], method: str) -> list[TrialResult]:
    return [trial for trial in trials if trial.method == method]


def _rows(parts: Mapping[str, _Sweep], first: str, methods: Sequence[str]) -> Iterator[Recall]:
    items = parts[first].items
    checkpoints = sorted(parts[first].checkpoints)
    resamples = Resamples(items.samples, items.seed, checkpoints)
    everything = [trial for part in parts.values() for trial in part.reported]
    seeds = {name: sorted({each.seed for each in everything if each.checkpoint == name}) for name in checkpoints}

    def measured(trials: Sequence[TrialResult]) -> tuple[MeasuredSetting, Array]:
        method = measure_method(trials, resamples, seeds)
        return method.settings[0], method.untrained

    for name, part in parts.items():
        for method in [each for each in part.methods if not methods or each in methods]:
            chosen = part.chosen(method)
            setting, untrained = measured(chosen)
            difference = None
            if name != first and method in parts[first].methods:
                there = [trial for trial in parts[first].chosen(method) if trial.checkpoint in part.checkpoints]
                difference = setting.learning - measured(there)[0].learning
            drop = setting.drops[part.first_set]
            completed = [trial.extra[SEEN_WORDINGS] for trial in chosen if SEEN_WORDINGS in trial.extra]
            yield Recall(
                sweep=name,
                method=method,
                hyperparameters=chosen[0].hyperparameters,
                start=float(untrained[0]),
                unseen=float(setting.learning[0]),
                unseen_ci=interval(setting.learning),
                seen=fmean(completed) if completed else None,
                lost=float(drop[0]) if isfinite(drop[0]) else None,
                lost_ci=interval(drop),
                difference=None if difference is None else float(difference[0]),
                difference_ci=None if difference is None else interval(difference),
            )
