"""Sparse memory finetuning: of the value pool, the t rows most specific to the batch move (Lin
et al. 2025, section 4).

Keys, queries and everything below the memory layer are frozen, so a batch's accesses are known
before any gradient: count -> add up over micro-batches and ranks -> rank against background text
-> choose t slots -> gather their rows as the only trainable leaf -> read with them in place ->
write the rows back, moved. Backward ends at the memory layer and fills [t, value_dim].
"""

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from memlm.data.questions.facts import FactBatch
from memlm.methods.method import Method, sum_over_ranks
from memlm.methods.parts.pool_writers import ExtraParameters, pool_writer, with_largest_gradients
from memlm.methods.sparse_memory import SparseMemoryConfig
from memlm.model.memory import ValuePool
from memlm.model.reader import Reader, Recording
from memlm.model.weighted_read import TrainableRows
from memlm.slots.accesses import accesses_in, memory_layers, value_pools
from memlm.slots.counts import BackgroundCounts, SlotCounts, count_slots, merge, merge_over_ranks
from memlm.slots.living_background import LivingBackground
from memlm.slots.ranking import GRADIENT_RANKINGS, RANKINGS
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
        self.writer = pool_writer(self.pools, config, self.living.counts)
        self.extra = ExtraParameters(self.layers, config)
        ends = list(itertools.accumulate(pool.num_slots for pool in self.pools))
        self.first_slots = dict(zip(self.pools, [0, *ends], strict=False))
        """Each pool's first slot in the numbering of all pools."""
        self.opened = ExitStack()
        """Holds pools to sending their gradients to the open rows, for the length of the step."""
        self.rows: dict[ValuePool, TrainableRows] = {}
        """The step's open rows, by their pool."""
        self.batch: SlotCounts | None = None
        """The accesses of the step's batch."""
        self.fact_id = ""
        self.report: dict[str, float] = {}

    def logits(self, batch: FactBatch) -> Float[Tensor, "wordings seq vocab"]:
        return self.reader.logits(batch.tokens)

    @contextmanager
    def step(self, batches: list[FactBatch]) -> Iterator[dict[str, float]]:
        """A step as of any method. Where a pass of its own finds the accesses, the step's forward
        pass continues from what that one recorded."""
        # Keys that move need a search that gradients flow through.
        recorded = not self._takes_one_pass(batches) and self.config.trains_also != "keys"
        with self.reader.recording() if recorded else nullcontext(), super().step(batches) as report:
            yield report

    def choose(self, batches: list[FactBatch], report: dict[str, float]) -> None:
        self.close_step()
        self.fact_id, self.report = batches[0].fact_id, report
        if self._takes_one_pass(batches):
            self.layers[0].on_access = lambda slots: self._select(self._count(slots, batches[0]))
        else:
            self._select(merge([self._count(self._accesses(batch), batch) for batch in batches]))

    def _takes_one_pass(self, batches: list[FactBatch]) -> bool:
        """Whether the one search comes before the one read, so that the step's own forward pass
        can count and choose in between."""
        return len(batches) == 1 and len(self.layers) == 1

    def _accesses(self, batch: FactBatch) -> Int[Tensor, "batch seq reads"]:
        return accesses_in(self.model, lambda: self.reader.logits(batch.tokens))

    def _count(self, slots: Int[Tensor, "batch seq reads"], batch: FactBatch) -> SlotCounts:
        return count_slots(slots, batch.is_token)

    def _select(self, counts: SlotCounts) -> None:
        self.batch = batch = merge_over_ranks(counts)
        self.living.forget(self.fact_id)
        background = self.living.counts
        candidates = without_common_slots(batch, background, self.config.max_document_frequency)
        if self.config.ranking in GRADIENT_RANKINGS:
            selected = candidates.slots  # all may move until their gradients are known
        else:
            scores = RANKINGS[self.config.ranking](candidates, background, self.generator)
            selected = select_slots(candidates, scores, self.config.num_trainable_slots)
        self._open_rows(selected)
        self.report["num_accessed_slots"] = len(batch.slots)
        self._report_selected(selected)

    def _report_selected(self, selected: Int[Tensor, " trainable"]) -> None:
        self.selected_slots = selected
        background = self.living.counts
        self.report["num_trainable_slots"] = len(selected)
        self.report["background_share"] = float(background.batch_frequency[selected].double().mean()) / max(
            1, background.num_batches
        )

    def _open_rows(self, selected: Int[Tensor, " trainable"]) -> None:
        for pool, first in self.first_slots.items():
            slots = selected[(selected >= first) & (selected < first + pool.num_slots)] - first
            pool.announce_write(slots)
            if len(slots):
                self.rows[pool] = TrainableRows(slots, pool.weight.detach()[slots].float().requires_grad_(True))
                self.opened.enter_context(pool.sending_gradients_to(self.rows[pool]))

    def update(self) -> None:
        for rows in self.rows.values():
            sum_over_ranks(rows.values.grad)
        if self.config.ranking in GRADIENT_RANKINGS:
            self._keep_largest_gradients()
        self.writer.write(self.rows)
        self.extra.update()
        if self.config.living_background and self.batch is not None:
            self.living.learn(self.fact_id, self.batch.slots)

    def _keep_largest_gradients(self) -> None:
        self.rows = with_largest_gradients(self.rows, self.first_slots, self.living.counts, self.config)
        self._report_selected(torch.cat([rows.slots + self.first_slots[pool] for pool, rows in self.rows.items()]))

    def close_step(self) -> None:
        self.opened.close()
        for layer in self.layers:
            layer.on_access = None
        self.rows, self.batch = {}, None

    def finish(self) -> nn.Module:
        return self.model
