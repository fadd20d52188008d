"""The likelihood of held-out text: nats per token, and bits per byte, which compare across
tokenizers."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from memlm.data.corpus.packing import document_positions, is_text
from memlm.model.reader import Reader


@dataclass(frozen=True, kw_only=True)
class TextScores:
    nats_per_token: tuple[float, ...]
    """The mean over each block's tokens."""
    perplexity: float
    """e to the mean over all tokens, at most e**700, so that a model that has diverged still has
    one."""
    bits_per_byte: float
    """Bits over the tokens that stand for text. Special tokens are excluded from both sums."""


def score_text(
    reader: Reader,
    blocks: Int[Tensor, "blocks block_size"],
    *,
    eos_id: int,
    pad_id: int,
    batch_size: int,
    token_bytes: Int[Tensor, " vocab"],
) -> TextScores:
    """All measures, from one pass. `token_bytes` is num_bytes_of the tokenizer."""
    means: list[float] = []
    nats_of_tokens = nats_of_text = 0.0
    num_tokens = num_bytes = 0
    for nats, targets in _token_nats(reader, blocks, eos_id=eos_id, pad_id=pad_id, batch_size=batch_size):
        means += _block_means(nats, targets)
        lengths = token_bytes.to(targets.device)[targets.clamp(min=0)].masked_fill(targets < 0, 0)
        nats_of_tokens += float(nats.double().sum())
        nats_of_text += float(nats.double()[lengths > 0].sum())
        num_tokens += int((targets >= 0).sum())
        num_bytes += int(lengths.sum())
    if not num_bytes:
        raise ValueError("the held-out text holds no byte of text; prepare the corpus again")
    return TextScores(
        nats_per_token=tuple(means),
        perplexity=math.exp(min(nats_of_tokens / num_tokens, 700)),
        bits_per_byte=nats_of_text / num_bytes / math.log(2),
    )


def nats_per_token(
    reader: Reader,
    blocks: Int[Tensor, "blocks block_size"],
    *,
    eos_id: int,
    pad_id: int,
    batch_size: int,
) -> tuple[float, ...]:
    """The mean over each block's tokens but its first; pads are not scored. A block of pads
    alone is refused."""
    scored = _token_nats(reader, blocks, eos_id=eos_id, pad_id=pad_id, batch_size=batch_size)
    return tuple(mean for nats, targets in scored for mean in _block_means(nats, targets))


@torch.no_grad()
def _token_nats(
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


def _block_means(nats: Float[Tensor, "batch targets"], targets: Int[Tensor, "batch targets"]) -> list[float]:
    num_targets = (targets != -100).sum(dim=1)
    if not num_targets.all():
        raise ValueError("a block holds no token to predict; prepare the corpus again")
    return (nats.sum(dim=1) / num_targets).tolist()
