"""The geometry of one method's trade-off between learning (higher is better) and forgetting
(lower is better).

Every function takes arrays of shape [rows, points], a row per bootstrap resample, and does all
rows at once. A point that a resample lacks is NaN there.
"""

import numpy as np
from numpy.typing import NDArray

_TOLERANCE = 1e-9

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


def nondominated(learning: Array, forgetting: Array) -> Mask:
    """Mark the points that no other point of their row beats (as good on both axes, better on one).
    Equal points both stay."""
    on = np.isfinite(learning) & np.isfinite(forgetting)
    for point in range(learning.shape[1]):
        own_learning, own_forgetting = learning[:, [point]], forgetting[:, [point]]
        as_good = (learning >= own_learning) & (forgetting <= own_forgetting)
        better = (learning > own_learning) | (forgetting < own_forgetting)
        on[:, point] &= ~(as_good & better).any(axis=1)
    return on


def hypervolume(learning: Array, forgetting: Array) -> Array:
    """[rows]: the area that the points dominate, from learning 0 and forgetting 1; more
    forgetting adds none."""
    present = np.isfinite(learning) & np.isfinite(forgetting)
    right = np.where(present, learning, 0)
    order = np.argsort(right, axis=1)
    right = np.take_along_axis(right, order, axis=1)
    bottom = np.take_along_axis(np.where(present, np.minimum(forgetting, 1), 1), order, axis=1)
    # In the strip that ends at a point's learning, the least forgetting is that of the best
    # point from there on.
    lowest_from_here = np.minimum.accumulate(bottom[:, ::-1], axis=1)[:, ::-1]
    return np.asarray((np.diff(right, axis=1, prepend=0) * (1 - lowest_from_here)).sum(axis=1))


def forgetting_at(level: float, learning: Array, forgetting: Array, on: Mask) -> tuple[Array, Mask]:
    """[rows] forgetting at this learning, and whether the row's frontier spans the level.

    Linear between the two neighbouring frontier points. A row that falls short of the level
    continues its last segment, since an interval without such rows would keep only the lucky
    ones; below its first point it keeps that point's forgetting, which learns more than asked.
    """
    above, below = on & (learning >= level - _TOLERANCE), on & (learning <= level + _TOLERANCE)
    any_above, any_below = above.any(axis=1), below.any(axis=1)
    # Along a frontier forgetting rises with learning, so the nearest point has the extreme value
    # of both.
    right, top = _least(learning, above), _least(forgetting, above)
    left, bottom = -_least(-learning, below), -_least(-forgetting, below)
    before = on & (learning < left[:, None])
    earlier, lower = -_least(-learning, before), -_least(-forgetting, before)
    spans: Mask = np.asarray(any_above & any_below)
    short: Mask = np.asarray(any_below & ~any_above & before.any(axis=1))
    value = np.where(any_above, top, np.where(any_below, bottom, np.nan))
    value += np.where(short, (bottom - lower) * _ratio(level - left, left - earlier, short), 0)
    between: Mask = np.asarray(spans & (right - left > _TOLERANCE))
    value -= np.where(between, (top - bottom) * _ratio(right - level, right - left, between), 0)
    return value, spans


def _least(values: Array, among: Mask) -> Array:
    """[rows]; 0 where there is none, which no caller reads."""
    return np.where(among.any(axis=1), np.where(among, values, np.inf).min(axis=1), 0)


def _ratio(numerator: Array, denominator: Array, where: Mask) -> Array:
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=where)
