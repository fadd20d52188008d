"""Background counts that grow with each learned fact: its slots become more common, so later facts
avoid them.

The paper's background is fixed. It protects slots that pretraining text reads, but not those of
facts learned since. The cost depends on the accesses, not on the pool.
"""

from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from memlm.slots.counts import BackgroundCounts


class LivingBackground:
    def __init__(self, background: BackgroundCounts, batches_per_fact: int) -> None:
        """Count each learned fact as `batches_per_fact` background batches that all read its
        slots."""
        self.batches_per_fact = batches_per_fact
        self.counts = replace(background, batch_frequency=background.batch_frequency.clone())
        self.slots_of_fact: dict[str, Int[Tensor, " accessed"]] = {}

    def forget(self, fact_id: str) -> None:
        """Remove a fact's own accesses, so that learning it before is no reason to avoid its slots
        now."""
        slots = self.slots_of_fact.pop(fact_id, None)
        if slots is not None:
            self._add(slots, -self.batches_per_fact)

    def learn(self, fact_id: str, slots: Int[Tensor, " accessed"]) -> None:
        """Count the slots that the fact reads, given without duplicates, from now on."""
        self.forget(fact_id)
        self.slots_of_fact[fact_id] = slots
        self._add(slots, self.batches_per_fact)

    def _add(self, slots: Int[Tensor, " accessed"], batches: int) -> None:
        self.counts.batch_frequency.index_add_(0, slots, torch.full_like(slots, batches))
        self.counts = replace(self.counts, num_batches=self.counts.num_batches + batches)
