import pytest
import torch

from memlm.slots.counts import SlotCounts
from memlm.slots.selection import select_slots

BATCH = SlotCounts(torch.tensor([2, 3, 5, 8, 13]), torch.ones(5, dtype=torch.int64))


@pytest.mark.parametrize(
    ("scores", "t", "expected"),
    [
        ([0.1, 0.5, 0.4, 0.2, 0.3], 2, [3, 5]),
        ([0.1, 0.5, 0.4, 0.2, 0.6], 3, [3, 5, 13]),  # ascending, not by score
        ([0.5, 0.5, 0.5, 0.5, 0.5], 2, [2, 3]),  # ties to the lower slot
        ([0.1, 0.5, 0.2, 0.2, 0.2], 3, [3, 5, 8]),
        ([0.0, 0.0, 0.0, 0.0, 0.1], 1, [13]),
        ([0.1, 0.5, 0.4, 0.2, 0.3], 5, [2, 3, 5, 8, 13]),
        ([0.1, 0.5, 0.4, 0.2, 0.3], 99, [2, 3, 5, 8, 13]),  # never a slot that the batch does not read
    ],
)
def test_the_highest_scores_are_chosen(scores, t, expected):
    assert select_slots(BATCH, torch.tensor(scores, dtype=torch.float64), t).tolist() == expected


def test_ties_go_to_the_lower_slot_among_many():
    """A partial sort would give any of them; a large number of equal scores shows it."""
    batch = SlotCounts(torch.arange(0, 4000, 2), torch.ones(2000, dtype=torch.int64))
    scores = torch.zeros(2000, dtype=torch.float64)
    scores[[1500, 7]] = 1.0
    assert select_slots(batch, scores, 10).tolist() == [0, 2, 4, 6, 8, 10, 12, 14, 16, 3000]
