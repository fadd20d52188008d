"""Plain torch versions of the parts of the memory model that have kernels and optimizers of their
own. They replace those parts in the modelling file that is saved with every checkpoint
(standalone.py). Names and results are the same."""

from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import initialization as init

from memlm.model.kernels.reference import read, search


def standalone_source(family: str) -> str:
    """The source text of this module, which is of one family."""
    return Path(__file__).read_text(encoding="utf-8")


def product_key_search(
    queries: Float[Tensor, "tokens heads key_dim"],
    half_keys: Float[Tensor, "heads 2 num_half_keys key_dim//2"],
    top_k: int,
) -> tuple[Int[Tensor, "tokens heads {top_k}"], Float[Tensor, "tokens heads {top_k}"]]:
    """The top_k slots of each query and head with their scores, best first. The search is exact,
    over the product of the two sets of half-keys.

    Sub-scores are fp32 even under autocast: in bf16 most rows tie at the k-th score and the choice
    becomes arbitrary.
    """
    num_heads, _, _, half_dim = half_keys.shape
    with torch.autocast(queries.device.type, enabled=False):
        halves = queries.float().view(-1, num_heads, 2, half_dim).permute(1, 2, 0, 3)
        return search(halves @ half_keys.float().transpose(-1, -2), top_k)


class ValuePool(nn.Module):
    """The values of num_slots slots, read as weighted sums of rows. Their gradient is dense."""

    def __init__(self, num_slots: int, value_dim: int, *, starts_at_zero: bool = False) -> None:
        super().__init__()
        self.num_slots, self.value_dim, self.starts_at_zero = num_slots, value_dim, starts_at_zero
        self.weight = nn.Parameter(torch.empty(num_slots, value_dim))

    def reset_parameters(self) -> None:
        if self.starts_at_zero:
            init.zeros_(self.weight)
        else:
            init.normal_(self.weight, std=self.value_dim**-0.5)

    def forward(
        self, slots: Int[Tensor, "tokens reads"], weights: Float[Tensor, "tokens reads"]
    ) -> Float[Tensor, "tokens value_dim"]:
        return read(self.weight, slots, weights)
