"""Effect of a stream of facts on the facts learned before: scores of every fact, right after it was
learned and at the end, in one document.

    FactTrace per fact -> backward transfer, forgetting (also by age), paraphrase gap,
                          slots that facts share
    CurvePoint every few steps -> learning curve

Backward transfer is that of GEM (Lopez-Paz & Ranzato 2017, arXiv 1706.08840, section 2), with
facts for tasks: the mean over all facts but the last one of the score at the end minus the score
right after the fact was learned, R_Ti - R_ii. It is negative where later facts overwrite earlier
ones. Forgetting is the mean of the losses alone, max(0, R_ii - R_Ti), so gains elsewhere do not
hide it. With several passes over the stream, a fact is learned when the last step that holds it
is done.

Intervals are 95 % percentile intervals of a bootstrap over facts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from memlm.evaluation.fact_scores import FactScore

NUM_AGE_BINS = 5
NUM_FACTS_OF_MATRIX = 24
SLOTS_AT_ONCE = 4096

Values = Float[np.ndarray, " facts"]


@dataclass(frozen=True, kw_only=True)
class FactTrace:
    """One fact of a stream that has ended."""

    fact_id: str
    step: int
    """The last step that held the fact, counted from 1."""
    start: FactScore
    """Score of the base model. Here and below, seen wordings are the wordings in the stream."""
    after: FactScore
    """Score right after that step."""
    end: FactScore
    slots: tuple[int, ...] | None = None
    """Slots that were trainable in that step; None for a method that selects no slots."""


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """Mean scores of all facts of the stream after a number of steps, learned yet or not."""

    step: int
    exact_match: float
    nats_per_token: float
    held_out: Mapping[str, float]
    """Exact match by question set."""


def stream_metrics(
    traces: Sequence[FactTrace], curve: Sequence[CurvePoint], *, samples: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """The measures of a traced stream, as one JSON document. Traces may come in any order."""
    if not traces:
        raise ValueError("traces is empty; stream metrics need at least one fact, so trace a stream that has one")
    traces = sorted(traces, key=lambda trace: trace.step)
    resamples = _Resamples(samples, seed)
    return {
        "num_facts": len(traces),
        "exact_match": _change(traces, "exact_match", resamples, sign=1),
        "nats_per_token": _change(traces, "nats_per_token", resamples, sign=-1),
        "forgetting_by_age": _by_age(traces, resamples),
        "paraphrase_gap": _paraphrase_gap(traces, resamples),
        "shared_slots": _shared_slots(traces, resamples),
        "curve": [asdict(point) for point in curve],
        "facts": [_fact(trace) for trace in traces],
        "bootstrap": {"samples": samples, "seed": seed, "confidence": 0.95},
    }


class _Resamples:
    """Bootstrap means over facts. Row 0 of the weights is the sample as observed."""

    def __init__(self, samples: int, seed: int) -> None:
        self.samples, self.seed = samples, seed
        self.by_size: dict[int, Float[np.ndarray, "drawn size"]] = {}

    def weights(self, size: int) -> Float[np.ndarray, "drawn size"]:
        if size not in self.by_size:
            drawn = np.random.default_rng([self.seed, size]).multinomial(
                size, np.full(size, 1 / size), size=self.samples
            )
            self.by_size[size] = np.vstack([np.ones(size), drawn])
        return self.by_size[size]

    def mean(self, values: Values | Sequence[float]) -> dict[str, Any] | None:
        """The mean with its interval; None if there are no values."""
        array = np.asarray(values, dtype=float)
        return interval(self.weights(len(array)) @ array / len(array), len(array)) if len(array) else None


def interval(means: Float[np.ndarray, " drawn"], num_facts: int) -> dict[str, Any]:
    """The observed mean, which comes first, with the interval of its resamples."""
    resampled = means[1:] if len(means) > 1 else means
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return {"mean": float(means[0]), "ci": [float(low), float(high)], "num_facts": num_facts}


def _column(traces: Sequence[FactTrace], moment: str, measure: str) -> Values:
    return np.array([getattr(getattr(trace, moment), measure) for trace in traces])


def _change(traces: Sequence[FactTrace], measure: str, resamples: _Resamples, *, sign: int) -> dict[str, Any]:
    """`sign` is 1 where more is better. Transfer and forgetting are in the measure's own unit;
    both grow as their names say."""
    start, after, end = (_column(traces, moment, measure) for moment in ("start", "after", "end"))
    kept = sign * (end - after)[:-1]  # the last fact has no later ones
    return {
        "start": resamples.mean(start),
        "right_after": resamples.mean(after),
        "end": resamples.mean(end),
        "backward_transfer": resamples.mean(kept),
        "forgetting": resamples.mean(np.maximum(0, -kept)),
    }


def _by_age(traces: Sequence[FactTrace], resamples: _Resamples) -> list[dict[str, Any]]:
    """Forgetting by how many facts were learned later, from the youngest to the oldest; the last
    fact, of age 0, is left out."""
    older = list(reversed(traces))[1:]
    ages = np.arange(1, len(older) + 1)
    bins = []
    for places in np.array_split(np.arange(len(older)), min(NUM_AGE_BINS, len(older)) or 1):
        if not len(places):
            continue
        chosen = [older[place] for place in places]
        lost = _column(chosen, "after", "exact_match") - _column(chosen, "end", "exact_match")
        risen = _column(chosen, "end", "nats_per_token") - _column(chosen, "after", "nats_per_token")
        bins.append(
            {
                "from_age": int(ages[places[0]]),
                "to_age": int(ages[places[-1]]),
                "exact_match": resamples.mean(np.maximum(0, lost)),
                "nats_per_token": resamples.mean(np.maximum(0, risen)),
            }
        )
    return bins


def _paraphrase_gap(traces: Sequence[FactTrace], resamples: _Resamples) -> dict[str, Any]:
    """How much better the trained wordings are known than the questions, at each moment. Facts
    without a trained wording are left out."""
    asked = [trace for trace in traces if trace.end.seen_nats_per_token is not None]
    gap: dict[str, Any] = {"num_facts": len(asked)}
    for moment in ("start", "after", "end"):
        seen_right, seen_nats, right, nats = (
            _column(asked, moment, name)
            for name in ("seen_exact_match", "seen_nats_per_token", "exact_match", "nats_per_token")
        )
        gap[moment] = {
            "seen_exact_match": resamples.mean(seen_right),
            "seen_nats_per_token": resamples.mean(seen_nats),
            "exact_match": resamples.mean(seen_right - right),
            "nats_per_token": resamples.mean(nats - seen_nats),
        }
    return gap


def _shared_slots(traces: Sequence[FactTrace], resamples: _Resamples) -> dict[str, Any] | None:
    """The overlap of two facts' trainable slots; None for a method that selects no slots."""
    selected = [trace.slots for trace in traces if trace.slots is not None]
    if len(selected) < 2:
        return None
    overlap = jaccard(selected)
    shown = [trace.fact_id for trace in traces if trace.slots is not None][:NUM_FACTS_OF_MATRIX]
    matrix = overlap[: len(shown), : len(shown)]
    return {
        "jaccard": _mean_of_pairs(overlap, resamples),
        "slots_per_fact": resamples.mean([len(slots) for slots in selected]),
        "rewritten_share": resamples.mean(_rewritten_shares(selected)),
        "slots_of_all": len(set().union(*selected)),
        "first_facts": shown,
        "matrix": [[round(float(value), 4) for value in row] for row in matrix],
    }


def _rewritten_shares(selected: Sequence[tuple[int, ...]]) -> list[float]:
    """The share of each fact's slots that a later fact was allowed to move again, for every fact
    but the last, in the order learned."""
    later: set[int] = set(selected[-1])
    shares = []
    for slots in reversed(selected[:-1]):
        shares.append(len(later.intersection(slots)) / max(1, len(slots)))
        later.update(slots)
    return shares[::-1]


def jaccard(sets: Sequence[Sequence[int]]) -> Float[np.ndarray, "sets sets"]:
    """|A and B| / |A or B| for every two sets; 1 for two empty sets. Memory grows with the number
    of sets times SLOTS_AT_ONCE, not with the pool."""
    slots, columns = np.unique(np.concatenate([np.asarray(one, dtype=np.int64) for one in sets]), return_inverse=True)
    rows = np.repeat(np.arange(len(sets)), [len(one) for one in sets])
    both = np.zeros((len(sets), len(sets)))
    for first in range(0, len(slots), SLOTS_AT_ONCE):
        here = (columns >= first) & (columns < first + SLOTS_AT_ONCE)
        holds = np.zeros((len(sets), SLOTS_AT_ONCE), dtype=np.float32)
        holds[rows[here], columns[here] - first] = 1
        both += holds @ holds.T
    sizes = np.diag(both)
    either = sizes[:, None] + sizes[None, :] - both
    return np.divide(both, either, out=np.ones_like(both), where=either > 0)


def _mean_of_pairs(overlap: Float[np.ndarray, "facts facts"], resamples: _Resamples) -> dict[str, Any]:
    """The mean over pairs of different facts. A fact that a resample draws twice makes no pair with
    itself."""
    weights = resamples.weights(len(overlap))
    pairs = weights.sum(axis=1) ** 2 - (weights**2).sum(axis=1)
    sums = ((weights @ (overlap - np.diag(np.diag(overlap)))) * weights).sum(axis=1)
    return interval(np.divide(sums, pairs, out=np.full_like(sums, np.nan), where=pairs > 0), len(overlap))


def _fact(trace: FactTrace) -> dict[str, Any]:
    """The trace without its slots, which would take too much room."""
    scores = {moment: asdict(getattr(trace, moment)) for moment in ("start", "after", "end")}
    return {"id": trace.fact_id, "step": trace.step, **scores}
