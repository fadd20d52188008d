import itertools
from dataclasses import fields, replace

import pytest
import torch

from memlm.slots.accesses import accesses_of
from memlm.slots.counts import BackgroundCounts, SlotCounts, count_slots, merge, merge_over_ranks
from tests.support.tiny import PAD, count_reads, num_slots, random_batch, tiny_model


def as_dict(counts: SlotCounts) -> dict[int, int]:
    return dict(zip(counts.slots.tolist(), counts.counts.tolist(), strict=True))


def counts_of(**reads: int) -> SlotCounts:
    slots = sorted(int(slot[1:]) for slot in reads)
    return SlotCounts(
        torch.tensor(slots, dtype=torch.int64), torch.tensor([reads[f"s{slot}"] for slot in slots], dtype=torch.int64)
    )


def background_of(model, batch) -> BackgroundCounts:
    return BackgroundCounts.of_batch(
        accesses_of(model, input_ids=batch.tokens), batch.is_token, num_slots=num_slots(model)
    )


def assert_equal(first: BackgroundCounts, second: BackgroundCounts) -> None:
    for field in fields(BackgroundCounts):
        assert torch.equal(torch.as_tensor(getattr(first, field.name)), torch.as_tensor(getattr(second, field.name)))


def test_a_batch_is_counted_token_by_token():
    model, batch = tiny_model(), random_batch(0)
    counts = count_slots(accesses_of(model, input_ids=batch.tokens), batch.is_token)
    assert as_dict(counts) == dict(count_reads(model, [batch]))
    assert counts.slots.tolist() == sorted(counts.slots.tolist())
    assert int(counts.counts.sum()) == int(batch.is_token.sum()) * 2 * 3


def check_pads_are_not_counted(count) -> None:
    """Rows with other pads, or more of them, have the same counts."""
    model, batch = tiny_model(), random_batch(0)
    other, longer = batch.tokens.masked_fill(~batch.is_token, 7), random_batch(0, seq=12)
    expected = as_dict(count(accesses_of(model, input_ids=batch.tokens), batch.is_token))
    assert as_dict(count(accesses_of(model, input_ids=other), batch.is_token)) == expected
    assert as_dict(count(accesses_of(model, input_ids=longer.tokens), longer.is_token)) == expected


def test_pads_are_not_counted():
    check_pads_are_not_counted(count_slots)


def test_mutant_that_counts_pads_is_caught():
    with pytest.raises(AssertionError):
        check_pads_are_not_counted(lambda slots, is_token: count_slots(slots, torch.ones_like(is_token)))


def test_merging_adds_up_in_any_order():
    parts = [counts_of(s3=1, s5=2), counts_of(s0=4, s5=1), counts_of(), counts_of(s3=7)]
    for order in itertools.permutations(parts):
        assert as_dict(merge(list(order))) == {0: 4, 3: 8, 5: 3}
    assert as_dict(merge([merge(parts[:2]), merge(parts[2:])])) == {0: 4, 3: 8, 5: 3}


def test_one_process_has_nothing_to_merge():
    counts = counts_of(s3=1)
    assert merge_over_ranks(counts) is counts


def test_background_by_hand():
    """Two sequences over five slots, the second padded: slot 4 is read by a pad only."""
    slots = torch.tensor([[[0, 1], [0, 2]], [[2, 2], [4, 0]], [[4, 4], [4, 4]]])
    is_token = torch.tensor([[True, True], [True, False], [False, False]])
    counts = BackgroundCounts.of_batch(slots, is_token, num_slots=5)
    assert counts.accesses.tolist() == [2, 1, 3, 0, 0]
    assert counts.sequence_frequency.tolist() == [1, 1, 2, 0, 0]
    assert counts.batch_frequency.tolist() == [1, 1, 1, 0, 0]
    assert (counts.num_batches, counts.num_sequences, counts.num_tokens) == (1, 2, 3)


def test_a_batch_of_pads_alone_does_not_count():
    slots, is_token = torch.zeros(2, 3, 4, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.bool)
    assert_equal(BackgroundCounts.of_batch(slots, is_token, num_slots=6), BackgroundCounts.zero(6))


def test_pads_are_not_counted_in_the_background():
    model = tiny_model()
    whole = random_batch(3)
    padded = whole._replace(
        tokens=torch.cat([whole.tokens, torch.full((1, 7), PAD)]),
        is_token=torch.cat([whole.is_token, torch.zeros(1, 7, dtype=torch.bool)]),
    )
    assert_equal(background_of(model, padded), background_of(model, whole))


def test_background_counts_add_up_in_any_order_and_grouping():
    model = tiny_model()
    parts = [background_of(model, random_batch(seed)) for seed in range(4)]
    whole = parts[0] + parts[1] + parts[2] + parts[3]
    assert (whole.num_batches, whole.num_sequences, whole.num_tokens) == (4, 16, 4 * 21)
    assert int(whole.accesses.sum()) == 4 * 21 * 6
    for a, b, c, d in itertools.permutations(parts):
        assert_equal((a + b) + (c + d), whole)
    assert_equal(sum(parts, start=BackgroundCounts.zero(81)), whole)


def test_counts_of_different_models_do_not_add_up():
    with pytest.raises(ValueError, match="different models"):
        BackgroundCounts.zero(4) + BackgroundCounts.zero(5)


def test_saving_and_loading_keeps_everything(tmp_path):
    counts = replace(background_of(tiny_model(), random_batch(0)), num_batches=9)
    counts.save(tmp_path / "counts.safetensors")
    loaded = BackgroundCounts.load(tmp_path / "counts.safetensors")
    assert_equal(loaded, counts)
    assert isinstance(loaded.num_batches, int) and loaded.accesses.dtype == torch.int64
