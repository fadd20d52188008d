"""The memory layer: a sparse lookup into a pool of values in place of a feed-forward network (Lin et al. 2025, section 3).

x -> query -> product-key search -> slots, scores -> softmax over top_k per head, fp32
  -> weighted read of value rows, summed over heads -> y -> (y * silu(x W1)) W2
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import initialization as init

from memlm.model.product_keys import product_key_search


class TrainableRows(NamedTuple):
    """The rows of a pool that may move in this step: a small leaf that stands in for them in the read."""

    slots: Int[Tensor, " rows"]
    """Ascending slot numbers."""
    values: Float[Tensor, "rows value_dim"]
    """Equal to the pool's rows when the step begins; receives the gradient."""


class _ReadWithTrainableRows(torch.autograd.Function):
    """A weighted read of the whole pool whose gradient goes to the trainable rows and the weights, but to no other row.

    The gradient of row r is the sum of weight * grad over the lookups of r: itself a weighted bag, over tokens. So backward
    sorts the lookups by row and reads the output's gradient with them: deterministic, one owner per row, nothing of the pool's size.
    """

    @staticmethod
    def forward(ctx, row_values, pool, row_slots, slots, weights):  # type: ignore[no-untyped-def, override]
        ctx.save_for_backward(row_slots, pool, slots, weights)
        return F.embedding_bag(slots, pool, per_sample_weights=weights, mode="sum")

    @staticmethod
    def backward(ctx, grad_output):  # type: ignore[no-untyped-def, override]
        row_slots, pool, slots, weights = ctx.saved_tensors
        flat = slots.reshape(-1)
        rows = torch.searchsorted(row_slots, flat).clamp_(max=len(row_slots) - 1)
        lookups = (row_slots[rows] == flat).nonzero().squeeze(1)
        rows, order = rows[lookups].sort(stable=True)
        lookups = lookups[order]
        first_lookup = torch.searchsorted(rows, torch.arange(len(row_slots), device=rows.device))
        gradient = F.embedding_bag(
            lookups // slots.shape[1],
            grad_output.contiguous(),
            offsets=first_lookup,
            per_sample_weights=weights.reshape(-1)[lookups],
            mode="sum",
        )
        # Below an upper memory layer something moves too, and reaches the loss through what the upper one looks up.
        through_weights = torch.einsum("trv,tv->tr", pool[slots], grad_output) if ctx.needs_input_grad[4] else None
        return gradient, None, None, None, through_weights


class ValuePool(nn.Module):
    """The values of num_slots slots, read as weighted sums of rows."""

    def __init__(self, num_slots: int, value_dim: int) -> None:
        super().__init__()
        # Kept beside the weight, whose own shape is empty while ZeRO-3 has shared it out.
        self.num_slots, self.value_dim = num_slots, value_dim
        self.weight = nn.Parameter(torch.empty(num_slots, value_dim))
        self.trainable_rows: TrainableRows | None = None
        """Set by sparse memory finetuning for the length of one step; the read then sends its gradient there."""

    def reset_parameters(self) -> None:
        init.normal_(self.weight, std=self.value_dim**-0.5)

    def forward(
        self, slots: Int[Tensor, "tokens reads"], weights: Float[Tensor, "tokens reads"]
    ) -> Float[Tensor, "tokens value_dim"]:
        weights = weights.to(self.weight.dtype)
        if self.trainable_rows is None:
            return F.embedding_bag(slots, self.weight, per_sample_weights=weights, mode="sum")
        rows = self.trainable_rows
        return _ReadWithTrainableRows.apply(rows.values, self.weight.detach(), rows.slots, slots, weights)


class MemoryLayer(nn.Module):
    """Takes the place of a decoder layer's feed-forward network. The pool belongs to the model, which may share it among layers."""

    def __init__(
        self,
        pool: ValuePool,
        *,
        hidden_size: int,
        num_half_keys: int,
        top_k: int,
        num_heads: int,
        key_dim: int,
        query_norm: bool,
    ) -> None:
        super().__init__()
        self.num_heads, self.top_k, self.key_dim = num_heads, top_k, key_dim
        self.query = nn.Linear(hidden_size, num_heads * key_dim)
        self.query_norm = nn.RMSNorm(key_dim, eps=1e-6) if query_norm else nn.Identity()
        self.half_keys = nn.Parameter(torch.empty(num_heads, 2, num_half_keys, key_dim // 2))
        self.gate = nn.Linear(hidden_size, pool.value_dim)
        self.output = nn.Linear(pool.value_dim, hidden_size)
        # Not registered as a submodule: a shared pool must appear once in the state dict, under the model that owns it.
        object.__setattr__(self, "pool", pool)
        self.on_access: Callable[[Int[Tensor, "*batch reads"]], None] | None = None
        """Called with the slots of every token after the search and before the read; not when checkpointing recomputes."""

    def reset_parameters(self) -> None:
        bound = 1 / math.sqrt(self.key_dim)
        init.uniform_(self.half_keys, -bound, bound)
        init.xavier_uniform_(self.query.weight)
        for linear in (self.gate, self.output):
            init.normal_(linear.weight, std=self.output.out_features**-0.5)
        for linear in (self.query, self.gate, self.output):
            init.zeros_(linear.bias)

    def search(
        self, hidden: Float[Tensor, "tokens hidden"]
    ) -> tuple[Int[Tensor, "tokens reads"], Float[Tensor, "tokens reads"]]:
        """Slots and softmax weights of each token, heads side by side: reads = num_heads * top_k."""
        queries = self.query_norm(self.query(hidden).view(-1, self.num_heads, self.key_dim))
        slots, scores = product_key_search(queries, self.half_keys, self.top_k)
        return slots.flatten(1), scores.softmax(dim=-1).flatten(1)

    def forward(self, hidden_states: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch hidden"]:
        batch = hidden_states.shape[:-1]
        hidden = hidden_states.reshape(-1, hidden_states.shape[-1])
        slots, weights = self.search(hidden)
        if self.on_access is not None and not _inside_backward():
            self.on_access(slots.view(*batch, -1))
        values = self.pool(slots, weights)
        return self.output(values * F.silu(self.gate(hidden))).view(*batch, -1)


def _inside_backward() -> bool:
    """Gradient checkpointing runs the forward pass again from within backward; those accesses were recorded before."""
    return torch._C._current_graph_task_id() != -1
