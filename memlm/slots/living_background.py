"""Background counts that grow with what is learned: a fact's slots become common once it is
known, so later facts spare them.

The paper's background is fixed, and protects what pretraining text reads but no fact learned
since. Cost follows the accesses.
"""

from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from memlm.slots.counts import BackgroundCounts


class LivingBackground:
    def __init__(self, background: BackgroundCounts, batches_per_fact: int) -> None:
        """Each learned fact counts as so many background batches that all read its slots."""
        self.batches_per_fact = batches_per_fact
        self.counts = replace(background, batch_frequency=background.batch_frequency.clone())
        self.slots_of_fact: dict[str, Int[Tensor, " accessed"]] = {}

    def forget(self, fact_id: str) -> None:
        """Take a fact's own accesses out: what it learned before is no reason to spare its
        slots."""
        slots = self.slots_of_fact.pop(fact_id, None)
        if slots is not None:
            self._add(slots, -self.batches_per_fact)

    def learn(self, fact_id: str, slots: Int[Tensor, " accessed"]) -> None:
        """Let the slots that the fact reads, none twice, count from now on."""
        self.forget(fact_id)
        self.slots_of_fact[fact_id] = slots
        self._add(slots, self.batches_per_fact)

    def _add(self, slots: Int[Tensor, " accessed"], batches: int) -> None:
        self.counts.batch_frequency.index_add_(0, slots, torch.full_like(slots, batches))
        self.counts = replace(self.counts, num_batches=self.counts.num_batches + batches)
