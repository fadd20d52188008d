"""Search for the slots that a query reads: exact top-k over the product of two sets of half-keys
(Lample et al. 2019, section 3).

The keys of the pool are all pairs (c, c') of half-keys, so slot = i * num_half_keys + j and its
score is the sum of two sub-scores. The best k pairs consist of half-keys among the k best of each
half. Of those k * k pairs only the ones with (i + 1) * (j + 1) <= k are candidates: in two
descending lists, pair (i, j) is no better than the (i + 1) * (j + 1) - 1 pairs above and left of
it.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from memlm.model import operators
from memlm.model.kernels import kernels_for
from memlm.model.operators import find_slots, is_traced


def product_key_search(
    queries: Float[Tensor, "tokens heads key_dim"],
    half_keys: Float[Tensor, "heads 2 num_half_keys key_dim//2"],
    top_k: int,
) -> tuple[Int[Tensor, "tokens heads {top_k}"], Float[Tensor, "tokens heads {top_k}"]]:
    """The top_k slots of each query and head with their scores, best first; ties as in
    `Kernels.search`.

    Sub-scores are fp32 even under autocast: in bf16 most rows tie at the k-th score and the choice
    becomes arbitrary. Raises ValueError if there are fewer half-keys than top_k.
    """
    if not 1 <= top_k <= half_keys.shape[2]:
        raise ValueError(
            f"top_k is {top_k}, and there are {half_keys.shape[2]} half-keys; it must be from 1 to the number of half-keys, "
            "since the exact search keeps top_k half-keys of each half"
        )
    num_heads, _, _, half_dim = half_keys.shape
    if queries.shape[1:] != (num_heads, 2 * half_dim):
        raise ValueError(
            f"queries has shape {tuple(queries.shape)} and half_keys {tuple(half_keys.shape)}; the queries must be "
            f"[tokens, {num_heads}, {2 * half_dim}]"
        )
    if is_traced(queries):
        return operators.product_key_search(queries.float(), half_keys.float(), top_k)
    with torch.autocast(queries.device.type, enabled=False):
        return _Search.apply(queries.float(), half_keys.float(), top_k)


class _Search(torch.autograd.Function):
    """Search whose backward follows the slots that were found: only top_k of the num_half_keys
    sub-scores have a gradient."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, half_keys: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        slots, scores = find_slots(queries, half_keys, top_k)
        ctx.save_for_backward(queries, half_keys, slots)
        ctx.mark_non_differentiable(slots)
        return slots, scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor, grad_scores: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        queries, half_keys, slots = ctx.saved_tensors
        grad_queries, grad_half_keys = kernels_for(queries).search_backward(grad_scores, slots, queries, half_keys)
        return grad_queries, grad_half_keys, None
