"""The likelihood of held-out text by kind of token, and in bits per byte, which compare across
tokenizers.

Ends of text and newlines are scored apart from all other tokens: a model that learns to stop after
a sentence predicts other ends, and has forgotten nothing.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memlm.data.corpus.packing import document_positions, is_text
from memlm.evaluation.vocabulary import Vocabulary
from memlm.model.reader import Reader


@dataclass(frozen=True, kw_only=True)
class BlockMeans:
    """Mean nats over one kind of token in each block that holds any."""

    model: tuple[float, ...]
    unigram: tuple[float, ...]
    """The same under the unigram model of the vocabulary."""


@dataclass(frozen=True, kw_only=True)
class TextScores:
    text: BlockMeans
    """All tokens but the ends."""
    ends: BlockMeans
    """Ends of text, and newlines."""
    perplexity: float
    """e to the mean over all tokens, ends too, at most e**700, so that a model that has diverged
    still has one."""
    bits_per_byte: float
    """Bits over the tokens that stand for text, newlines too. Special tokens are excluded from both
    sums."""


def score_text(
    reader: Reader,
    blocks: Int[Tensor, "blocks block_size"],
    *,
    eos_id: int,
    pad_id: int,
    batch_size: int,
    vocabulary: Vocabulary,
) -> TextScores:
    """All measures, from one pass over the tokens of each block but its first; pads are not
    scored."""
    scored = list(token_nats(reader, blocks, eos_id=eos_id, pad_id=pad_id, batch_size=batch_size))
    nats, targets = (torch.cat(parts).cpu() for parts in zip(*scored, strict=True))
    nats, is_scored, ids = nats.double(), targets >= 0, targets.clamp(min=0)
    num_bytes = vocabulary.num_bytes[ids].masked_fill(~is_scored, 0)
    if not num_bytes.any():
        raise ValueError("the held-out text holds no byte of text; prepare the corpus again")
    is_end, chance = vocabulary.is_end[ids], vocabulary.unigram_nats[ids]
    return TextScores(
        text=_means(nats, chance, is_scored & ~is_end),
        ends=_means(nats, chance, is_scored & is_end),
        perplexity=math.exp(min(float(nats.sum() / is_scored.sum()), 700)),
        bits_per_byte=float(nats[num_bytes > 0].sum() / num_bytes.sum()) / math.log(2),
    )


@torch.no_grad()
def token_nats(
    reader: Reader,
    blocks: Int[Tensor, "blocks block_size"],
    *,
    eos_id: int,
    pad_id: int,
    batch_size: int,
) -> Iterator[tuple[Float[Tensor, "batch targets"], Int[Tensor, "batch targets"]]]:
    """Nats and targets of each batch's tokens but the first; a pad's target is -100 and its nats
    are 0."""
    for tokens in blocks.to(reader.device).split(batch_size):
        logits = reader.logits(tokens, document_positions(tokens, eos_id=eos_id))
        scored = is_text(tokens, eos_id=eos_id, pad_id=pad_id)[:, 1:]
        targets = tokens[:, 1:].masked_fill(~scored, -100)
        nats = F.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), targets.flatten(), ignore_index=-100, reduction="none"
        )
        yield nats.view_as(targets), targets


def _means(
    nats: Float[Tensor, "blocks targets"],
    chance: Float[Tensor, "blocks targets"],
    chosen: Bool[Tensor, "blocks targets"],
) -> BlockMeans:
    """Means over the chosen tokens of each block; a block without any has none."""
    counts = chosen.sum(dim=1)
    model, unigram = ((each * chosen).sum(dim=1)[counts > 0] / counts[counts > 0] for each in (nats, chance))
    return BlockMeans(model=tuple(model.tolist()), unigram=tuple(unigram.tolist()))
