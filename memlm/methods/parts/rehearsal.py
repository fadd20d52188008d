"""Rehearsal: a second loss in every step, so that a model keeps what it knew while it learns, for
methods that move fixed parameters. Most rehearse background text."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from memlm.data.corpus.packing import document_positions, is_text
from memlm.methods.config import RehearsalConfig
from memlm.model.ranks import num_ranks


@dataclass(frozen=True, kw_only=True)
class BackgroundText:
    """Blocks of pretraining text, and the ids that structure them."""

    blocks: Int[Tensor, "blocks block_size"]
    """Token ids, of any integer type."""
    eos_id: int
    pad_id: int


class Rehearsal(ABC):
    """A second loss in every step, the same on all ranks and for the same seed."""

    @abstractmethod
    def add_gradients(self) -> float:
        """Add the gradients of the weighted loss to the present ones; returns the loss without its
        weight."""


class TextRehearsal(Rehearsal):
    """A loss on blocks that are drawn again for each step, in nats per token."""

    def __init__(self, model: nn.Module, text: BackgroundText, config: RehearsalConfig, *, seed: int) -> None:
        if len(text.blocks) < config.blocks_per_step:
            raise ValueError(
                f"method.rehearsal.blocks_per_step is {config.blocks_per_step}, and there are {len(text.blocks)} blocks of background text; lower it"
            )
        self.model, self.text, self.config = model, text, config
        self.generator = torch.Generator().manual_seed(seed)

    def add_gradients(self) -> float:
        chosen = torch.randperm(len(self.text.blocks), generator=self.generator)[: self.config.blocks_per_step]
        tokens = self.text.blocks[chosen].long().to(next(self.model.parameters()).device)
        predicted = is_text(tokens, eos_id=self.text.eos_id, pad_id=self.text.pad_id)[:, 1:]
        loss = self.loss(tokens, predicted)
        # Every rank adds the same, and gradients are summed over ranks.
        (loss * (self.config.weight / num_ranks())).backward()
        return float(loss.detach())

    def logits(self, model: nn.Module, tokens: Int[Tensor, "blocks seq"]) -> Float[Tensor, "blocks predicted vocab"]:
        return logits_of_blocks(model, tokens, self.text)

    @abstractmethod
    def loss(self, tokens: Int[Tensor, "blocks seq"], predicted: Tensor) -> Float[Tensor, ""]:
        """The loss in nats per predicted token. Tokens that are not `predicted` are padding."""


def logits_of_blocks(
    model: nn.Module, tokens: Int[Tensor, "blocks seq"], text: BackgroundText
) -> Float[Tensor, "blocks predicted vocab"]:
    """The predictions of every token but the first, each from its own document alone."""
    positions = document_positions(tokens, eos_id=text.eos_id)
    return model(input_ids=tokens, position_ids=positions, use_cache=False).logits[:, :-1].float()
