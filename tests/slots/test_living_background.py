from dataclasses import replace

import torch

from memlm.slots.counts import BackgroundCounts, SlotCounts
from memlm.slots.living_background import LivingBackground
from memlm.slots.ranking import inverse_document_frequency


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


def test_a_slot_has_the_larger_document_frequency_of_background_and_learned_facts():
    living = LivingBackground(background(), batches_per_fact=3)
    living.learn("a", torch.tensor([1, 4]))
    assert living.counts.batch_frequency.tolist() == [0, 3, 2, 3, 4, 5]
    living.learn("b", torch.tensor([4]))
    assert living.counts.batch_frequency.tolist() == [0, 3, 2, 3, 6, 5]


def test_the_inverse_document_frequency_is_the_smaller_of_the_two():
    living, every = LivingBackground(background(11), batches_per_fact=3), torch.arange(11)
    batch = SlotCounts(every, torch.ones_like(every))
    before = inverse_document_frequency(batch, living.counts)
    for number in range(9):
        living.learn(f"fact {number}", every[number:])
    learned = replace(background(11), batch_frequency=(3 * (every + 1)).clamp(max=10))
    in_facts = inverse_document_frequency(batch, learned)
    now = inverse_document_frequency(batch, living.counts)
    torch.testing.assert_close(now, torch.minimum(before, in_facts))


def test_a_slot_that_every_background_batch_reads_never_looks_rarer():
    """However many facts are learned, whether they read it or not, its inverse document frequency
    stays 0."""
    living = LivingBackground(background(11), batches_per_fact=4)
    for number in range(50):
        living.learn(f"fact {number}", torch.tensor([number % 10]))
    batch = SlotCounts(torch.tensor([10]), torch.tensor([1]))
    assert float(inverse_document_frequency(batch, living.counts)) == 0


def test_relearning_a_fact_replaces_its_slots():
    living = LivingBackground(background(), batches_per_fact=3)
    living.learn("a", torch.tensor([1, 4]))
    living.learn("a", torch.tensor([2]))
    assert living.counts.batch_frequency.tolist() == [0, 1, 3, 3, 4, 5]
    living.forget("a")
    assert living.counts.batch_frequency.equal(background().batch_frequency) and living.counts.num_batches == 10


def test_the_original_counts_stay_unchanged():
    fixed = background()
    LivingBackground(fixed, batches_per_fact=1).learn("a", torch.tensor([0]))
    assert fixed.batch_frequency.equal(background().batch_frequency)
