import pytest
import torch

from memlm.slots.counts import BackgroundCounts, SlotCounts
from memlm.slots.selection import select_slots, without_common_slots

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
    """A partial sort could give any of them, which many equal scores reveal."""
    batch = SlotCounts(torch.arange(0, 4000, 2), torch.ones(2000, dtype=torch.int64))
    scores = torch.zeros(2000, dtype=torch.float64)
    scores[[1500, 7]] = 1.0
    assert select_slots(batch, scores, 10).tolist() == [0, 2, 4, 6, 8, 10, 12, 14, 16, 3000]


def test_no_limit_selects_all():
    batch = SlotCounts(torch.tensor([1, 3, 8]), torch.tensor([1, 1, 1]))
    assert select_slots(batch, torch.tensor([0.1, 0.3, 0.2]), 0).tolist() == [1, 3, 8]


def frequencies(*values: int) -> BackgroundCounts:
    counts = torch.tensor(values)
    return BackgroundCounts(
        batch_frequency=counts,
        sequence_frequency=counts,
        accesses=counts,
        num_batches=10,
        num_sequences=10,
        num_tokens=10,
    )


def test_a_limit_leaves_out_slots_read_by_a_larger_share_of_batches():
    batch = SlotCounts(torch.tensor([0, 2, 3]), torch.tensor([5, 6, 7]))
    kept = without_common_slots(batch, frequencies(3, 9, 4, 1), 0.3)
    assert kept.slots.tolist() == [0, 3] and kept.counts.tolist() == [5, 7]
    assert without_common_slots(batch, frequencies(3, 9, 4, 1), 1.0) is batch


def test_if_all_slots_are_common_the_least_common_are_kept():
    batch = SlotCounts(torch.tensor([0, 1, 2]), torch.tensor([1, 1, 1]))
    assert without_common_slots(batch, frequencies(8, 9, 8, 0), 0.3).slots.tolist() == [0, 2]
