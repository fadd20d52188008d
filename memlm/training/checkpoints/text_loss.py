"""The loss on background text of a base, with a memory or without."""

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from memlm.data.corpus.packing import document_positions
from memlm.training.step import next_token_loss

BLOCKS_AT_ONCE = 8
LOSS_BLOCKS = 16
"""Blocks on which losses are compared."""


def end_of_text(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token between texts, or an id that no token has."""
    return -1 if tokenizer.eos_token_id is None else int(tokenizer.eos_token_id)


@torch.no_grad()
def mean_loss(model: PreTrainedModel, blocks: Int[Tensor, "blocks block_size"], *, eos_id: int) -> float:
    """Nats per token on the first LOSS_BLOCKS blocks."""
    total, blocks = 0.0, blocks[:LOSS_BLOCKS].to(model.device)
    for tokens in blocks.split(BLOCKS_AT_ONCE):
        positions = document_positions(tokens, eos_id=eos_id)
        logits = model(input_ids=tokens, position_ids=positions, use_cache=False).logits
        total += float(next_token_loss(logits, tokens, torch.ones_like(tokens, dtype=torch.bool)))
    return total / (blocks.shape[0] * (blocks.shape[1] - 1))
