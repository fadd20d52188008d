"""The frontier of learning against forgetting, per method.

The last step of a sweep: finished trials in, one JSON document out, which the report draws and
MLflow keeps.

    trials (method, hyperparameters, checkpoint, seed; scored before and after)
        -> settings chosen on the tuning split
        -> points (mean over checkpoints and seeds)
        -> a line per method, from the untrained model through its chosen settings
        -> forgetting at matched learning, paired differences, hypervolume

Learning is absolute accuracy on the new facts. Forgetting is, per held-out set, the share that is
lost of what the model knew better than chance, from its own start (Lin et al. 2025, section 5,
compare this way): the memory model and the dense one start from different levels. Every value has
an interval (bootstrap.py).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from memlm.results.bootstrap import Resamples, interval
from memlm.results.comparing.checkpoints import with_each_checkpoint
from memlm.results.comparing.choice import TuningScores, chosen_settings, tuning_scores
from memlm.results.comparing.items import SweepItems
from memlm.results.comparing.measuring import MeasuredSetting, has_kept, measure_method
from memlm.results.comparing.paired import MethodCurve, at_matched_learning, paired_differences
from memlm.results.comparing.sets import HeldOutSets, held_out_sets, reported_items
from memlm.results.comparing.trials import (
    COMPARED_METHODS,
    lacks,
    method_order,
    require_comparable,
    setting_key,
    settings_of,
    split_by_seed,
)
from memlm.results.pareto import hypervolume, nondominated
from memlm.results.scores import LEARNING_SET, FailedSetting, SetScore, TrialResult, kept_set

SHARE, NATS_UNIT, KEPT_UNIT = "share lost above chance", "nats per token", "share of right answers lost"
"""Units of a paired difference."""


def build_frontier(
    recipe: str,
    trials: Sequence[TrialResult],
    *,
    failed: Sequence[FailedSetting] = (),
    samples: int = 2000,
    seed: int = 0,
    tuning_seeds: Sequence[int] = (),
    first_sets: Sequence[str] = (),
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The result of a sweep as one JSON document.

    `failed` are the settings without a point, which are shown next to the points. `first_sets` are
    the held-out sets in the order of the run's config. `on_frontier` marks a method's chosen
    settings; `on_joint_frontier` those that no point of any method beats in learning and on
    `headline_set`. `forgetting` is the average over `forgetting_sets`. In `matched`, which has the
    levels that all of COMPARED_METHODS in the sweep reach, `reached` is the share of resamples in
    which the method learns that much at all; `partly_matched` has the other levels. `paired` has
    the counted sets, and the right answers of each (`kept_set`); its `ratio_ci` is None where the
    other method loses nothing in a resample, and its `by_checkpoint` says what each of several
    checkpoints gives alone.
    """
    require_comparable(trials)
    reported, tuning = split_by_seed(trials, tuning_seeds)
    if tuning_seeds:
        reported = [reported_items(trial) for trial in reported]
    sets = held_out_sets(reported, first_sets)
    methods = _compare(reported, tuning if tuning_seeds else None, sets, samples, seed)
    curves = {method: compared.curve for method, compared in methods.items()}
    volumes = {method: hypervolume(curve.learning, curve.drops(sets.headline)) for method, curve in curves.items()}
    rows = at_matched_learning(curves, sets.counted, sets.averaged)
    matched = [row for row in rows if _is_matched(row, methods)]
    same: dict[str, Any] = {"samples": samples, "seed": seed, "tuning_seeds": tuning_seeds, "first_sets": first_sets}
    return {
        "recipe": recipe,
        "points": _all_points(methods, sets.headline),
        "failed": [dataclasses.asdict(setting) for setting in failed],
        "sets": sets.names,
        "headline_set": sets.headline,
        "counted_sets": sets.counted,
        "forgetting_sets": sets.averaged,
        "left_out": sets.left_out,
        "chosen_on": "tuning" if tuning_seeds else "evaluation",
        "chosen_by": sets.decided_by,
        "tuning_seeds": list(tuning_seeds),
        "lacks": lacks(trials, tuning_seeds),
        "start": {method: compared.start for method, compared in methods.items()},
        "hypervolume": {method: float(volume[0]) for method, volume in volumes.items()},
        "hypervolume_ci": {method: interval(volume) for method, volume in volumes.items()},
        "matched": matched,
        "partly_matched": [row for row in rows if row not in matched],
        "paired": with_each_checkpoint(
            paired_differences(curves, _units(reported[0].start, sets.counted)),
            trials,
            partial(build_frontier, recipe, **same),
        ),
        "bootstrap": {"samples": samples, "seed": seed, "confidence": 0.95},
        "provenance": dict(provenance or {}),
    }


def _units(start: Mapping[str, SetScore], counted: Sequence[str]) -> dict[str, str]:
    """What is compared in pairs: the counted sets, each followed by its right answers, with the
    unit of their losses."""
    units = {}
    for name in counted:
        units[name] = NATS_UNIT if start[name].is_loss else SHARE
        if has_kept(start[name]):
            units[kept_set(name)] = KEPT_UNIT
    return units


@dataclass(frozen=True, kw_only=True)
class _Method:
    """A method's chosen settings as a line, the records of all its settings, and its model's
    scores before learning, so that learning can be read as a gain."""

    curve: MethodCurve
    points: list[dict[str, Any]]
    start: dict[str, float]


def _compare(
    reported: Sequence[TrialResult], tuning: Sequence[TrialResult] | None, sets: HeldOutSets, samples: int, seed: int
) -> dict[str, _Method]:
    """Every method, in the order of tables. `tuning` are the trials that choose settings; None to
    choose by those reported."""
    checkpoints = sorted({trial.checkpoint for trial in reported})
    resamples = Resamples(samples, seed, checkpoints)
    seeds = {name: sorted({trial.seed for trial in reported if trial.checkpoint == name}) for name in checkpoints}
    methods = {}
    for method in sorted({trial.method for trial in reported}, key=method_order):
        own = [trial for trial in reported if trial.method == method]
        measured = measure_method(own, resamples, seeds)
        scores = None if tuning is None else _tuning_scores([trial for trial in tuning if trial.method == method])
        chosen = chosen_settings(measured.settings, scores, sets.decided_by)
        points = [
            {
                **_point(setting, sets),
                "tuning": _tuning_record(setting, scores),
                "on_frontier": index in chosen,
            }
            for index, setting in enumerate(measured.settings)
        ]
        methods[method] = _Method(curve=MethodCurve(measured, chosen), points=points, start=_start(own))
    return methods


def _is_matched(row: Mapping[str, Any], methods: Mapping[str, _Method]) -> bool:
    """Whether all compared methods of the sweep, and two or more methods, reach the level."""
    compared = {method for method in COMPARED_METHODS if method in methods}
    return len(row["methods"]) > 1 and row["methods"].keys() >= compared


def _all_points(methods: Mapping[str, _Method], headline: str) -> list[dict[str, Any]]:
    """The points of all methods, with a mark for those that none beats on the headline set."""
    points = [point for method in methods.values() for point in method.points]
    drops = [point["sets"][headline]["drop"] for point in points]
    learning = np.array([[point["learning"] for point in points]])
    joint = nondominated(learning, np.array([[np.nan if drop is None else drop for drop in drops]]))[0]
    marked = [{**point, "on_joint_frontier": bool(flag)} for point, flag in zip(points, joint, strict=True)]
    return sorted(marked, key=lambda p: (method_order(p["method"]), p["learning"], p["forgetting"]))


def frontier_of(items: SweepItems) -> dict[str, Any]:
    """The frontier of a sweep's items: the same numbers whenever it is computed."""
    arguments = {each.name: getattr(items, each.name) for each in dataclasses.fields(items)}
    return build_frontier(**arguments)


def _tuning_scores(trials: Sequence[TrialResult]) -> dict[str, TuningScores]:
    return {setting_key(setting[0]): tuning_scores(setting) for setting in settings_of(trials)}


def _tuning_record(setting: MeasuredSetting, tuning: Mapping[str, TuningScores] | None) -> dict[str, Any] | None:
    found = (tuning or {}).get(setting_key(setting.trials[0]))
    return dataclasses.asdict(found) if found else None


def _start(trials: Sequence[TrialResult]) -> dict[str, float]:
    means = {name: float(np.mean([trial.start[name].value for trial in trials])) for name in trials[0].start}
    return {"learning": means.pop(LEARNING_SET)} | means


def _point(setting: MeasuredSetting, sets: HeldOutSets) -> dict[str, Any]:
    """One setting's record."""
    trials, average = setting.trials, setting.average(sets.averaged)
    extras = dict.fromkeys(name for trial in trials for name in trial.extra)
    means = {name: float(np.mean([trial.extra[name] for trial in trials if name in trial.extra])) for name in extras}
    return {
        "method": trials[0].method,
        "hyperparameters": trials[0].hyperparameters,
        "seeds": sorted({trial.seed for trial in trials}),
        "checkpoints": sorted({trial.checkpoint for trial in trials}),
        "learning": float(setting.learning[0]),
        "learning_ci": interval(setting.learning),
        "forgetting": float(average[0]),
        "forgetting_ci": interval(average),
        "scores": {LEARNING_SET: float(setting.learning[0])}
        | {name: setting.ends[name] for name in sets.names}
        | means,
        "sets": {name: _set_record(setting, name, name in sets.counted) for name in sets.names},
        "seconds": means.get("seconds"),
        "seconds_per_step": means["seconds_learning"] / means["steps"] if means.get("steps") else None,
    }


def _set_record(setting: MeasuredSetting, name: str, counted: bool) -> dict[str, Any]:
    score, drop = setting.trials[0].start[name], setting.drops[name]
    return {
        "task": score.task,
        "measure": score.measure,
        "chance": float(np.mean([trial.start[name].chance for trial in setting.trials])),
        "counted": counted,
        "start": setting.starts[name],
        "end": setting.ends[name],
        "drop": float(drop[0]) if np.isfinite(drop[0]) else None,
        "drop_ci": interval(drop),
    }
