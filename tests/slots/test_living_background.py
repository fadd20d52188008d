import torch

from memlm.slots.counts import BackgroundCounts
from memlm.slots.living_background import LivingBackground


def background(num_slots: int = 6) -> BackgroundCounts:
    frequency = torch.arange(num_slots)
    return BackgroundCounts(
        batch_frequency=frequency,
        sequence_frequency=frequency,
        accesses=frequency,
        num_batches=10,
        num_sequences=10,
        num_tokens=100,
    )


def test_a_learned_fact_counts_as_several_batches_that_read_its_slots():
    living = LivingBackground(background(), batches_per_fact=3)
    living.learn("a", torch.tensor([1, 4]))
    assert living.counts.batch_frequency.tolist() == [0, 4, 2, 3, 7, 5] and living.counts.num_batches == 13
    living.learn("b", torch.tensor([4]))
    assert living.counts.batch_frequency.tolist() == [0, 4, 2, 3, 10, 5] and living.counts.num_batches == 16


def test_relearning_a_fact_replaces_its_slots():
    living = LivingBackground(background(), batches_per_fact=3)
    living.learn("a", torch.tensor([1, 4]))
    living.learn("a", torch.tensor([2]))
    assert living.counts.batch_frequency.tolist() == [0, 1, 5, 3, 4, 5] and living.counts.num_batches == 13
    living.forget("a")
    assert living.counts.batch_frequency.equal(background().batch_frequency) and living.counts.num_batches == 10


def test_the_original_counts_stay_unchanged():
    fixed = background()
    LivingBackground(fixed, batches_per_fact=1).learn("a", torch.tensor([0]))
    assert fixed.batch_frequency.equal(background().batch_frequency)
