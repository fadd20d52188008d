"""Sparse memory finetuning: of the value pool, the t rows most specific to the batch move (Lin
et al. 2025, section 4).

Keys, queries and everything below the memory layer are frozen, so a batch's accesses are known
before any gradient: count -> add up over micro-batches and ranks -> rank against background text
-> choose t slots -> gather their rows as the only trainable leaf -> read with them in place ->
write the rows back, moved. Backward ends at the memory layer and fills [t, value_dim].
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from memlm.data.questions.facts import FactBatch
from memlm.methods.config import OptimizerConfig, SparseMemoryConfig
from memlm.methods.method import Method, build_optimizer, sum_over_ranks
from memlm.model.memory import MemoryLayer, ValuePool
from memlm.model.reader import Reader, Recording
from memlm.model.weighted_read import TrainableRows
from memlm.slots.accesses import accesses_in, memory_layers, value_pools
from memlm.slots.counts import BackgroundCounts, SlotCounts, count_slots, merge, merge_over_ranks
from memlm.slots.living_background import LivingBackground
from memlm.slots.ranking import RANKINGS, inverse_document_frequency
from memlm.slots.selection import select_slots, without_common_slots


class SparseMemoryFinetuning(Method):
    def __init__(
        self,
        model: nn.Module,
        config: SparseMemoryConfig,
        background: BackgroundCounts,
        *,
        seed: int,
        recording: Recording | None = None,
    ) -> None:
        self.model = model.requires_grad_(False)
        self.pools = value_pools(model)
        if not self.pools:
            raise ValueError(
                f"method {config.name} trains slots, but the checkpoint has no memory layer; use the memory model's checkpoint"
            )
        num_slots = sum(pool.num_slots for pool in self.pools)
        if len(background.accesses) != num_slots:
            raise ValueError(
                f"the background counts are of {len(background.accesses)} slots and the model has {num_slots}; "
                "rerun pipelines/count_accesses.py for this checkpoint"
            )
        if config.num_trainable_slots > num_slots:
            raise ValueError(
                f"method.num_trainable_slots is {config.num_trainable_slots}, more than the pool's {num_slots} slots; lower it"
            )
        self.config = config
        self.reader = Reader(model, recording=recording)
        self.layers = memory_layers(model)
        self.living = LivingBackground(background.to(self.pools[0].weight.device), config.living_background)
        self.generator = torch.Generator().manual_seed(seed)
        if config.optimizer.kind == "sgd":
            self.write: Callable[[], None] = _WriteSGD(self.pools, config, self.living.counts).write
        else:
            self.write = _WriteAdamW(self.pools, config).write
        self.beside = _TrainedBeside(self.layers, config)
        self.fact_id = ""
        self.batch: SlotCounts | None = None
        """What the step's batch reads, for the length of the step."""
        self.report: dict[str, float] = {}

    def logits(self, batch: FactBatch) -> Float[Tensor, "wordings seq vocab"]:
        return self.reader.logits(batch.tokens)

    @contextmanager
    def step(self, batches: list[FactBatch]) -> Iterator[dict[str, float]]:
        """As any method's. Where accesses take a pass of their own, the step's forward pass goes
        on from what that one recorded."""
        # Keys that move need a search that gradients flow through.
        recorded = not self._one_pass(batches) and self.config.trains_also != "keys"
        with self.reader.recording() if recorded else nullcontext(), super().step(batches) as report:
            yield report

    def choose(self, batches: list[FactBatch], report: dict[str, float]) -> None:
        self.fact_id = batches[0].fact_id
        if self._one_pass(batches):
            self.layers[0].on_access = lambda slots: self._select(self._count(slots, batches[0]), report)
        else:
            counts = [self._count(self._accesses(batch), batch) for batch in batches]
            self._select(merge(counts), report)

    def _one_pass(self, batches: list[FactBatch]) -> bool:
        """Whether the one search comes before the one read, so that the step's own forward pass
        can count and choose in between."""
        return len(batches) == 1 and len(self.layers) == 1

    def _accesses(self, batch: FactBatch) -> Int[Tensor, "batch seq reads"]:
        return accesses_in(self.model, lambda: self.reader.logits(batch.tokens))

    def _count(self, slots: Int[Tensor, "batch seq reads"], batch: FactBatch) -> SlotCounts:
        return count_slots(slots, batch.is_token)

    def _select(self, counts: SlotCounts, report: dict[str, float]) -> None:
        self.batch = batch = merge_over_ranks(counts)
        self.living.forget(self.fact_id)
        background = self.living.counts
        candidates = without_common_slots(batch, background, self.config.max_document_frequency)
        if self.config.ranking == "gradient":
            selected = candidates.slots  # all may move until their gradients are known
        else:
            scores = RANKINGS[self.config.ranking](candidates, background, self.generator)
            selected = select_slots(candidates, scores, self.config.num_trainable_slots)
        self.selected_slots = selected
        self._open_rows(selected)
        self.report = report
        report["num_accessed_slots"] = len(batch.slots)
        self._report_selected(selected)

    def _report_selected(self, selected: Int[Tensor, " trainable"]) -> None:
        background = self.living.counts
        self.report["num_trainable_slots"] = len(selected)
        self.report["background_share"] = float(background.batch_frequency[selected].double().mean()) / max(
            1, background.num_batches
        )

    def _keep_largest_gradients(self) -> None:
        """Of the open rows, those whose gradient is large for how common they are; the others
        stay as they were."""
        opened = [(pool, *pool.trainable_rows) for pool in self.pools if pool.trainable_rows is not None]
        norms = torch.cat([gradient_of(values).norm(dim=1) for _, _, values in opened]).double()
        slots = torch.cat([slots + self._first_slot(pool) for pool, slots, _ in opened])
        candidates = SlotCounts(slots, torch.ones_like(slots))
        scores = norms * inverse_document_frequency(candidates, self.living.counts)
        selected = select_slots(candidates, scores, self.config.num_trainable_slots)
        for pool, slots, values in opened:
            kept = torch.isin(slots + self._first_slot(pool), selected)
            gradient = gradient_of(values)[kept]
            values = values.detach()[kept].requires_grad_(True)
            values.grad = gradient
            pool.trainable_rows = TrainableRows(slots[kept], values)
        self.selected_slots = selected
        self._report_selected(selected)

    def _first_slot(self, pool: ValuePool) -> int:
        return sum(other.num_slots for other in self.pools[: self.pools.index(pool)])

    def _open_rows(self, selected: Int[Tensor, " trainable"]) -> None:
        offset = 0
        for pool in self.pools:
            num_slots = pool.num_slots
            slots = selected[(selected >= offset) & (selected < offset + num_slots)] - offset
            values = pool.weight.detach()[slots].float().requires_grad_(True)
            pool.trainable_rows = TrainableRows(slots, values) if len(slots) else None
            if pool.moved_slots is not None:
                pool.moved_slots.append(slots)
            offset += num_slots

    def update(self) -> None:
        for pool in self.pools:
            if pool.trainable_rows is not None:
                sum_over_ranks(pool.trainable_rows.values.grad)
        if self.config.ranking == "gradient":
            self._keep_largest_gradients()
        self.write()
        self.beside.update()
        if self.config.living_background and self.batch is not None:
            self.living.learn(self.fact_id, self.batch.slots)

    def close_step(self) -> None:
        for pool in self.pools:
            pool.trainable_rows = None
        for layer in self.layers:
            layer.on_access = None
        self.batch = None

    def finish(self) -> nn.Module:
        return self.model


def gradient_of(values: Float[Tensor, "rows value_dim"]) -> Float[Tensor, "rows value_dim"]:
    assert values.grad is not None, "backward must run between choose and update"
    return values.grad


class _WriteSGD:
    """Writes the selected rows and nothing else; its cost does not depend on the size of the
    pool."""

    def __init__(self, pools: list[ValuePool], config: SparseMemoryConfig, background: BackgroundCounts) -> None:
        self.pools = pools
        self.learning_rate = config.optimizer.learning_rate
        self.weight_decay = config.optimizer.weight_decay
        self.protection = config.protection * 1000 / max(1, background.num_tokens)
        self.accesses = background.accesses.split([pool.num_slots for pool in pools])

    @torch.no_grad()
    def write(self) -> None:
        for pool, accesses in zip(self.pools, self.accesses, strict=True):
            if pool.trainable_rows is None:
                continue
            slots, values = pool.trainable_rows
            gradient = gradient_of(values)
            if self.protection:
                gradient = gradient / (1 + self.protection * accesses[slots]).to(gradient.dtype)[:, None]
            moved = values * (1 - self.learning_rate * self.weight_decay) - self.learning_rate * gradient
            pool.weight.data[slots] = moved.to(pool.weight.dtype)


class _TrainedBeside:
    """Ablation: parameters of the memory layers that move with the values."""

    def __init__(self, layers: list[MemoryLayer], config: SparseMemoryConfig) -> None:
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


class _WriteAdamW:
    """The choice that leaks: dense AdamW over the pool, whose gradient is zero outside the
    selection.

    Rows that have left the selection go on moving by their momentum, and weight decay moves
    every row. Kept as the paper's comparison (section 5, "Optimizer"), with the leak in plain
    sight; SGD is the default for this reason.
    """

    def __init__(self, pools: list[ValuePool], config: SparseMemoryConfig) -> None:
        self.pools = pools
        self.optimizer = build_optimizer([pool.weight for pool in pools], config.optimizer)
        for pool in pools:
            if pool.moved_slots is not None:
                pool.moved_slots.append(torch.arange(pool.num_slots, device=pool.weight.device))

    @torch.no_grad()
    def write(self) -> None:
        for pool in self.pools:
            gradient: Float[Tensor, "num_slots value_dim"] = torch.zeros_like(pool.weight)
            if pool.trainable_rows is not None:
                slots, values = pool.trainable_rows
                gradient[slots] = gradient_of(values).to(gradient.dtype)
            pool.weight.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad()
