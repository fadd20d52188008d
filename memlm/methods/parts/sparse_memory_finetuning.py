"""Sparse memory finetuning: of the value pool, the t rows most specific to the batch move (Lin
et al. 2025, section 4).

Keys, queries and everything below the memory layer are frozen, so a batch's accesses are known
before any gradient: count -> add up over micro-batches and ranks -> rank against background text
-> choose t slots -> gather their rows as the only trainable leaf -> read with them in place ->
write the rows back, moved. Backward ends at the memory layer and fills [t, value_dim].
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from jaxtyping import Int
from torch import Tensor, nn

from memlm.data.questions.facts import FactBatch
from memlm.methods.method import sum_over_ranks
from memlm.methods.parts.pool_writers import ExtraParameters, pool_writer, with_largest_gradients
from memlm.methods.parts.slot_finetuning import SlotFinetuning
from memlm.methods.sparse_memory import SparseMemoryConfig
from memlm.model.reader import Recording
from memlm.slots.accesses import accesses_in
from memlm.slots.counts import BackgroundCounts, SlotCounts, count_slots, merge, merge_over_ranks
from memlm.slots.living_background import LivingBackground
from memlm.slots.ranking import GRADIENT_RANKINGS, RANKINGS
from memlm.slots.selection import select_slots, without_common_slots


class SparseMemoryFinetuning(SlotFinetuning):
    def __init__(
        self,
        model: nn.Module,
        config: SparseMemoryConfig,
        background: BackgroundCounts,
        *,
        seed: int,
        recording: Recording | None = None,
    ) -> None:
        super().__init__(model, config, background, seed=seed, recording=recording)
        self.config: SparseMemoryConfig = config
        self.living = LivingBackground(self.background, config.living_background)
        self.writer = pool_writer(self.pools, config, self.living.counts)
        self.extra = ExtraParameters(self.layers, config)
        self.batch: SlotCounts | None = None
        """The accesses of the step's batch."""
        self.fact_id = ""
        self.report: dict[str, float] = {}

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
            self.layers[0].on_access = lambda slots, weights: self._select(self._count(slots, batches[0]))
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
        self._select_rows(selected, background, self.report)

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
        selected = torch.cat([rows.slots + self.first_slots[pool] for pool, rows in self.rows.items()])
        self._select_rows(selected, self.living.counts, self.report)

    def close_step(self) -> None:
        super().close_step()
        self.batch = None
