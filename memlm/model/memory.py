"""The memory layer: a sparse lookup into a pool of values in place of a feed-forward network
(Lin et al. 2025, section 3), or added to one.

x -> query -> product-key search -> slots, scores -> softmax over top_k per head, fp32
  -> weighted read of value rows, summed over heads -> y -> (y * silu(x W1)) W2
"""

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import initialization as init

from memlm.model.column_split import ColumnSplit, row_chunks
from memlm.model.product_keys import product_key_search
from memlm.model.tied_pools import PoolHolder
from memlm.model.weighted_read import OutputGradients, RowGradients, TrainableRows, weighted_read

SILU_IS_ONE = 1.2784645427610738
"""Where silu is 1."""


class ValuePool(nn.Module):
    """The values of num_slots slots, read as weighted sums of rows. A split pool holds some columns
    of the table, but is read as if it held them all."""

    def __init__(
        self, num_slots: int, value_dim: int, split: ColumnSplit | None = None, *, starts_at_zero: bool = False
    ) -> None:
        super().__init__()
        self.starts_at_zero = starts_at_zero
        # Stored separately, because the weight's own shape is empty while ZeRO-3 has partitioned
        # it.
        self.num_slots, self.value_dim, self.split = num_slots, value_dim, split
        self.columns = slice(0, value_dim) if split is None else split.columns(value_dim)
        """Columns of the whole table that `weight` stores."""
        self.weight = nn.Parameter(torch.empty(num_slots, self.columns.stop - self.columns.start))
        self.gradient_target: TrainableRows | OutputGradients | RowGradients | None = None
        """Where reads send the gradient of the values; None for the weight itself."""
        self.on_write: Callable[[Int[Tensor, " rows"]], None] | None = None
        """Called with the slots of rows that a method is about to write."""

    def reset_parameters(self) -> None:
        """Initialise the values. They do not depend on how the table is split."""
        if self.starts_at_zero:
            init.zeros_(self.weight)
            return
        if self.split is None:
            init.normal_(self.weight, std=self.value_dim**-0.5)
            return
        # On a CPU, torch generates random numbers in blocks of 16, so drawing whole rows in chunks
        # of 16 gives the same numbers as drawing the table at once.
        with torch.no_grad():
            for rows in row_chunks(self.num_slots, self.value_dim):
                whole = self.weight.new_empty(rows.stop - rows.start, self.value_dim)
                self.weight[rows] = init.normal_(whole, std=self.value_dim**-0.5)[:, self.columns]

    @contextmanager
    def sending_gradients_to(self, target: TrainableRows | OutputGradients | RowGradients | None) -> Iterator[None]:
        """Within the context, reads send the gradient of the values to this target."""
        assert self.split is None or not isinstance(target, TrainableRows | OutputGradients), (
            "a split pool holds no whole rows"
        )
        before, self.gradient_target = self.gradient_target, target
        try:
            yield
        finally:
            self.gradient_target = before

    def announce_write(self, slots: Int[Tensor, " rows"]) -> None:
        """Notify the observer that restores the pool afterwards that rows will be written."""
        if self.on_write is not None:
            self.on_write(slots)

    def forward(
        self, slots: Int[Tensor, "tokens reads"], weights: Float[Tensor, "tokens reads"]
    ) -> Float[Tensor, "tokens value_dim"]:
        target = self.gradient_target
        if self.split is not None:
            return self.split.read(
                self.weight, slots, weights, target.parts if isinstance(target, RowGradients) else None
            )
        if target is not None:
            return target.read(self.weight, slots, weights)
        return weighted_read(self.weight, slots, weights)


class MemoryLayer(PoolHolder):
    """A replacement of a decoder layer's feed-forward network, or an addition to it (`add_to`).
    Several layers may share a pool."""

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
        passes_values: bool = False,
    ) -> None:
        """With `passes_values`, what is read passes gate and output unchanged at first, if values
        are as wide as the hidden states."""
        super().__init__()
        self.passes_values = passes_values
        self.num_heads, self.top_k, self.key_dim = num_heads, top_k, key_dim
        # Stored here too, because a module that PEFT puts in the pool's place may lack them.
        self.num_slots, self.value_dim = num_half_keys**2, pool.value_dim
        self.query = nn.Linear(hidden_size, num_heads * key_dim)
        self.query_norm = nn.RMSNorm(key_dim, eps=1e-6) if query_norm else nn.Identity()
        self.half_keys = nn.Parameter(torch.empty(num_heads, 2, num_half_keys, key_dim // 2))
        self.gate = nn.Linear(hidden_size, pool.value_dim)
        self.output = nn.Linear(pool.value_dim, hidden_size)
        self.pool = pool
        self.on_access: Callable[[Int[Tensor, "*batch reads"], Float[Tensor, "*batch reads"]], None] | None = None
        """Called with the slots of every token and their weights after the search and before the
        read, but not when checkpointing recomputes."""

    def reset_parameters(self) -> None:
        bound = 1 / math.sqrt(self.key_dim)
        init.uniform_(self.half_keys, -bound, bound)
        init.xavier_uniform_(self.query.weight)
        for linear in (self.gate, self.output):
            init.normal_(linear.weight, std=self.output.out_features**-0.5)
        for linear in (self.query, self.gate, self.output):
            init.zeros_(linear.bias)
        if isinstance(self.query_norm, nn.RMSNorm):  # some families set every norm's weight to zero, and add one
            init.ones_(self.query_norm.weight)
        if self.passes_values:
            init.zeros_(self.gate.weight)
            init.constant_(self.gate.bias, SILU_IS_ONE)
            if self.output.in_features == self.output.out_features:
                init.eye_(self.output.weight)

    def search(
        self, hidden: Float[Tensor, "tokens hidden"]
    ) -> tuple[Int[Tensor, "tokens reads"], Float[Tensor, "tokens reads"]]:
        """Slots and softmax weights of each token, those of all heads concatenated: reads =
        num_heads * top_k."""
        queries = self.query_norm(self.query(hidden).view(-1, self.num_heads, self.key_dim))
        slots, scores = product_key_search(queries, self.half_keys, self.top_k)
        return slots.flatten(1), scores.softmax(dim=-1).flatten(1)

    def forward(self, hidden_states: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch hidden"]:
        slots, weights = self.search(hidden_states.reshape(-1, hidden_states.shape[-1]))
        return self.read(hidden_states, slots, weights)

    def read(
        self,
        hidden_states: Float[Tensor, "*batch hidden"],
        slots: Int[Tensor, "tokens reads"],
        weights: Float[Tensor, "tokens reads"],
    ) -> Float[Tensor, "*batch hidden"]:
        """The part of the forward pass after the search, whose results may also be cached."""
        batch = hidden_states.shape[:-1]
        if self.on_access is not None and not _inside_backward():
            self.on_access(slots.view(*batch, slots.shape[1]), weights.view(*batch, slots.shape[1]))
        values = self.pool(slots, weights)
        gate = self.gate(hidden_states.reshape(-1, hidden_states.shape[-1]))
        return self.output(values * F.silu(gate)).view_as(hidden_states)


class _AddsMemory(nn.Module):
    """The part of a feed-forward network's class by which a memory layer is added to it."""

    memory: nn.Module
    is_added = True

    def forward(self, hidden_states: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch hidden"]:
        own: Tensor = super().forward(hidden_states)  # type: ignore[misc]
        return own + self.memory(hidden_states) if self.is_added else own


@contextmanager
def without_additions(model: nn.Module) -> Iterator[None]:
    """Within the context, every feed-forward network that something was added to runs alone, so a
    base with a memory parallel to its own layers is the base."""
    networks = [module for module in model.modules() if isinstance(module, _AddsMemory)]
    for network in networks:
        network.is_added = False
    try:
        yield
    finally:
        for network in networks:
            network.is_added = True


def add_to(feed_forward: nn.Module, memory: nn.Module) -> None:
    """Add the output of a memory layer, or of what stands in its place, to that of a feed-forward
    network, which keeps its own place and the names of its parameters."""
    feed_forward.__class__ = _adding_memory(type(feed_forward))  # type: ignore[arg-type]
    feed_forward.memory = memory


@functools.cache
def _adding_memory(feed_forward: type[nn.Module]) -> type[nn.Module]:
    return type(f"{feed_forward.__name__}WithMemory", (_AddsMemory, feed_forward), {"__module__": __name__})


def memory_in(feed_forward: nn.Module) -> MemoryLayer | None:
    """The memory layer that is, or is added to, a decoder layer's feed-forward network."""
    found = feed_forward if isinstance(feed_forward, MemoryLayer) else getattr(feed_forward, "memory", None)
    return found if isinstance(found, MemoryLayer) else None


def _inside_backward() -> bool:
    """Whether gradient checkpointing is repeating the forward pass within backward, whose accesses
    were recorded before."""
    return torch._C._current_graph_task_id() != -1
