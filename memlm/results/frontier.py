"""Which method learns the most for what it forgets?

The last step of a sweep: finished trials in, one JSON document out, which the report draws and
MLflow keeps.

    trials (method, hyperparameters, seed; scored before and after) -> points (mean over seeds)
    -> frontier per method
                                                                    -> forgetting at matched
                                                                    learning, hypervolume

Learning is absolute accuracy on the new facts. Forgetting is the drop on held-out sets relative
to the model's own start (Lin et al. 2025, section 5, compare this way): the memory model and the
dense one start from different levels.

Intervals are 95 % percentile intervals of a bootstrap over seeds and items. One resample draws
seeds with replacement and, for each set, items with replacement. The draw is shared by all
settings and methods, by start and end, and by the seeds: a hard question is hard for all of
them, so differences stay paired, and averaging over seeds does not hide how few questions there
are. With one seed the interval is of the items alone; three still understate how much seeds
vary.
"""

import csv
import dataclasses
import itertools
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np

from memlm.results.pareto import Array, forgetting_at, hypervolume, nondominated

LEARNING_SET = "new_facts"
Measure = Literal["exact_match", "f1", "accuracy", "nats_per_token"]
COMPARED_METHODS = ("sparse_memory", "lora", "full")
"""The paper's three; a level is matched when all of them reach it."""
MIN_ABOVE_CHANCE = 0.05
MIN_STANDARD_ERRORS = 2.0
"""Nearer to chance than either, a relative drop divides by noise."""
_EPSILON = 1e-9


class FrontierError(ValueError):
    """Trials that cannot be compared."""


@dataclass(frozen=True, kw_only=True)
class SetScore:
    """One evaluation set, one model: a score per question (exact match, F1, accuracy, nats per
    token of a solution) or per block (nats per token)."""

    task: str
    measure: Measure
    chance: float
    items: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.measure not in get_args(Measure):
            raise FrontierError(f"{self.task}: measure {self.measure!r} is not one of {', '.join(get_args(Measure))}")
        if not self.items or not np.isfinite(self.items).all():
            raise FrontierError(f"{self.task}: needs one or more items, all finite; check the model and the set")
        if not self.is_loss and not all(0 <= value <= 1 for value in (*self.items, self.chance)):
            raise FrontierError(f"{self.task}: {self.measure} and chance lie in 0..1; divide percentages by 100")

    @property
    def is_loss(self) -> bool:
        return self.measure == "nats_per_token"

    @property
    def value(self) -> float:
        return float(np.mean(self.items))

    @property
    def standard_errors_above_chance(self) -> float:
        """How far the mean lies above chance, in standard errors of the mean; infinite for a
        loss, and where all items are alike."""
        error = float(np.std(self.items)) / len(self.items) ** 0.5
        return (self.value - self.chance) / error if error > _EPSILON and not self.is_loss else float("inf")

    def drop_to(self, end: "SetScore") -> float:
        """The relative drop, unclipped: of accuracy above chance, or the rise of a loss; nan
        where the start leaves no room."""
        lost, room = (
            (end.value - self.value, self.value) if self.is_loss else (self.value - end.value, self.value - self.chance)
        )
        return lost / room if room > _EPSILON else float("nan")


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """One finetuning run, finished: what it was, and every set's scores before and after."""

    key: str
    method: str
    hyperparameters: dict[str, float | int | str]
    seed: int
    start: dict[str, SetScore]
    end: dict[str, SetScore]
    extra: dict[str, float]
    answers: dict[str, list[dict[str, Any]]] = dataclasses.field(default_factory=dict, repr=False)
    """By set, each question with what counts as right and the answers before and after. Kept
    with a finetune, and not in a sweep."""

    def to_json(self) -> dict[str, Any]:
        """Without the answers."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "answers"}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """What to_json wrote. Raises FrontierError, KeyError or TypeError for anything else."""

        def scores(side: Mapping[str, Any]) -> dict[str, SetScore]:
            return {name: SetScore(**{**score, "items": tuple(score["items"])}) for name, score in side.items()}

        read = cls(**{**value, "start": scores(value["start"]), "end": scores(value["end"])})
        kinds = {"key": str, "method": str, "seed": int, "hyperparameters": Mapping, "extra": Mapping}
        wrong = [name for name, kind in kinds.items() if not isinstance(getattr(read, name), kind)]
        numbers = (*read.extra.values(), *read.hyperparameters.values()) if not wrong else ()
        if wrong or not all(isinstance(each, int | float | str) for each in numbers):
            raise FrontierError(
                f"trial {str(read.key)[:80]!r}: {', '.join(wrong) or 'a number'} is of the wrong type; run the trial again"
            )
        return read


@dataclass(frozen=True, kw_only=True)
class FailedSetting:
    """A setting that learning diverged under with one seed or more: it has no mean, and is no
    point of a frontier."""

    method: str
    hyperparameters: dict[str, float | int | str]
    seeds: tuple[int, ...]
    """Those it diverged with."""
    reason: str


def build_frontier(
    recipe: str,
    trials: Sequence[TrialResult],
    *,
    failed: Sequence[FailedSetting] = (),
    samples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Everything a sweep shows, as one JSON document.

    `failed` are the settings that are no points; they are shown beside them. `on_frontier`
    compares a point with its own method's points; `on_joint_frontier` with all methods' points.
    In `matched`, `reached` is the share of resamples in which the method learns that much at
    all.
    """
    _require_comparable(trials)
    counted = _forgetting_sets(trials)
    resamples = _Resamples(samples, seed)
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
        "hypervolume_ci": {method: _interval(volume) for method, volume in volumes.items()},
        "matched": _matched(curves),
        "bootstrap": {"samples": samples, "seed": seed, "confidence": 0.95},
    }


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


def _method_order(method: str) -> tuple[int, str]:
    return (COMPARED_METHODS.index(method) if method in COMPARED_METHODS else len(COMPARED_METHODS), method)


def _require_comparable(trials: Sequence[TrialResult]) -> None:
    if not trials:
        raise FrontierError("no trials: a frontier needs at least one finished trial; run the sweep first")
    expected = {name: (score.task, score.measure) for name, score in trials[0].start.items()}
    if expected.get(LEARNING_SET, ("", "nats_per_token"))[1] == "nats_per_token":
        raise FrontierError(f"trial {trials[0].key}: learning is the accuracy on a set named {LEARNING_SET!r}; add it")
    seen: set[tuple[str, str, int]] = set()
    for trial in trials:
        for side, scores in (("start", trial.start), ("end", trial.end)):
            if (found := {name: (score.task, score.measure) for name, score in scores.items()}) != expected:
                raise FrontierError(
                    f"trial {trial.key}: {side} was scored on {found}, trial {trials[0].key} on {expected}; "
                    "score all trials on the same sets and task versions"
                )
        if any(len(score.items) != len(trial.end[name].items) for name, score in trial.start.items()):
            raise FrontierError(f"trial {trial.key}: start and end must be scored on the same items; score it again")
        if clash := expected.keys() & trial.extra.keys():
            raise FrontierError(f"trial {trial.key}: extra {sorted(clash)} are names of sets; rename them")
        if (identity := (trial.method, _setting_key(trial), trial.seed)) in seen:
            raise FrontierError(f"trial {trial.key}: {identity} appears twice; keep one trial per setting and seed")
        seen.add(identity)


def _forgetting_sets(trials: Sequence[TrialResult]) -> list[str]:
    """Held-out sets on which every compared model starts far enough above chance; the others
    count for no method."""
    held_out = [name for name in trials[0].start if name != LEARNING_SET]
    margins = {name: min(trial.start[name].value - trial.start[name].chance for trial in trials) for name in held_out}
    counted = [
        name
        for name in held_out
        if margins[name] >= MIN_ABOVE_CHANCE - _EPSILON
        and all(trial.start[name].standard_errors_above_chance >= MIN_STANDARD_ERRORS for trial in trials)
    ]
    if not counted:
        raise FrontierError(
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
    """Where a method's model began, so that learning can be read as a gain."""
    means = {name: float(np.mean([trial.start[name].value for trial in trials])) for name in trials[0].start}
    return {"learning": means.pop(LEARNING_SET)} | means


class _Resamples:
    """Weights of bootstrap means. Row 0 is the sample as observed: values and intervals are one
    computation."""

    def __init__(self, samples: int, seed: int) -> None:
        self._samples, self._seed = samples, seed
        self._weights: dict[tuple[str, int], Array] = {}

    def weights(self, name: str, size: int) -> Array:
        """[1 + samples, size]. A function of name and size alone: this pairs settings, methods,
        start and end."""
        if (name, size) not in self._weights:
            rng = np.random.default_rng([self._seed, zlib.crc32(name.encode()), size])
            drawn = rng.multinomial(size, np.full(size, 1 / size), size=self._samples)
            self._weights[name, size] = np.vstack([np.ones(size), drawn]) / size
        return self._weights[name, size]

    def means(self, name: str, scores: Sequence[SetScore]) -> Array:
        """[1 + samples, scores]: the mean over items of each score, in each resample."""
        return np.stack([self.weights(f"items of {name}", len(s.items)) @ np.array(s.items) for s in scores], axis=1)

    def mean_over_seeds(self, values: Array, seeds: Sequence[int], all_seeds: Sequence[int]) -> Array:
        """[1 + samples]; NaN where none of a setting's seeds was drawn, so that resample lacks
        the setting."""
        weights = self.weights("seeds", len(all_seeds))[:, [all_seeds.index(seed) for seed in seeds]]
        # Rounding lets settings that tie in exact arithmetic tie here, whatever the order of
        # summation.
        return np.round(_divide((weights * values).sum(axis=1), weights.sum(axis=1)), 12)


def _divide(numerator: Array, denominator: Array) -> Array:
    return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > _EPSILON)


def _measure_setting(
    trials: Sequence[TrialResult], counted: Sequence[str], resamples: _Resamples, all_seeds: Sequence[int]
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
            _divide(end - start, start) if score.is_loss else _divide(start - end, start - chance)
        )
        sets[name] = {
            "task": score.task,
            "measure": score.measure,
            "chance": float(chance.mean()),
            "counted": name in counted,
            "start": float(over_seeds(start)[0]),
            "end": float(over_seeds(end)[0]),
            "drop": None if np.isnan(drop[0]) else float(drop[0]),
            "drop_ci": _interval(drop),
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
        "learning_ci": _interval(learning),
        "forgetting": float(forgetting[0]),
        "forgetting_ci": _interval(forgetting),
        "scores": scores,
        "sets": sets,
    }
    return record, learning, forgetting


def _interval(values: Array) -> list[float] | None:
    """95 % percentile interval of the resamples (all rows but the observed); None if no resample
    has a value."""
    drawn = values[1:][np.isfinite(values[1:])]
    return [float(bound) for bound in np.percentile(drawn, [2.5, 97.5])] if drawn.size else None


def _matched(curves: Mapping[str, tuple[Array, Array]]) -> list[dict[str, Any]]:
    """Forgetting at the levels that the compared methods' frontiers all span."""
    rows = []
    frontiers = {method: nondominated(*curve) for method, curve in curves.items()}
    for level in (tenths / 10 for tenths in range(1, 11)):
        methods = {}
        for method, curve in curves.items():
            forgetting, spans = forgetting_at(level, *curve, frontiers[method])
            if spans[0]:
                reached = float((curve[0][1:] >= level - _EPSILON).any(axis=1).mean())
                methods[method] = {"forgetting": float(forgetting[0]), "ci": _interval(forgetting), "reached": reached}
        if all(method in methods for method in COMPARED_METHODS):
            rows.append({"learning": level, "methods": methods})
    return rows
