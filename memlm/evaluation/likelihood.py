"""How well does the model predict held-out text? Nats per token."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from memlm.data.packing import document_positions
from memlm.model.trunk_cache import NO_TRUNKS, TrunkCache, TrunkInput


@torch.no_grad()
def nats_per_token(
    model: nn.Module,
    blocks: Int[Tensor, "blocks block_size"],
    *,
    eos_id: int,
    pad_id: int,
    batch_size: int,
    trunks: TrunkCache = NO_TRUNKS,
) -> tuple[float, ...]:
    """The mean over each block's tokens but its first; pads are not scored. A block of pads alone is refused."""
    means: list[float] = []
    device = next(model.parameters()).device
    for tokens, positions, _ in text_trunks(blocks.to(device), eos_id=eos_id, batch_size=batch_size):
        logits = trunks.logits(model, tokens, positions)
        targets = tokens[:, 1:].masked_fill(tokens[:, 1:] == pad_id, -100)
        nats = F.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), targets.flatten(), ignore_index=-100, reduction="none"
        )
        num_targets = (targets != -100).sum(dim=1)
        if not num_targets.all():
            raise ValueError("a block holds no token to predict; prepare the corpus again")
        means += (nats.view_as(targets).sum(dim=1) / num_targets).tolist()
    return tuple(means)


def text_trunks(blocks: Int[Tensor, "blocks block_size"], *, eos_id: int, batch_size: int) -> Iterator[TrunkInput]:
    """The forward passes that scoring these blocks takes."""
    for tokens in blocks.split(batch_size):
        yield TrunkInput(tokens, document_positions(tokens, eos_id=eos_id))
