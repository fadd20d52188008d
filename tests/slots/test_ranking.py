import math

import pytest
import torch

from memlm.slots.counts import BackgroundCounts, SlotCounts
from memlm.slots.ranking import RANKINGS, inverse_document_frequency

BATCH = SlotCounts(torch.tensor([0, 1, 2, 4]), torch.tensor([4, 3, 2, 1]))
FREQUENCY = torch.tensor([9, 0, 4, 9, 1])
BACKGROUND = BackgroundCounts(
    batch_frequency=FREQUENCY,
    sequence_frequency=FREQUENCY * 2,
    accesses=FREQUENCY * 5,
    num_batches=9,
    num_sequences=18,
    num_tokens=100,
)


def scores(ranking, seed=0):
    return RANKINGS[ranking](BATCH, BACKGROUND, torch.Generator().manual_seed(seed)).tolist()


def test_tfidf_by_hand():
    """Shares are 4, 3, 2, 1 of 10; 9, 0, 4 and 1 of 9 background batches read the slots (plus 1 in
    numerator and denominator)."""
    expected = [0.4 * math.log(10 / 10), 0.3 * math.log(10 / 1), 0.2 * math.log(10 / 5), 0.1 * math.log(10 / 2)]
    assert scores("tfidf") == pytest.approx(expected)
    assert scores("tfidf")[0] == 0  # a slot that every background batch reads
    assert inverse_document_frequency(BATCH, BACKGROUND).min() >= 0


def test_tf_ignores_the_background():
    assert scores("tf") == pytest.approx([0.4, 0.3, 0.2, 0.1])


def test_random_ignores_both_and_repeats_by_seed():
    assert scores("random") == scores("random") != scores("random", seed=1)
    assert len(set(scores("random"))) == len(BATCH.slots)


def test_random_differs_from_step_to_step():
    generator = torch.Generator().manual_seed(0)
    first, second = (RANKINGS["random"](BATCH, BACKGROUND, generator).tolist() for _ in range(2))
    assert first != second


def test_kl_by_hand():
    """p log(p / q), where q is the slot's background accesses plus one, divided by the sum of this
    over all slots."""
    total = int(BACKGROUND.accesses.sum()) + len(BACKGROUND.accesses)
    shares = [0.4, 0.3, 0.2, 0.1]
    accesses = BACKGROUND.accesses[BATCH.slots].tolist()
    expected = [p * math.log(p / ((a + 1) / total)) for p, a in zip(shares, accesses, strict=True)]
    assert scores("kl") == pytest.approx(expected)
