"""Forgetting at matched learning, and the differences between methods there."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from memlm.results.bootstrap import divide, interval
from memlm.results.comparing.measuring import MeasuredMethod
from memlm.results.pareto import Array, Curve, Mask
from memlm.results.scores import EPSILON

LEVELS = tuple(tenths / 10 for tenths in range(1, 11))


class MethodCurve:
    """A method's chosen settings as a line, from the untrained model on."""

    def __init__(self, measured: MeasuredMethod, chosen: Sequence[int]) -> None:
        self.measured, self.settings = measured, [measured.settings[index] for index in chosen]
        self.learning = measured.learning_of(self.settings)
        self._curve = Curve(self.learning)

    def reaches(self, level: float) -> Mask:
        return self._curve.reaches(level)

    def drops(self, name: str) -> Array:
        return self.measured.line([setting.drops[name] for setting in self.settings])

    def drop(self, name: str, level: float) -> Array:
        return self._curve.at(level, self.drops(name))

    def loss(self, name: str, level: float) -> Array:
        return self._curve.at(level, self.measured.line([setting.losses[name] for setting in self.settings]))

    def average(self, averaged: Sequence[str], level: float) -> Array:
        return self._curve.at(level, self.measured.line([setting.average(averaged) for setting in self.settings]))


def at_matched_learning(
    curves: Mapping[str, MethodCurve], counted: Sequence[str], averaged: Sequence[str]
) -> list[dict[str, Any]]:
    """A row for each tenth of learning that a method reaches, with the methods that reach it."""
    rows = []
    for level in LEVELS:
        methods = {}
        for method, curve in curves.items():
            reached = curve.reaches(level)
            if reached[0]:
                drops = {name: curve.drop(name, level) for name in counted}
                average = curve.average(averaged, level)
                methods[method] = {
                    "forgetting": float(average[0]),
                    "ci": interval(average),
                    "reached": float(reached[1:].mean()),
                    "sets": {
                        name: {"forgetting": float(drop[0]), "ci": interval(drop)} for name, drop in drops.items()
                    },
                }
        if methods:
            rows.append({"learning": level, "methods": methods})
    return rows


@dataclass(frozen=True, kw_only=True)
class _AtLevel:
    """Losses of one method on one set at one level."""

    method: str
    loss: Array
    reached: Mask


def paired_differences(curves: Mapping[str, MethodCurve], units: Mapping[str, str]) -> list[dict[str, Any]]:
    """A row for every set of `units`, every ordered pair of methods and every tenth of learning
    that both reach."""
    rows = []
    for name, level in itertools.product(units, LEVELS):
        there = [
            _AtLevel(method=method, loss=curve.loss(name, level), reached=curve.reaches(level))
            for method, curve in curves.items()
            if curve.reaches(level)[0]
        ]
        for one, other in itertools.combinations(there, 2):
            difference = one.loss - other.loss
            bounds = interval(difference)
            forth = {"set": name, "learning": level, **_pair(one, other), "difference": float(difference[0])}
            back = {"set": name, "learning": level, **_pair(other, one), "difference": float(-difference[0])}
            rows += [
                {**forth, "ci": bounds, "unit": units[name]},
                {**back, "ci": [-bounds[1], -bounds[0]] if bounds else None, "unit": units[name]},
            ]
    return rows


def _pair(one: _AtLevel, other: _AtLevel) -> dict[str, Any]:
    against = float(other.loss[0])
    there = np.isfinite(other.loss) & np.isfinite(one.loss)
    return {
        "method": one.method,
        "against": other.method,
        "ratio": float(one.loss[0]) / against if against > EPSILON else None,
        "ratio_ci": interval(divide(one.loss, other.loss)) if (other.loss[there] > EPSILON).all() else None,
        "reached": float((one.reached & other.reached)[1:].mean()),
    }
