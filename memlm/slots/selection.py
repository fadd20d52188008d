"""Which slots may move: the t most specific of those that the batch reads."""

from jaxtyping import Float, Int
from torch import Tensor

from memlm.slots.counts import SlotCounts


def select_slots(
    batch: SlotCounts, scores: Float[Tensor, " accessed"], num_trainable_slots: int
) -> Int[Tensor, " trainable"]:
    """The slots with the highest scores in ascending order, at most num_trainable_slots; of equal ones the lower slot.

    A slot that the batch does not read is never chosen: its gradient would be zero.
    """
    by_score = scores.sort(descending=True, stable=True).indices
    return batch.slots[by_score[:num_trainable_slots]].sort().values
