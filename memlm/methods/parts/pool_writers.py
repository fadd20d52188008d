"""Writers that move a pool's open rows, and the variants of sparse memory finetuning that the paper
compares or that are ours: AdamW and its leak, protection, ranking by gradient, extra parameters.

Open rows are the leaves that stand in for the selected rows while a step reads them; backward has
left their gradient on them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from memlm.methods.config import OptimizerConfig
from memlm.methods.method import build_optimizer, sum_over_ranks
from memlm.methods.sparse_memory import SparseMemoryConfig
from memlm.model.memory import MemoryLayer, ValuePool
from memlm.model.weighted_read import TrainableRows
from memlm.slots.counts import BackgroundCounts, SlotCounts
from memlm.slots.ranking import GRADIENT_RANKINGS
from memlm.slots.selection import select_slots

OpenRows = Mapping[ValuePool, TrainableRows]
"""The rows that may move in a step, by their pool; a pool without any is left out."""


class PoolWriter(Protocol):
    def write(self, rows: OpenRows) -> None:
        """Move the rows along their gradients and write them to their pools."""


def pool_writer(pools: Sequence[ValuePool], config: SparseMemoryConfig, background: BackgroundCounts) -> PoolWriter:
    if config.optimizer.kind == "sgd":
        return SGDWriter(pools, config, background)
    if config.optimizer.kind == "row_sparse_adamw":
        return RowSparseAdamWWriter(pools, config)
    return AdamWWriter(pools, config)


def gradient_of(values: Float[Tensor, "rows value_dim"]) -> Float[Tensor, "rows value_dim"]:
    assert values.grad is not None, "backward must run between choose and update"
    return values.grad


class SGDWriter:
    """Writes the open rows and nothing else; its cost does not depend on the size of the pool.

    With protection, a slot's learning rate falls with the background accesses that it has.
    """

    def __init__(self, pools: Sequence[ValuePool], config: SparseMemoryConfig, background: BackgroundCounts) -> None:
        self.learning_rate = config.optimizer.learning_rate
        self.weight_decay = config.optimizer.weight_decay
        self.protection = config.protection * 1000 / max(1, background.num_tokens)
        accesses = background.accesses.split([pool.num_slots for pool in pools])
        self.accesses = dict(zip(pools, accesses, strict=True))

    @torch.no_grad()
    def write(self, rows: OpenRows) -> None:
        for pool, (slots, values) in rows.items():
            gradient = gradient_of(values)
            if self.protection:
                accesses = self.accesses[pool][slots]
                gradient = gradient / (1 + self.protection * accesses).to(gradient.dtype)[:, None]
            moved = values * (1 - self.learning_rate * self.weight_decay) - self.learning_rate * gradient
            pool.weight.data[slots] = moved.to(pool.weight.dtype)


class RowSparseAdamWWriter:
    """AdamW that moves the open rows and nothing else.

    A row has moments once it has been selected, and counts its own steps; while it is not selected,
    row and moments stay what they are. So the cost depends on the rows ever selected, and not on
    the pool.
    """

    BETAS, EPSILON = (0.9, 0.999), 1e-8

    def __init__(self, pools: Sequence[ValuePool], config: SparseMemoryConfig) -> None:
        self.learning_rate = config.optimizer.learning_rate
        self.weight_decay = config.optimizer.weight_decay
        self.moments = {pool: RowMoments(pool) for pool in pools}

    @torch.no_grad()
    def write(self, rows: OpenRows) -> None:
        for pool, (slots, values) in rows.items():
            gradient, moments = gradient_of(values), self.moments[pool]
            places = moments.places_of(slots)
            moments.num_steps[places] += 1
            first = moments.first[places].lerp(gradient, 1 - self.BETAS[0])
            second = moments.second[places].lerp(gradient.square(), 1 - self.BETAS[1])
            moments.first[places], moments.second[places] = first, second
            steps = moments.num_steps[places][:, None].to(values.dtype)
            corrected = (second / (1 - self.BETAS[1] ** steps)).sqrt() + self.EPSILON
            moved = values * (1 - self.learning_rate * self.weight_decay)
            moved -= self.learning_rate * first / (1 - self.BETAS[0] ** steps) / corrected
            pool.weight.data[slots] = moved.to(pool.weight.dtype)


class RowMoments:
    """The moments of the rows of a pool that were ever selected, in the order of their first
    selection."""

    def __init__(self, pool: ValuePool) -> None:
        device = pool.weight.device
        self.place = torch.full((pool.num_slots,), -1, device=device)
        """Each slot's row in the moments; -1 if it has none."""
        self.num_rows = 0
        self.first, self.second = torch.zeros(2, 0, pool.value_dim, device=device)
        self.num_steps = torch.zeros(0, dtype=torch.int64, device=device)

    def places_of(self, slots: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
        """The rows of the moments, which new slots get at 0."""
        new = slots[self.place[slots] < 0]
        self.place[new] = torch.arange(self.num_rows, self.num_rows + len(new), device=slots.device)
        self.num_rows += len(new)
        if self.num_rows > len(self.num_steps):
            more = max(self.num_rows, 2 * len(self.num_steps)) - len(self.num_steps)
            self.first, self.second = (F.pad(moment, (0, 0, 0, more)) for moment in (self.first, self.second))
            self.num_steps = F.pad(self.num_steps, (0, more))
        return self.place[slots]


class AdamWWriter:
    """The choice that leaks: dense AdamW over the pool, whose gradient is zero outside the
    selection.

    Rows that have left the selection keep moving by their momentum, and weight decay moves every
    row. Kept as the paper's comparison (section 5, "Optimizer"), with the leak in plain sight;
    SGD is the default for this reason.
    """

    def __init__(self, pools: Sequence[ValuePool], config: SparseMemoryConfig) -> None:
        self.pools = pools
        self.optimizer = build_optimizer([pool.weight for pool in pools], config.optimizer)
        for pool in pools:
            pool.announce_write(torch.arange(pool.num_slots, device=pool.weight.device))

    @torch.no_grad()
    def write(self, rows: OpenRows) -> None:
        for pool in self.pools:
            gradient: Float[Tensor, "num_slots value_dim"] = torch.zeros_like(pool.weight)
            if pool in rows:
                slots, values = rows[pool]
                gradient[slots] = gradient_of(values).to(gradient.dtype)
            pool.weight.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad()


def with_largest_gradients(
    rows: OpenRows, first_slots: Mapping[ValuePool, int], background: BackgroundCounts, config: SparseMemoryConfig
) -> dict[ValuePool, TrainableRows]:
    """The num_trainable_slots open rows that the config's ranking scores highest by their
    gradients; the others stay as they were. `first_slots` is each pool's first slot in the
    numbering of all pools."""
    norms = torch.cat([gradient_of(values).norm(dim=1) for _, values in rows.values()]).double()
    slots = torch.cat([slots + first_slots[pool] for pool, (slots, _) in rows.items()])
    candidates = SlotCounts(slots, torch.ones_like(slots))
    scores = GRADIENT_RANKINGS[config.ranking](candidates, background, norms)
    selected = select_slots(candidates, scores, config.num_trainable_slots)
    kept_rows = {}
    for pool, (slots, values) in rows.items():
        kept = torch.isin(slots + first_slots[pool], selected)
        gradient = gradient_of(values)[kept]
        values = values.detach()[kept].requires_grad_(True)
        values.grad = gradient
        kept_rows[pool] = TrainableRows(slots[kept], values)
    return kept_rows


class ExtraParameters:
    """Ablation: parameters of the memory layers that move with the values, by AdamW."""

    def __init__(self, layers: Sequence[MemoryLayer], config: SparseMemoryConfig) -> None:
        chosen: dict[str, Callable[[MemoryLayer], list[nn.Parameter]]] = {
            "": lambda layer: [],
            "keys": lambda layer: [layer.half_keys],
            "gates": lambda layer: [layer.gate.weight, layer.gate.bias],
        }
        self.parameters = [parameter for layer in layers for parameter in chosen[config.trains_also](layer)]
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        settings = OptimizerConfig(learning_rate=config.also_learning_rate)
        self.optimizer = build_optimizer(self.parameters, settings) if self.parameters else None

    def update(self) -> None:
        if self.optimizer is None:
            return
        for parameter in self.parameters:
            sum_over_ranks(parameter.grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
