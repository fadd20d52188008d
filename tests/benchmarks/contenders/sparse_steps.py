"""The step of sparse memory finetuning on the pool: rank, gradient, update. Ours, and the plain
definition.

The forward pass between ranking and gradient is run and not timed: both sides read the pool
alike.
"""

from abc import abstractmethod
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from memlm.data.questions.facts import FactBatch
from memlm.methods.config import OptimizerConfig
from memlm.methods.parts.sparse_memory_finetuning import SparseMemoryFinetuning
from memlm.methods.sparse_memory import SparseMemoryConfig
from memlm.model.memory import MemoryLayer, ValuePool
from memlm.slots.counts import BackgroundCounts
from tests.benchmarks.contender import Clock, Contender
from tests.benchmarks.inputs import (
    LayerShape,
    hidden_states,
    layer_weights,
    output_gradient,
    read_weights,
    seeded,
    spread_reads,
    uniform_reads,
    value_table,
)
from tests.benchmarks.measure import far_apart

LEARNING_RATE = 2.0
SEQUENCES = 16
"""Sequences of a batch, of equal length and without pads."""
NUM_BATCHES = 3
"""Number of batches that take turns, so that a step does not find its rows in the cache."""


class _PoolStep(Contender):
    def __init__(
        self, *, device: torch.device, num_trainable_slots: int, distinct: int = 0, layer: Mapping[str, int]
    ) -> None:
        """Number of distinct slots that are read, spread over the pool; 0 for uniform reads of the
        whole pool."""
        self.shape, self.device = LayerShape(**layer), device
        self.num_trainable_slots = num_trainable_slots
        s = self.shape
        self.batches = [
            spread_reads(s.num_tokens, s.num_reads, s.num_slots, distinct, device, seed=seed)
            if distinct
            else uniform_reads(s.num_tokens, s.num_reads, s.num_slots, device, seed=seed)
            for seed in range(10, 10 + NUM_BATCHES)
        ]
        self.weights = read_weights(s.num_tokens, s.num_heads, s.top_k, device)
        self.gradient = output_gradient(s.num_tokens, s.value_dim, device)
        self.turn = 0

    @property
    @abstractmethod
    def table(self) -> Tensor: ...

    @abstractmethod
    def step(self, slots: Int[Tensor, "tokens reads"], clock: Clock) -> Int[Tensor, " trainable"]:
        """Take a step; returns the chosen slots."""

    def repeat(self, clock: Clock) -> None:
        self.step(self.batches[self.turn % NUM_BATCHES], clock)
        self.turn += 1

    def outputs(self) -> dict[str, Tensor]:
        before = self.table.detach().clone()
        slots = self.batches[0]
        chosen = self.step(slots, Clock(self.device, wall=True))
        changed = (self.table.detach() != before).any(dim=1).nonzero().flatten()
        return {
            "chosen": chosen.sort().values,
            "changed": changed,
            "step": self.table.detach()[changed] - before[changed],
        }


def background_of(num_slots: int, device: torch.device) -> BackgroundCounts:
    """Counts in which each slot has a document frequency of its own, so that no two scores tie and
    the choice is unique."""
    frequency = torch.randperm(num_slots, generator=seeded(8)).to(device)
    return BackgroundCounts(
        batch_frequency=frequency,
        sequence_frequency=frequency,
        accesses=frequency,
        num_batches=num_slots,
        num_sequences=num_slots,
        num_tokens=num_slots,
    )


class OurPoolStep(_PoolStep):
    """SparseMemoryFinetuning around a module that is a memory layer and its pool."""

    def __init__(
        self,
        *,
        device: torch.device,
        num_trainable_slots: int,
        distinct: int = 0,
        whole: bool = False,
        layer: Mapping[str, int],
    ) -> None:
        """`whole` times the search and the read too, in addition to the step."""
        super().__init__(device=device, num_trainable_slots=num_trainable_slots, distinct=distinct, layer=layer)
        s = self.shape
        with torch.device("meta"):
            self.pool = ValuePool(s.num_slots, s.value_dim)
            self.layer = MemoryLayer(
                self.pool,
                hidden_size=s.width,
                num_half_keys=s.num_half_keys,
                top_k=s.top_k,
                num_heads=s.num_heads,
                key_dim=s.key_dim,
                query_norm=False,
            )
        values = value_table(s.num_slots, s.value_dim, device)
        self.layer.load_state_dict({**layer_weights(s, device), "pool.weight": values}, assign=True)
        self.hidden = hidden_states(s, device) if whole else None
        config = SparseMemoryConfig(
            num_trainable_slots=num_trainable_slots,
            optimizer=OptimizerConfig(kind="sgd", learning_rate=LEARNING_RATE),
        )
        self.method = SparseMemoryFinetuning(self.layer, config, background_of(s.num_slots, device), seed=0)
        # Nothing reads the tokens themselves; only which of them are pads.
        tokens = torch.zeros(SEQUENCES, s.num_tokens // SEQUENCES, dtype=torch.int64, device=device)
        self.facts = FactBatch("bench", tokens, torch.ones_like(tokens, dtype=torch.bool))

    @property
    def table(self) -> Tensor:
        return self.pool.weight

    def step(self, slots: Int[Tensor, "tokens reads"], clock: Clock) -> Int[Tensor, " trainable"]:
        weights = torch.ones(slots.shape, device=slots.device)
        if self.hidden is not None:
            with clock.separately("search and read"), torch.no_grad():
                found, weights = self.layer.search(self.hidden)
                self.pool(found, weights)
        self.method.choose([self.facts], {})
        assert self.layer.on_access is not None, (
            "with one layer and one batch the method chooses when the layer has searched"
        )
        with clock:
            self.layer.on_access(slots.view(*self.facts.tokens.shape, -1), weights.view(*self.facts.tokens.shape, -1))
        chosen = self.method.rows[self.pool].slots
        output = self.pool(slots, self.weights)
        with clock:
            output.backward(self.gradient)
            self.method.update()
        return chosen


class PlainPoolStep(_PoolStep):
    """The plain definition: counts of all slots, a dense gradient, zeros outside the selection, SGD
    over all rows."""

    def __init__(
        self, *, device: torch.device, num_trainable_slots: int, distinct: int = 0, layer: Mapping[str, int]
    ) -> None:
        super().__init__(device=device, num_trainable_slots=num_trainable_slots, distinct=distinct, layer=layer)
        self.values = nn.Parameter(value_table(self.shape.num_slots, self.shape.value_dim, device))
        background = background_of(self.shape.num_slots, device)
        # Known before the first step, so it is computed once; ours computes it for the slots
        # that a batch reads.
        self.idf = torch.log((background.num_batches + 1) / (background.batch_frequency.double() + 1))
        self.optimizer = torch.optim.SGD([self.values], lr=LEARNING_RATE, fused=True)

    @property
    def table(self) -> Tensor:
        return self.values

    def step(self, slots: Int[Tensor, "tokens reads"], clock: Clock) -> Int[Tensor, " trainable"]:
        with clock:
            counts = slots.flatten().bincount(minlength=self.shape.num_slots)
            chosen = (counts / counts.sum() * self.idf).topk(self.num_trainable_slots).indices
            kept = torch.zeros(self.shape.num_slots, 1, device=self.device)
            kept[chosen] = 1
        output = F.embedding_bag(slots, self.values, per_sample_weights=self.weights, mode="sum")
        with clock:
            output.backward(self.gradient)
            assert self.values.grad is not None
            self.values.grad.mul_(kept)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return chosen


def same_rows(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> list[str]:
    """List of differences unless both sides chose the same slots and changed exactly those, each by
    the same step."""
    wrong = []
    for name in ("chosen", "changed"):
        if not torch.equal(ours[name], theirs[name]):
            wrong.append(f"the slots {name} are not those of the plain definition")
    return wrong or far_apart("the step of the rows", ours["step"], theirs["step"])
