"""The frontier of learning against forgetting, per method.

The last step of a sweep: finished trials in, one JSON document out, which the report draws and
MLflow keeps.

    trials (method, hyperparameters, seed; scored before and after)
        -> points (mean over seeds)
        -> frontier per method
        -> forgetting at matched learning, hypervolume

Learning is absolute accuracy on the new facts. Forgetting is the drop on held-out sets relative
to the model's own start (Lin et al. 2025, section 5, compare this way): the memory model and the
dense one start from different levels. Every value has an interval (bootstrap.py).
"""

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from memlm.results.bootstrap import Resamples, divide, interval
from memlm.results.pareto import Array, forgetting_at, hypervolume, nondominated
from memlm.results.scores import EPSILON, LEARNING_SET, NEVER_COUNTED, FailedSetting, ScoreError, TrialResult

COMPARED_METHODS = ("sparse_memory", "lora", "full")
"""The paper's three; a level is matched when all of them reach it."""
MIN_ABOVE_CHANCE = 0.05
MIN_STANDARD_ERRORS = 2.0
"""Nearer to chance than either, a relative drop divides by noise."""


def build_frontier(
    recipe: str,
    trials: Sequence[TrialResult],
    *,
    failed: Sequence[FailedSetting] = (),
    samples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """The result of a sweep as one JSON document.

    `failed` are the settings without a point, which are shown next to the points. `on_frontier`
    compares a point with its own method's points; `on_joint_frontier` with all methods' points.
    In `matched`, `reached` is the share of resamples in which the method learns that much at
    all.
    """
    _require_comparable(trials)
    counted = _forgetting_sets(trials)
    resamples = Resamples(samples, seed)
    points: list[dict[str, Any]] = []
    curves: dict[str, tuple[Array, Array]] = {}
    for method in sorted({trial.method for trial in trials}, key=_method_order):
        own = [trial for trial in trials if trial.method == method]
        seeds = sorted({trial.seed for trial in own})
        records, learning, forgetting = zip(
            *(_measure_setting(setting, counted, resamples, seeds) for setting in _settings(own)), strict=True
        )
        curves[method] = np.stack(learning, axis=1), np.stack(forgetting, axis=1)
        on = nondominated(*curves[method])[0]
        points += [{**record, "on_frontier": bool(flag)} for record, flag in zip(records, on, strict=True)]
    joint = nondominated(*(np.array([[point[axis] for point in points]]) for axis in ("learning", "forgetting")))[0]
    points = [{**point, "on_joint_frontier": bool(flag)} for point, flag in zip(points, joint, strict=True)]
    volumes = {method: hypervolume(*curve) for method, curve in curves.items()}
    return {
        "recipe": recipe,
        "points": sorted(points, key=lambda p: (_method_order(p["method"]), p["learning"], p["forgetting"])),
        "failed": [dataclasses.asdict(setting) for setting in failed],
        "forgetting_sets": counted,
        "start": {method: _start([trial for trial in trials if trial.method == method]) for method in curves},
        "hypervolume": {method: float(volume[0]) for method, volume in volumes.items()},
        "hypervolume_ci": {method: interval(volume) for method, volume in volumes.items()},
        "matched": _matched(curves),
        "bootstrap": {"samples": samples, "seed": seed, "confidence": 0.95},
    }


def _method_order(method: str) -> tuple[int, str]:
    return (COMPARED_METHODS.index(method) if method in COMPARED_METHODS else len(COMPARED_METHODS), method)


def _require_comparable(trials: Sequence[TrialResult]) -> None:
    if not trials:
        raise ScoreError("no trials: a frontier needs at least one finished trial; run the sweep first")
    expected = {name: (score.task, score.measure) for name, score in trials[0].start.items()}
    if expected.get(LEARNING_SET, ("", "nats_per_token"))[1] == "nats_per_token":
        raise ScoreError(f"trial {trials[0].key}: learning is the accuracy on a set named {LEARNING_SET!r}; add it")
    seen: set[tuple[str, str, int]] = set()
    for trial in trials:
        for side, scores in (("start", trial.start), ("end", trial.end)):
            if (found := {name: (score.task, score.measure) for name, score in scores.items()}) != expected:
                raise ScoreError(
                    f"trial {trial.key}: {side} was scored on {found}, trial {trials[0].key} on {expected}; "
                    "score all trials on the same sets and task versions"
                )
        if any(len(score.items) != len(trial.end[name].items) for name, score in trial.start.items()):
            raise ScoreError(f"trial {trial.key}: start and end must be scored on the same items; score it again")
        if clash := expected.keys() & trial.extra.keys():
            raise ScoreError(f"trial {trial.key}: extra {sorted(clash)} are names of sets; rename them")
        if (identity := (trial.method, _setting_key(trial), trial.seed)) in seen:
            raise ScoreError(f"trial {trial.key}: {identity} appears twice; keep one trial per setting and seed")
        seen.add(identity)


def _forgetting_sets(trials: Sequence[TrialResult]) -> list[str]:
    """Held-out sets on which every compared model starts far enough above chance; the others
    count for no method."""
    held_out = [name for name in trials[0].start if name not in (LEARNING_SET, *NEVER_COUNTED)]
    margins = {name: min(trial.start[name].value - trial.start[name].chance for trial in trials) for name in held_out}
    counted = [
        name
        for name in held_out
        if margins[name] >= MIN_ABOVE_CHANCE - EPSILON
        and all(trial.start[name].standard_errors_above_chance >= MIN_STANDARD_ERRORS for trial in trials)
    ]
    if not counted:
        raise ScoreError(
            f"no held-out set on which all models start {MIN_ABOVE_CHANCE}, and {MIN_STANDARD_ERRORS} standard errors, above chance (margins: {margins}): "
            "forgetting cannot be measured; pretrain for longer or add a likelihood set"
        )
    return counted


def _setting_key(trial: TrialResult) -> str:
    return json.dumps(trial.hyperparameters, sort_keys=True)


def _settings(trials: Sequence[TrialResult]) -> list[list[TrialResult]]:
    ordered = sorted(trials, key=lambda trial: (_setting_key(trial), trial.seed))
    return [list(group) for _, group in itertools.groupby(ordered, key=_setting_key)]


def _start(trials: Sequence[TrialResult]) -> dict[str, float]:
    """The scores of a method's model before learning, so that learning can be read as a gain."""
    means = {name: float(np.mean([trial.start[name].value for trial in trials])) for name in trials[0].start}
    return {"learning": means.pop(LEARNING_SET)} | means


def _measure_setting(
    trials: Sequence[TrialResult], counted: Sequence[str], resamples: Resamples, all_seeds: Sequence[int]
) -> tuple[dict[str, Any], Array, Array]:
    """One setting: its record for the JSON, and learning and forgetting in every resample."""
    seeds = [trial.seed for trial in trials]
    over_seeds = partial(resamples.mean_over_seeds, seeds=seeds, all_seeds=all_seeds)
    learning = over_seeds(resamples.means(LEARNING_SET, [trial.end[LEARNING_SET] for trial in trials]))
    drops: dict[str, Array] = {}
    sets: dict[str, dict[str, Any]] = {}
    for name in (name for name in trials[0].start if name != LEARNING_SET):
        score = trials[0].start[name]
        start = resamples.means(name, [trial.start[name] for trial in trials])
        end = resamples.means(name, [trial.end[name] for trial in trials])
        chance = np.array([trial.start[name].chance for trial in trials])
        drops[name] = drop = over_seeds(
            divide(end - start, start) if score.is_loss else divide(start - end, start - chance)
        )
        sets[name] = {
            "task": score.task,
            "measure": score.measure,
            "chance": float(chance.mean()),
            "counted": name in counted,
            "start": float(over_seeds(start)[0]),
            "end": float(over_seeds(end)[0]),
            "drop": None if np.isnan(drop[0]) else float(drop[0]),
            "drop_ci": interval(drop),
        }
    forgetting = np.mean([drops[name] for name in counted], axis=0)
    extras = dict.fromkeys(name for trial in trials for name in trial.extra)
    scores = {LEARNING_SET: float(learning[0])} | {name: values["end"] for name, values in sets.items()}
    scores |= {name: float(np.mean([trial.extra[name] for trial in trials if name in trial.extra])) for name in extras}
    record = {
        "method": trials[0].method,
        "hyperparameters": trials[0].hyperparameters,
        "seeds": seeds,
        "learning": float(learning[0]),
        "learning_ci": interval(learning),
        "forgetting": float(forgetting[0]),
        "forgetting_ci": interval(forgetting),
        "scores": scores,
        "sets": sets,
    }
    return record, learning, forgetting


def _matched(curves: Mapping[str, tuple[Array, Array]]) -> list[dict[str, Any]]:
    """Forgetting at the levels that the compared methods' frontiers all span."""
    rows = []
    frontiers = {method: nondominated(*curve) for method, curve in curves.items()}
    for level in (tenths / 10 for tenths in range(1, 11)):
        methods = {}
        for method, curve in curves.items():
            forgetting, spans = forgetting_at(level, *curve, frontiers[method])
            if spans[0]:
                reached = float((curve[0][1:] >= level - EPSILON).any(axis=1).mean())
                methods[method] = {"forgetting": float(forgetting[0]), "ci": interval(forgetting), "reached": reached}
        if all(method in methods for method in COMPARED_METHODS):
            rows.append({"learning": level, "methods": methods})
    return rows
