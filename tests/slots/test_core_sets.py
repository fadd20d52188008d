import pytest
import torch

from memlm.slots.core_sets import TokenReads, accessed_by_rows, core_set, intersection, reads_of_tokens


def test_core_set_by_hand():
    wordings = [torch.tensor([1, 2, 3, 5, 8]), torch.tensor([2, 3, 5, 9]), torch.tensor([0, 2, 5, 8])]
    assert intersection(wordings).tolist() == [2, 5]
    assert core_set(wordings, torch.tensor([5, 7, 8])).tolist() == [5]
    assert core_set(wordings, torch.tensor([7])).tolist() == []


def test_one_wording_is_its_own_intersection_and_none_has_none():
    assert intersection([torch.tensor([4, 1, 4])]).tolist() == [1, 4]
    with pytest.raises(ValueError, match="sets is empty"):
        intersection([])


def test_pads_read_nothing():
    slots = torch.tensor([[[1, 2], [3, 1], [7, 8]], [[5, 5], [9, 9], [9, 9]]])
    is_token = torch.tensor([[True, True, False], [True, False, False]])
    assert [read.tolist() for read in accessed_by_rows(slots, is_token)] == [[1, 2, 3], [5]]


def test_a_slot_that_a_token_reads_twice_counts_once():
    slots = torch.tensor([[4, 4, 6, 7], [1, 2, 3, 3]])
    assert reads_of_tokens(slots, torch.tensor([3, 4, 6])) == [TokenReads(3, 2), TokenReads(3, 1)]
    assert reads_of_tokens(slots, torch.tensor([], dtype=torch.int64)) == [TokenReads(3, 0), TokenReads(3, 0)]
