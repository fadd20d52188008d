"""95 % percentile intervals by a bootstrap over seeds and items.

One resample draws seeds with replacement and, for each set, items with replacement. All settings
and methods, start and end, and all seeds share the draw: a hard question is hard for all of them,
so differences stay paired, and averaging over seeds does not hide how few questions there are.
With one seed the interval is of the items alone; three still understate how much seeds vary.
"""

import zlib
from collections.abc import Sequence

import numpy as np

from memlm.results.pareto import Array
from memlm.results.scores import EPSILON, SetScore


class Resamples:
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
        return np.round(divide((weights * values).sum(axis=1), weights.sum(axis=1)), 12)


def divide(numerator: Array, denominator: Array) -> Array:
    return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > EPSILON)


def interval(values: Array) -> list[float] | None:
    """95 % percentile interval of the resamples (all rows but the observed); None if no resample
    has a value."""
    drawn = values[1:][np.isfinite(values[1:])]
    return [float(bound) for bound in np.percentile(drawn, [2.5, 97.5])] if drawn.size else None
