"""The gradients of a model's loss at the outputs of its memory layers' reads, with labels drawn
from the model's own predictions.

The losses of all tokens are added up before they are differentiated, so the gradient at a token
holds its effect on the tokens that follow, too. Labels are drawn independently, so these parts do
not mix in E[g g'].
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from memlm.slots.accesses import on_reads, value_pools


class ReadGradients(NamedTuple):
    """The reads of a forward pass by layer, as reads_in gives them, and the gradients of their
    outputs."""

    slots: Int[Tensor, "batch seq layers reads"]
    weights: Float[Tensor, "batch seq layers reads"]
    gradients: Float[Tensor, "batch seq layers value_dim"]
    """Zero where no later token is counted."""


def read_gradients(
    model: nn.Module, is_token: Bool[Tensor, "batch seq"], draws: Float[Tensor, "batch seq"], **inputs: Tensor
) -> ReadGradients:
    """`is_token` says whose losses count, `draws` are uniform in [0, 1) and choose the labels. The
    model's weights need no gradient and get none."""
    found: list[tuple[Tensor, Tensor]] = []
    outputs: list[Tensor] = []
    with _frozen(model), _leaving_outputs(model, outputs), torch.enable_grad():
        with on_reads(model, lambda number, slots, weights: found.append((slots, weights.detach()))):
            logits = model(**inputs, use_cache=False).logits.float()
        through_logits = _gradient_of_drawn(logits.detach(), draws.to(logits.device)) * is_token[..., None]
        gradients = torch.autograd.grad(logits, outputs, through_logits)
    slots, weights = (torch.stack(parts, dim=-2) for parts in zip(*found, strict=True))
    by_layer = [gradient.view(*is_token.shape, -1) for gradient in gradients]
    return ReadGradients(slots, weights, torch.stack(by_layer, dim=-2))


@torch.no_grad()
def _gradient_of_drawn(
    logits: Float[Tensor, "batch seq vocab"], draws: Float[Tensor, "batch seq"]
) -> Float[Tensor, "batch seq vocab"]:
    """The gradient of each token's loss with respect to its logits, for labels drawn by the
    model's probabilities."""
    gradient = logits.softmax(dim=-1)
    cumulative = gradient.cumsum(dim=-1)
    # The first label whose cumulative probability exceeds the draw; never one of probability 0.
    labels = torch.searchsorted(cumulative, draws[..., None] * cumulative[..., -1:], right=True)
    labels.clamp_(max=logits.shape[-1] - 1)
    return gradient.scatter_add_(-1, labels, torch.full_like(draws[..., None], -1))


@contextmanager
def _leaving_outputs(model: nn.Module, outputs: list[Tensor]) -> Iterator[None]:
    """Within the context, the output of each read is added to the list, and a gradient reaches
    it."""

    def leave(pool: nn.Module, inputs: object, output: Tensor) -> None:
        # Above another memory layer it has one by its weights, which must keep theirs.
        outputs.append(output if output.requires_grad else output.requires_grad_(True))

    with ExitStack() as hooks:
        for pool in value_pools(model):
            hooks.callback(pool.register_forward_hook(leave).remove)
        yield


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
