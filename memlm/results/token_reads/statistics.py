"""Share of a token's reads that are trainable, by kinds of tokens, with 95 % intervals by a
bootstrap over facts.

All texts of a fact are drawn together: its wordings are no independent samples.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from memlm.results.bootstrap import interval
from memlm.results.pareto import Array

END = "end of text"
"""Part of the eos token. The other parts are those of the world's grammar."""
PLACES = (
    "before the value",
    "name, first",
    "name, inside",
    "name, last",
    "value, first",
    "value, inside",
    "value, last",
)
"""Places of tokens at and near the borders of names and values; a name of one token is its own
last. Other tokens have no place."""
CONTRASTS = {
    "name - template": ("entity", "template"),
    "value - template": ("value", "template"),
    "stop - template": ("stop", "template"),
}


@dataclass(frozen=True, kw_only=True)
class ReadToken:
    """One token of a text and its reads."""

    text: str
    part: str
    part_of_speech: str
    place: str
    """One of PLACES, or empty."""
    num_read: int
    """Slots that it reads; a slot that several heads read counts once."""
    num_trainable: tuple[int, ...]
    """How many of them are trainable, for each number of trainable slots."""
    nats: float | None
    """Surprise at the token, given the tokens before it; None for the first."""


@dataclass(frozen=True, kw_only=True)
class ReadText:
    fact: str
    kind: str
    """statement or question."""
    tokens: tuple[ReadToken, ...]


def summarize(texts: Sequence[ReadText], slot_counts: Sequence[int], *, samples: int = 2000) -> dict[str, Any]:
    """By kind of text and number of trainable slots: shares by part, part of speech and place,
    differences between parts, alignment with names and values, and correlation with surprise."""
    kinds = dict.fromkeys(text.kind for text in texts)
    return {
        kind: {
            "num_texts": len(chosen := [text for text in texts if text.kind == kind]),
            "num_tokens": sum(len(text.tokens) for text in chosen),
            **{f"t={count}": _summary(chosen, index, samples) for index, count in enumerate(slot_counts)},
        }
        for kind in kinds
    }


def _summary(texts: Sequence[ReadText], index: int, samples: int) -> dict[str, Any]:
    facts = _Facts(texts, samples)
    shares = {
        name: facts.means(index, key)
        for name, key in (
            ("part", lambda token: token.part),
            ("part_of_speech", lambda token: token.part_of_speech),
            ("place", lambda token: token.place or "other"),
        )
    }
    parts = shares["part"]
    return {
        "all": facts.means(index, lambda token: "all")["all"].to_json(),
        **{f"by_{name}": {key: each.to_json() for key, each in found.items()} for name, found in shares.items()},
        "differences": {
            name: _estimate(parts[one].values - parts[other].values)
            for name, (one, other) in CONTRASTS.items()
            if one in parts and other in parts
        },
        "alignment": {
            "last of name or value": facts.alignment(index, lambda token: token.place in ("name, last", "value, last")),
            "name or value": facts.alignment(index, lambda token: token.part in ("entity", "value")),
        },
        "spearman": {
            "surprise at the token": facts.correlation(index, offset=0),
            "surprise at the next token": facts.correlation(index, offset=1),
        },
    }


@dataclass(frozen=True)
class _Share:
    """A mean share: as observed in row 0, and in every resample."""

    values: Array
    num_tokens: int

    def to_json(self) -> dict[str, Any]:
        return {"share": float(self.values[0]), "ci": interval(self.values), "num_tokens": self.num_tokens}


class _Facts:
    """Texts by fact, and the weights with which each resample draws the facts."""

    def __init__(self, texts: Sequence[ReadText], samples: int) -> None:
        by_fact: dict[str, list[ReadText]] = {}
        for text in texts:
            by_fact.setdefault(text.fact, []).append(text)
        self.facts = list(by_fact.values())
        size = len(self.facts)
        drawn = np.random.default_rng(0).multinomial(size, np.full(size, 1 / size), size=samples)
        self.weights: Array = np.vstack([np.ones(size), drawn])

    def means(self, index: int, key: Callable[[ReadToken], str]) -> dict[str, _Share]:
        """The mean share of each class of tokens, most frequent class first."""
        sums: dict[str, Array] = {}
        for number, texts in enumerate(self.facts):
            for token in (token for text in texts for token in text.tokens):
                found = sums.setdefault(key(token), np.zeros((2, len(self.facts))))
                found[:, number] += _share(token, index), 1
        ordered = sorted(sums, key=lambda name: -sums[name][1].sum())
        return {name: _Share(self._ratio(*sums[name]), int(sums[name][1].sum())) for name in ordered}

    def alignment(self, index: int, chosen: Callable[[ReadToken], bool]) -> dict[str, Any]:
        """Probability that a chosen token has a higher share than another token of the same text,
        ties counting half; 0.5 is no alignment. The end of text is left out."""
        areas = [[_area(text, index, chosen) for text in texts] for texts in self.facts]
        known = [[area for area in found if area is not None] for found in areas]
        means = np.array([np.mean(found) if found else 0.0 for found in known])
        return _estimate(self._ratio(means, np.array([float(bool(found)) for found in known])))

    def correlation(self, index: int, *, offset: int) -> dict[str, Any]:
        """Spearman's correlation of a token's share with the surprise at the token `offset` after
        it. Ranks are those of all tokens, in every resample."""
        owners: list[int] = []
        pairs: list[tuple[float, float]] = []
        for number, texts in enumerate(self.facts):
            for share, nats in (pair for text in texts for pair in _pairs(text, index, offset)):
                owners.append(number)
                pairs.append((share, nats))
        x, y = (_ranks(column) for column in np.array(pairs, dtype=float).reshape(-1, 2).T)
        sums = [np.bincount(owners, each, len(self.facts)) for each in (np.ones_like(x), x, y, x * x, y * y, x * y)]
        count, sx, sy, sxx, syy, sxy = (self.weights @ each for each in sums)
        covariance = count * sxy - sx * sy
        spread = np.sqrt((count * sxx - sx**2) * (count * syy - sy**2))
        return _estimate(np.divide(covariance, spread, out=np.full_like(spread, np.nan), where=spread > 0))

    def _ratio(self, sums: Array, counts: Array) -> Array:
        drawn = self.weights @ counts
        return np.divide(self.weights @ sums, drawn, out=np.full(len(drawn), np.nan), where=drawn > 0)


def _share(token: ReadToken, index: int) -> float:
    return token.num_trainable[index] / token.num_read


def _pairs(text: ReadText, index: int, offset: int) -> Iterable[tuple[float, float]]:
    for token, other in zip(text.tokens, text.tokens[offset:], strict=False):
        if other.nats is not None:
            yield _share(token, index), other.nats


def _area(text: ReadText, index: int, chosen: Callable[[ReadToken], bool]) -> float | None:
    tokens = [token for token in text.tokens if token.part != END]
    inside = np.array([_share(token, index) for token in tokens if chosen(token)])
    outside = np.array([_share(token, index) for token in tokens if not chosen(token)])
    if not inside.size or not outside.size:
        return None
    above = inside[:, None] > outside[None]
    return float((above + 0.5 * (inside[:, None] == outside[None])).mean())


def _ranks(values: Array) -> Array:
    """Ranks about 0, in units of their number; ties share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - (counts + 1) / 2)[inverse] - (len(values) - 1) / 2) / max(1, len(values))


def _estimate(values: Array) -> dict[str, Any]:
    """A value with its interval; both are None where it is not defined."""
    return {"value": float(values[0]) if np.isfinite(values[0]) else None, "ci": interval(values)}
