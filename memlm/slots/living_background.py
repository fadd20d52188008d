"""Background counts that grow with each learned fact: its slots become more common, so later facts
avoid them.

The paper's background is fixed. It protects slots that pretraining text reads, but not those of
facts learned since. Of two inverse document frequencies, a slot's in background text and its in the
learned facts, the smaller counts: both are taken over the same number of batches, so the smaller is
that of the larger document frequency. (If learned facts were added to the number of batches too, a
slot that every background batch reads would look rarer with every fact.) The cost depends on the
accesses, not on the pool.
"""

from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from memlm.slots.counts import BackgroundCounts


class LivingBackground:
    def __init__(self, background: BackgroundCounts, batches_per_fact: int) -> None:
        """Count each learned fact as `batches_per_fact` of the background's batches, all of which
        read its slots."""
        self.background, self.batches_per_fact = background, batches_per_fact
        self.counts = replace(background, batch_frequency=background.batch_frequency.clone())
        self.num_facts = torch.zeros_like(background.batch_frequency)
        """Number of learned facts that read each slot."""
        self.slots_of_fact: dict[str, Int[Tensor, " accessed"]] = {}

    def forget(self, fact_id: str) -> None:
        """Remove a fact's own accesses, so that learning it before is no reason to avoid its slots
        now."""
        slots = self.slots_of_fact.pop(fact_id, None)
        if slots is not None:
            self._add(slots, -1)

    def learn(self, fact_id: str, slots: Int[Tensor, " accessed"]) -> None:
        """Count the slots that the fact reads, given without duplicates, from now on."""
        self.forget(fact_id)
        self.slots_of_fact[fact_id] = slots
        self._add(slots, 1)

    def _add(self, slots: Int[Tensor, " accessed"], facts: int) -> None:
        self.num_facts[slots] += facts
        in_facts = (self.num_facts[slots] * self.batches_per_fact).clamp(max=self.background.num_batches)
        self.counts.batch_frequency[slots] = in_facts.maximum(self.background.batch_frequency[slots])
