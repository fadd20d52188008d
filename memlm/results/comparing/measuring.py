"""Settings of a method in every resample: what they learn and what they lose."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np

from memlm.results.bootstrap import Resamples, divide
from memlm.results.comparing.trials import settings_of
from memlm.results.pareto import Array
from memlm.results.scores import LEARNING_SET, SetScore, TrialResult, kept_set

Quantity = Literal["start", "end", "drop", "loss"]


@dataclass(frozen=True, kw_only=True)
class MeasuredSetting:
    """One setting: arrays are [1 + samples], row 0 as observed."""

    trials: list[TrialResult]
    learning: Array
    starts: Mapping[str, float]
    ends: Mapping[str, float]
    drops: Mapping[str, Array]
    """By held-out set, the share that is lost of what the model knew better than chance."""
    losses: Mapping[str, Array]
    """By held-out set, what methods are compared by: the drop or, for a loss, its rise in nats per
    token. By `kept_set` of a set of right and wrong answers, the share of the right ones that are
    no longer right."""

    def average(self, averaged: Sequence[str]) -> Array:
        """The mean drop over these sets; gains do not pay for losses."""
        return np.asarray(np.mean([np.maximum(self.drops[name], 0) for name in averaged], axis=0))


@dataclass(frozen=True, kw_only=True)
class MeasuredMethod:
    settings: list[MeasuredSetting]
    untrained: Array
    """[1 + samples]: what its model knows of the new facts before it learns them."""

    def line(self, values: Sequence[Array]) -> Array:
        """[1 + samples, 1 + settings]: values of settings behind the untrained model's, which has
        lost nothing."""
        return np.stack([np.zeros_like(self.untrained), *values], axis=1)

    def learning_of(self, settings: Sequence[MeasuredSetting]) -> Array:
        return np.stack([self.untrained, *(setting.learning for setting in settings)], axis=1)


def measure_method(
    trials: Sequence[TrialResult], resamples: Resamples, seeds: Mapping[str, list[int]]
) -> MeasuredMethod:
    """`trials` are all of one method; `seeds` all seeds of each checkpoint, over all methods."""
    by_checkpoint = {name: [trial for trial in trials if trial.checkpoint == name] for name in seeds}
    by_checkpoint = {name: found for name, found in by_checkpoint.items() if found}
    measured = {name: _quantities(found, resamples) for name, found in by_checkpoint.items()}

    def mean_of(quantity: Quantity, name: str, chosen: Sequence[TrialResult]) -> Array:
        keys, means = {id(trial) for trial in chosen}, {}
        for checkpoint, found in by_checkpoint.items():
            rows = [row for row, trial in enumerate(found) if id(trial) in keys]
            if rows:
                values = measured[checkpoint][quantity, name][rows]
                own = [found[row].seed for row in rows]
                means[checkpoint] = resamples.over_seeds(values, own, seeds[checkpoint], checkpoint)
        return resamples.over_checkpoints(means)

    return MeasuredMethod(
        settings=[_measure_setting(setting, partial(mean_of, chosen=setting)) for setting in settings_of(trials)],
        untrained=mean_of("start", LEARNING_SET, trials),
    )


def _measure_setting(trials: list[TrialResult], mean_of: "partial[Array]") -> MeasuredSetting:
    names = [name for name in trials[0].start if name != LEARNING_SET]
    drops = {name: mean_of("drop", name) for name in names}
    return MeasuredSetting(
        trials=trials,
        learning=mean_of("end", LEARNING_SET),
        starts={name: float(mean_of("start", name)[0]) for name in names},
        ends={name: float(mean_of("end", name)[0]) for name in names},
        drops=drops,
        losses={name: mean_of("loss", name) if trials[0].start[name].is_loss else drops[name] for name in names}
        | {kept_set(name): mean_of("drop", kept_set(name)) for name in names if has_kept(trials[0].start[name])},
    )


def _quantities(trials: Sequence[TrialResult], resamples: Resamples) -> dict[tuple[Quantity, str], Array]:
    """Each quantity of each set, [trials, draws], for trials of one checkpoint."""
    found: dict[tuple[Quantity, str], Array] = {}
    checkpoint = trials[0].checkpoint
    for name in trials[0].start:
        starts = [trial.start[name] for trial in trials]
        start = resamples.means(name, starts, checkpoint)
        end = resamples.means(name, [trial.end[name] for trial in trials], checkpoint)
        found |= {("start", name): start, ("end", name): end, ("loss", name): end - start}
        found["drop", name] = _drop(starts, start, end)
        if has_kept(starts[0]):
            still = resamples.means(
                name, [_still_right(trial.start[name], trial.end[name]) for trial in trials], checkpoint
            )
            found["drop", kept_set(name)] = divide(start - still, start)
    return found


def has_kept(score: SetScore) -> bool:
    """Whether the set has answers that are right or wrong."""
    return score.measure in ("exact_match", "accuracy")


def _still_right(start: SetScore, end: SetScore) -> SetScore:
    """The end without what was not right at the start."""
    return replace(end, items=tuple(map(min, start.items, end.items)))


def _drop(starts: Sequence[SetScore], start: Array, end: Array) -> Array:
    """As `SetScore.drop_to`, in every draw."""
    chance = np.array([[score.chance] for score in starts])
    if not starts[0].is_loss:
        return divide(start - end, start - chance)
    return divide(end - start, np.where(chance == 0, start, chance - start))
