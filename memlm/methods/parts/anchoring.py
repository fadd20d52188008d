"""Penalties on the distance from the weights at the start: L2-SP (Li et al. 2018), and elastic
weight consolidation (EWC, Kirkpatrick et al. 2017), which weighs each weight's distance by its
Fisher information on background text.

With adapters, the distance is that of the matrix that they are merged into at the end.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from memlm.data.corpus.packing import is_text
from memlm.methods.config import RehearsalConfig
from memlm.methods.parts.rehearsal import BackgroundText, Rehearsal, logits_of_blocks
from memlm.model.ranks import num_ranks

FISHER_BATCH = 4
"""Blocks whose gradients are squared together. Their tokens' own gradients are independent and have
mean 0, so the square of the sum is an unbiased estimate of the sum of squares."""


class Change(NamedTuple):
    """A weight, and its change since the start as a function of what learns."""

    weight: nn.Parameter
    now: Callable[[], Tensor]


def changes_of(model: nn.Module) -> list[Change]:
    """The changes of a model that has not moved yet: of the matrices with adapters, or of every
    parameter if there are none."""
    adapted = [module for module in model.modules() if isinstance(module, LoraLayer)]
    if adapted:
        return [
            Change(module.get_base_layer().weight, partial(module.get_delta_weight, "default")) for module in adapted
        ]
    return [
        Change(parameter, partial(torch.sub, parameter, parameter.detach().clone())) for parameter in model.parameters()
    ]


class Anchor(Rehearsal):
    """Half the squared distance from the start, each weight's times its stiffness."""

    def __init__(self, model: nn.Module, config: RehearsalConfig, stiffness: Sequence[Tensor] | None = None) -> None:
        """`stiffness` has a tensor for each of `changes_of(model)`; without it, all are 1."""
        self.weight, self.changes = config.weight, changes_of(model)
        self.stiffness = stiffness

    @staticmethod
    def by_fisher(model: nn.Module, text: BackgroundText, config: RehearsalConfig, *, seed: int) -> "Anchor":
        weights = [change.weight for change in changes_of(model)]
        return Anchor(model, config, diagonal_fisher(model, weights, text, config.fisher_blocks, seed=seed))

    def add_gradients(self) -> float:
        distances = [change.now().square() for change in self.changes]
        if self.stiffness is not None:
            distances = [one * stiff for one, stiff in zip(distances, self.stiffness, strict=True)]
        loss = torch.stack([distance.sum() for distance in distances]).sum() / 2
        # Every rank adds the same, and gradients are summed over ranks.
        (loss * (self.weight / num_ranks())).backward()
        return float(loss.detach())


def diagonal_fisher(
    model: nn.Module, weights: Sequence[nn.Parameter], text: BackgroundText, num_blocks: int, *, seed: int
) -> list[Float[Tensor, "..."]]:
    """The mean over tokens of the squared gradient of the log-likelihood, in each weight's shape.

    Targets are drawn from the model's own predictions, so this is the curvature of the model's
    divergence from itself, in nats per token.
    """
    device = weights[0].device
    generator = torch.Generator(device).manual_seed(seed)
    order = torch.randperm(len(text.blocks), generator=torch.Generator().manual_seed(seed))[:num_blocks]
    learned = [weight.requires_grad for weight in weights]
    squares, num_tokens = [torch.zeros_like(weight) for weight in weights], 0
    try:
        for weight in weights:
            weight.requires_grad_(True)
        for chosen in order.split(FISHER_BATCH):
            tokens = text.blocks[chosen].to(device)
            predicted = is_text(tokens, eos_id=text.eos_id, pad_id=text.pad_id)[:, 1:]
            logits = logits_of_blocks(model, tokens, text)[predicted]
            drawn = torch.multinomial(logits.detach().softmax(dim=-1), 1, generator=generator).squeeze(1)
            nats = F.cross_entropy(logits, drawn, reduction="sum")
            gradients = torch.autograd.grad(nats, weights, allow_unused=True)
            for square, gradient in zip(squares, gradients, strict=True):
                if gradient is not None:
                    square += gradient.square()
            num_tokens += len(drawn)
    finally:
        for weight, was in zip(weights, learned, strict=True):
            weight.requires_grad_(was)
    return [square / max(1, num_tokens) for square in squares]
