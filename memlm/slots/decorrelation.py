"""The decorrelated step on chosen rows T of a value pool: dV_T = -rate (I + C_TT / lambda)^-1 G_T,
with G the gradient and C the second moment of what background tokens read (reads.py).

A step -rate M G moves the layer's output at a background token by the overlap of its reads with
those of the batch, weighted by M. With a diagonal M >= 0 overlaps only add up; this M also lets
them cancel, and of all M it costs background text least for what it learns. A direction that no
background token reads moves as by SGD. I + C / lambda is at least 1 in every direction, so it can
be factored whatever the sample.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from memlm.slots.reads import BackgroundReads

MAX_INVERSE = 4096
"""Rows up to which a fact's inverse itself is kept; beyond, its Cholesky factor."""
EXACT_IN_FP32 = 1e4
"""Norm of I + C / lambda up to which it is factored in fp32."""


class Decorrelation:
    """Solves with I + C / lambda, for blocks of chosen slots."""

    def __init__(self, reads: BackgroundReads, halved_at_tokens: float) -> None:
        """Lambda is such that a row which background text reads once in `halved_at_tokens` tokens,
        at the mean squared weight of a read and never with others, moves half as far as by SGD.
        Raises ValueError if it is 0."""
        self.reads = reads
        self.damping = reads.mean_square / halved_at_tokens
        if not self.damping > 0:
            raise ValueError(
                f"lambda is {self.damping}: the background reads of {reads.num_tokens} tokens have a mean squared weight of {reads.mean_square:g}, "
                f"and halved_at_tokens is {halved_at_tokens}; both must be above 0 and finite; raise counting.read_tokens, or lower halved_at_tokens"
            )

    def factor(
        self, slots: Int[Tensor, " rows"], learned: Float[Tensor, "rows rows"] | None = None
    ) -> Float[Tensor, "rows rows"]:
        """The Cholesky factor for these slots, on their device; in fp64 where fp32 would not be
        exact. `learned` is added to the sum of w w' over background tokens."""
        products = self.reads.by_slot.products(slots.cpu())
        if learned is not None:
            products += learned
        matrix = products.div_(self.reads.num_tokens * self.damping)
        matrix.diagonal().add_(1)
        if torch.linalg.matrix_norm(matrix) < EXACT_IN_FP32:
            matrix = matrix.float()
        return torch.linalg.cholesky(matrix.to(slots.device))


def solve(factor: Float[Tensor, "rows rows"], columns: Float[Tensor, "rows n"]) -> Float[Tensor, "rows n"]:
    """fp32."""
    return torch.cholesky_solve(columns.to(factor.dtype), factor).float()


def inverse(factor: Float[Tensor, "rows rows"]) -> Float[Tensor, "rows rows"]:
    """fp32."""
    return torch.cholesky_inverse(factor).float()
