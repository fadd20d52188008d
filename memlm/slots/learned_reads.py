"""The reads of learned facts, as further background for the facts that follow: C grows by
weight * W_f' W_f with each fact f, W_f its tokens' weights on every slot."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from memlm.slots.reads import BackgroundReads, ReadsBySlot


class LearnedReads:
    def __init__(self, weight: float) -> None:
        """Count each token of a learned fact as `weight` background tokens; 0 for none."""
        self.weight = weight
        self.of_fact: dict[str, BackgroundReads] = {}
        self.stacked: list[BackgroundReads] = []
        """The same reads in few stacks, each larger than the next, so that a sum over all facts is
        a sum over few."""

    def learn(self, fact_id: str, reads: BackgroundReads) -> None:
        """Count the fact from now on, once."""
        if not self.weight or fact_id in self.of_fact:
            return
        self.of_fact[fact_id] = reads
        self.stacked.append(reads)
        while len(self.stacked) > 1 and self.stacked[-2].num_tokens <= self.stacked[-1].num_tokens:
            last = self.stacked.pop()
            self.stacked.append(self.stacked.pop() + last)

    def others(self, fact_id: str) -> tuple[str, ...]:
        """The facts that count for this one: a fact does not avoid its own rows."""
        return tuple(other for other in self.of_fact if other != fact_id)

    def products(self, fact_id: str, slots: Int[Tensor, " rows"]) -> Float[Tensor, "rows rows"] | None:
        """What is added to the sum of w w' over background tokens, of these slots; fp64. None if
        nothing is."""
        if not self.others(fact_id):
            return None
        total = torch.zeros(len(slots), len(slots), dtype=torch.float64)
        for reads in self.stacked:
            total += reads.by_slot.products(slots)
        if fact_id in self.of_fact:
            total -= ReadsBySlot.of(self.of_fact[fact_id]).products(slots)
        return total * self.weight
