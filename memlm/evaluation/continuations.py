"""The likelihood of continuations: nats of each, given the text before it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from memlm.data import encoding
from memlm.model.reader import Reader

MAX_LOGITS = 2**26
"""Most logits in a batch, so that long rows and large vocabularies take at most a few hundred
MB."""


class Continuation(NamedTuple):
    before: str
    text: str
    """The continuation, with its leading space."""


@dataclass(frozen=True, kw_only=True)
class ContinuationNats:
    nats: float
    """Summed over the tokens."""
    num_tokens: int
    unigram_nats: float = 0.0
    """The sum under a unigram model; 0 where none was given."""

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.num_tokens

    @property
    def unigram_nats_per_token(self) -> float:
        return self.unigram_nats / self.num_tokens


@dataclass(frozen=True, kw_only=True)
class _Batch:
    places: list[int]
    """Index of each row among all continuations."""
    tokens: Int[Tensor, "batch seq"]
    is_scored: Bool[Tensor, "batch seq"]


@torch.no_grad()
def continuation_nats(
    reader: Reader,
    continuations: Sequence[Continuation],
    *,
    batch_size: int,
    unigram_nats: Float[Tensor, " vocab"] | None = None,
) -> list[ContinuationNats]:
    """One entry per continuation, in their order. Batch neighbours and pads change at most the last
    bits. `unigram_nats` are the nats of each token under a unigram model."""
    by_token = torch.zeros(len(reader.tokenizer)) if unigram_nats is None else unigram_nats
    found: dict[int, ContinuationNats] = {}
    for batch in _batches(reader.tokenizer, continuations, batch_size=batch_size, window=reader.window):
        logits = reader.logits(batch.tokens.to(reader.device))[:, :-1]
        targets = batch.tokens[:, 1:].masked_fill(~batch.is_scored[:, 1:], -100).to(reader.device)
        nats = F.cross_entropy(logits.transpose(1, 2).float(), targets, ignore_index=-100, reduction="none")
        counts = batch.is_scored.sum(dim=1).tolist()
        unigram = by_token[batch.tokens].masked_fill(~batch.is_scored, 0).sum(dim=1).tolist()
        totals = nats.double().sum(dim=1).tolist()
        for place, total, count, by_unigram in zip(batch.places, totals, counts, unigram, strict=True):
            found[place] = ContinuationNats(nats=total, num_tokens=count, unigram_nats=by_unigram)
    return [found[place] for place in range(len(continuations))]


def _batches(
    tokenizer: PreTrainedTokenizerBase, continuations: Sequence[Continuation], *, batch_size: int, window: int
) -> Iterator[_Batch]:
    """Batches of rows of similar length, padded on the right, where no scored token attends."""
    rows = encode(tokenizer, continuations, window)
    order = sorted(range(len(rows)), key=lambda place: (len(rows[place][0]), place))
    while order:
        # Start from the longest rows, which decide how many fit.
        length = len(rows[order[-1]][0])
        size = max(1, min(batch_size, MAX_LOGITS // (length * len(tokenizer))))
        order, places = order[:-size], order[-size:]
        tokens = torch.full((len(places), length), encoding.padding_id(tokenizer))
        is_scored = torch.zeros_like(tokens, dtype=torch.bool)
        for index, place in enumerate(places):
            row, start = rows[place]
            tokens[index, : len(row)] = torch.tensor(row)
            is_scored[index, start : len(row)] = True
        yield _Batch(places=places, tokens=tokens, is_scored=is_scored)


def encode(
    tokenizer: PreTrainedTokenizerBase, continuations: Sequence[Continuation], window: int
) -> list[tuple[list[int], int]]:
    """The tokens of each with the text before it, the last `window` of them, and where the
    continuation starts.

    A token that spans the boundary belongs to the continuation, because the text before does not
    determine it. Tokens that do not fit are cut off at the left, as lm-evaluation-harness does; a
    token without a token before it is not scored. Raises ValueError if none is left to score.
    """
    before = encoding.encode_all(tokenizer, [each.before for each in continuations])
    both = encoding.encode_all(tokenizer, [each.before + each.text for each in continuations])
    return [_scored_part(*each, window) for each in zip(continuations, before, both, strict=True)]


def _scored_part(
    continuation: Continuation, before: Sequence[int], tokens: list[int], window: int
) -> tuple[list[int], int]:
    differing = (place for place, (one, other) in enumerate(zip(before, tokens, strict=False)) if one != other)
    shared = next(differing, min(len(before), len(tokens)))
    cut = max(0, len(tokens) - window)
    start = max(1, shared - cut)
    if start >= len(tokens) - cut:
        raise ValueError(
            f"the continuation {continuation.text[:60]!r} of {continuation.before[-60:]!r} has no token to score; repair the question set"
        )
    return tokens[cut:], start
