"""95 % percentile intervals by a bootstrap over checkpoints, seeds and items.

One resample draws checkpoints with replacement; for each that it draws, seeds with replacement and,
for each set, items with replacement. All settings and methods, start and end, and all seeds share
the draw: a hard question is hard for all of them, so differences stay paired, and averaging over
seeds does not hide how few questions there are. With one checkpoint the interval is of seeds and
items, with one seed too of the items alone; three seeds still understate how much seeds vary.
"""

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from memlm.results.pareto import Array
from memlm.results.scores import EPSILON, SetScore

UNITS_PER_ONE = 10**6
"""Items are measured to six decimals. Sums of whole millionths are exact, so that they depend
neither on the order of summation nor on the machine."""


class Resamples:
    """Draws of the bootstrap. Resample 0 is the sample as observed, so that values and intervals
    are one computation.

    A checkpoint that a resample draws twice has two draws of seeds and items. `draws` are all draws
    of one checkpoint, over all resamples; draw 0 is the observed one.
    """

    def __init__(self, samples: int, seed: int, checkpoints: Sequence[str] = ("",)) -> None:
        self._samples, self._seed, self._several = samples, seed, len(checkpoints) > 1
        drawn = np.zeros((samples, 1), dtype=int)
        if self._several:
            drawn = self._generator("checkpoints", len(checkpoints)).integers(
                len(checkpoints), size=(samples, len(checkpoints))
            )
        self._resamples = {
            checkpoint: np.concatenate([[0], 1 + np.nonzero(drawn == index)[0]])
            for index, checkpoint in enumerate(checkpoints)
        }
        self._counts: dict[tuple[str, int, str], Array] = {}

    def resamples_of(self, checkpoint: str) -> NDArray[np.int_]:
        """[draws]: the resample that each of the checkpoint's draws belongs to, in order."""
        return self._resamples[checkpoint]

    def _generator(self, name: str, size: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, zlib.crc32(name.encode()), size])

    def counts(self, name: str, size: int, checkpoint: str) -> Array:
        """[size, draws]: how often each of `size` things is drawn. A function of its arguments
        alone: this pairs settings, methods, start and end."""
        key = (name, size, checkpoint)
        if key not in self._counts:
            rng = self._generator(f"{name} of checkpoint {checkpoint}" if self._several else name, size)
            number = len(self._resamples[checkpoint]) - 1
            drawn = rng.multinomial(size, np.full(size, 1 / size), size=number)
            self._counts[key] = np.ascontiguousarray(np.vstack([np.ones(size), drawn]).T)
        return self._counts[key]

    def means(self, name: str, scores: Sequence[SetScore], checkpoint: str) -> Array:
        """[scores, draws]: the mean over items of each score of a set, in each draw of the
        checkpoint."""
        means = np.empty((len(scores), len(self._resamples[checkpoint])))
        sizes = np.array([len(score.items) for score in scores])
        for size in np.unique(sizes).tolist():
            rows = np.flatnonzero(sizes == size).tolist()
            items = np.array([scores[row].items for row in rows]) * UNITS_PER_ONE
            counts = self.counts(f"items of {name}", size, checkpoint)
            means[rows] = np.round(items, 3) @ counts / (size * UNITS_PER_ONE)
        return means

    def over_seeds(self, values: Array, seeds: Sequence[int], all_seeds: Sequence[int], checkpoint: str) -> Array:
        """[draws]: mean of `values` [seeds, draws]; NaN where none of the seeds was drawn, so that
        the draw lacks the setting."""
        weights = self.counts("seeds", len(all_seeds), checkpoint)[[all_seeds.index(seed) for seed in seeds]]
        return divide((weights * values).sum(axis=0), weights.sum(axis=0))

    def over_checkpoints(self, values: Mapping[str, Array]) -> Array:
        """[1 + samples]: mean of the checkpoints' draws in each resample; NaN where it drew none of
        these checkpoints."""
        total, number = np.zeros(1 + self._samples), np.zeros(1 + self._samples)
        for checkpoint, of_draws in values.items():
            resamples, there = self._resamples[checkpoint], np.isfinite(of_draws)
            total += np.bincount(resamples[there], weights=of_draws[there], minlength=len(total))
            number += np.bincount(resamples[there], minlength=len(total))
        # Rounding lets settings that tie in exact arithmetic tie here, whatever the order of
        # summation.
        return np.round(divide(total, number), 12)


def divide(numerator: Array, denominator: Array) -> Array:
    """NaN where the denominator is not above 0."""
    return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > EPSILON)


def interval(values: NDArray[np.float64]) -> list[float] | None:
    """95 % percentile interval of the resamples (all rows but the observed); None if no resample
    has a value."""
    drawn = values[1:][np.isfinite(values[1:])]
    return [float(bound) for bound in np.percentile(drawn, [2.5, 97.5])] if drawn.size else None
