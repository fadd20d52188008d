"""The geometry of one method's trade-off between learning (higher is better) and forgetting
(lower is better).

Every function takes arrays of shape [rows, points], a row per bootstrap resample, and does all
rows at once. A point that a resample lacks is NaN there.
"""

import numpy as np
from numpy.typing import NDArray

_TOLERANCE = 1e-9
MIN_SPAN = 0.05
"""The least learning between the two points that continue a line beyond its end: points closer
together would extrapolate noise."""

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


class Curve:
    """What a method loses against what it learns: in each row, the line through its points in the
    order of their learning. Column 0 of `learning` [rows, points] is the untrained model."""

    def __init__(self, learning: Array) -> None:
        self._order = np.argsort(learning, axis=1, kind="stable")  # NaN comes last
        self._learning = np.take_along_axis(learning, self._order, axis=1)
        self._rows = np.arange(len(learning))
        self._has_settings = np.isfinite(learning[:, 1:]).any(axis=1)

    def reaches(self, level: float) -> Mask:
        """[rows]: whether any point learns as much."""
        return np.asarray((self._learning >= level - _TOLERANCE).any(axis=1))

    def at(self, level: float, loss: Array) -> Array:
        """[rows]: the loss [rows, points] at this level of learning, linear between neighbouring
        points; NaN in a row without any setting.

        A row that falls short of the level continues its last segment, since an interval without
        such rows would keep only the lucky ones.
        """
        loss = np.take_along_axis(loss, self._order, axis=1)
        right = (self._learning >= level - _TOLERANCE).argmax(axis=1)
        left = np.maximum(right - 1, 0)
        span = self._learning[self._rows, right] - self._learning[self._rows, left]
        share = np.divide(level - self._learning[self._rows, left], span, out=np.ones_like(span), where=span > 0)
        below, above = loss[self._rows, left], loss[self._rows, right]
        value = np.where(self.reaches(level), below + share * (above - below), self._beyond(level, loss))
        return np.where(self._has_settings, value, np.nan)

    def _beyond(self, level: float, loss: Array) -> Array:
        last = np.isfinite(self._learning).sum(axis=1) - 1
        end = self._learning[self._rows, last]
        earlier = (self._learning <= end[:, None] - MIN_SPAN).sum(axis=1) - 1
        span = end - self._learning[self._rows, earlier]
        rise = loss[self._rows, last] - loss[self._rows, earlier]
        slope = np.divide(rise, span, out=np.zeros_like(span), where=earlier >= 0)
        return np.asarray(loss[self._rows, last] + slope * (level - end))
