"""The slots that may be trained: the t most specific of those that the batch reads."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from memlm.slots.counts import BackgroundCounts, SlotCounts


def select_slots(
    batch: SlotCounts, scores: Float[Tensor, " accessed"], num_trainable_slots: int
) -> Int[Tensor, " trainable"]:
    """The slots with the highest scores, in ascending order: at most num_trainable_slots (0 for
    all). Of equal scores the lower slot is chosen.

    A slot that the batch does not read is never chosen, because its gradient would be zero.
    """
    if not num_trainable_slots or len(scores) <= num_trainable_slots:
        return batch.slots
    # Sorting all accessed slots would cost more than the rest of a step. Instead find the lowest
    # score that is chosen, and the slots that reach it.
    last = scores.topk(num_trainable_slots, sorted=False).values.min()
    better = (scores > last).nonzero().squeeze(1)
    equal = (scores == last).nonzero().squeeze(1)[: num_trainable_slots - len(better)]
    return batch.slots[torch.cat([better, equal]).sort().values]


def without_common_slots(batch: SlotCounts, background: BackgroundCounts, max_document_frequency: float) -> SlotCounts:
    """The slots read by at most this share of the background batches; if there are none, the least
    common ones."""
    if max_document_frequency >= 1 or not len(batch.slots):
        return batch
    frequency = background.batch_frequency[batch.slots]
    limit = max(max_document_frequency * background.num_batches, int(frequency.min()))
    kept = frequency <= limit
    return SlotCounts(batch.slots[kept], batch.counts[kept])
