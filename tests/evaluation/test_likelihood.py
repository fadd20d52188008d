import math
from itertools import compress
from statistics import fmean

import pytest
import torch

from memlm.data.corpus.packing import document_positions
from memlm.evaluation.likelihood import score_text
from memlm.evaluation.vocabulary import Vocabulary
from memlm.model.reader import Reader
from tests.support.tiny import EOS, MEMORY, PAD, tiny_model

A, B, C = [1, 2, 3, 4, EOS], [9, 8, 7, EOS], [11, 12, 13, 14, 15, EOS]
MODELS = pytest.mark.parametrize("model", [tiny_model(MEMORY), tiny_model(dense=True)], ids=["memory", "dense"])


VOCAB_SIZE = 50


def vocabulary(*, ends=(), num_bytes=None, unigram_nats=None):
    """A vocabulary in which only `ends` end anything."""
    is_end = torch.zeros(VOCAB_SIZE, dtype=torch.bool)
    is_end[list(ends)] = True
    return Vocabulary(
        num_bytes=torch.ones(VOCAB_SIZE, dtype=torch.long) if num_bytes is None else num_bytes,
        is_end=is_end,
        unigram_nats=torch.ones(VOCAB_SIZE, dtype=torch.double) if unigram_nats is None else unigram_nats,
    )


def scores_of(model, *rows, batch_size=8, pad_id=PAD, **options):
    tokens = torch.tensor(rows)
    return score_text(
        Reader(model), tokens, eos_id=EOS, pad_id=pad_id, batch_size=batch_size, vocabulary=vocabulary(**options)
    )


def score(model, *rows, batch_size=8, pad_id=PAD):
    """Mean nats over all tokens of each block."""
    return scores_of(model, *rows, batch_size=batch_size, pad_id=pad_id).text.model


def alone(model, document):
    """Nats of each token but the first, of one document and nothing else."""
    tokens = torch.tensor([document])
    with torch.no_grad():
        log_probabilities = model(input_ids=tokens).logits[0].log_softmax(dim=-1)
    return [-log_probabilities[i - 1, document[i]].item() for i in range(1, len(document))]


def first_after_end(model, document, following):
    """Nats of the next document's first token, which the end of this one predicts."""
    return alone(model, [*document, following[0]])[-1]


@MODELS
def test_a_block_of_one_document_is_the_mean_over_its_tokens(model):
    nats = alone(model, C)
    assert score(model, C) == pytest.approx([sum(nats) / len(nats)], rel=1e-5)


@MODELS
def test_documents_of_a_block_do_not_see_each_other(model):
    nats = [*alone(model, A), first_after_end(model, A, B), *alone(model, B)]
    assert score(model, A + B) == pytest.approx([sum(nats) / len(nats)], rel=1e-5)


@MODELS
def test_without_positions_documents_would_see_each_other(model):
    """Proof that the test above can fail."""
    tokens = torch.tensor([A + B])
    with torch.no_grad():
        apart = model(input_ids=tokens, position_ids=document_positions(tokens, eos_id=EOS)).logits
        together = model(input_ids=tokens).logits
    torch.testing.assert_close(apart[:, : len(A)], together[:, : len(A)])
    assert float((apart - together)[:, len(A) :].abs().max()) > 0.01


@MODELS
@pytest.mark.parametrize("num_pads", [1, 3, 9])
def test_pads_are_not_scored(model, num_pads):
    assert score(model, A + B + [PAD] * num_pads) == pytest.approx(score(model, A + B), rel=1e-5)


@MODELS
def test_the_batch_size_changes_nothing(model):
    rows = [A + A, A + B + [PAD], B + C, C + B, B + A + [PAD]]
    expected = [score(model, row)[0] for row in rows]
    for batch_size in (1, 2, 5, 8):
        assert score(model, *rows, batch_size=batch_size) == pytest.approx(expected, rel=1e-5)


def test_a_block_without_a_token_to_predict_has_no_item():
    model = tiny_model()
    assert score(model, A, [PAD] * 5) == pytest.approx(score(model, A), rel=1e-5)


@MODELS
def test_ends_are_scored_apart_from_all_other_tokens(model):
    newline = 8
    rows = [A + B, [*C, PAD, PAD, PAD], [*C[:-1], 3, 3, 3, 3]]
    scores = scores_of(model, *rows, ends=(EOS, newline))
    first = [*alone(model, A), first_after_end(model, A, B), *alone(model, B)]
    in_first = [target in (EOS, newline) for target in [*A[1:], *B]]
    assert scores.ends.model[0] == pytest.approx(fmean(compress(first, in_first)), rel=1e-4)
    assert scores.text.model[0] == pytest.approx(fmean(compress(first, [not end for end in in_first])), rel=1e-4)
    assert scores.ends.model[1] == pytest.approx(alone(model, C)[-1], rel=1e-4)
    assert [len(kind.model) for kind in (scores.text, scores.ends)] == [3, 2]


def test_the_unigram_model_is_scored_on_the_same_tokens():
    nats = torch.arange(VOCAB_SIZE).double()
    scores = scores_of(tiny_model(), A + B, [*C, PAD, PAD, PAD], ends=(EOS,), unigram_nats=nats)
    text = [[token for token in row if token != EOS] for row in ([*A[1:], *B], C[1:])]
    assert scores.text.unigram == pytest.approx([fmean(row) for row in text])
    assert scores.ends.unigram == (EOS, EOS)


@MODELS
def test_perplexity_and_bits_per_byte_are_of_all_tokens(model):
    """Blocks of different lengths: a mean over blocks would weigh their tokens differently."""
    rows = [[*A, *B], [*C, PAD, PAD, PAD]]
    token_bytes = torch.arange(VOCAB_SIZE) % 3 + 1
    token_bytes[EOS] = token_bytes[PAD] = 0
    scores = scores_of(model, *rows, batch_size=1, num_bytes=token_bytes, ends=(EOS, 8))
    nats = [*alone(model, A), first_after_end(model, A, B), *alone(model, B), *alone(model, C)]
    targets = [*A[1:], *B, *C[1:]]
    assert scores.perplexity == pytest.approx(math.exp(sum(nats) / len(nats)), rel=1e-4)
    text = [(n, int(token_bytes[target])) for n, target in zip(nats, targets, strict=True) if target != EOS]
    expected = sum(n for n, _ in text) / math.log(2) / sum(size for _, size in text)
    assert scores.bits_per_byte == pytest.approx(expected, rel=1e-4)


def test_a_model_that_has_diverged_still_has_a_perplexity():
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight.mul_(1e6)
    scores = scores_of(model, C)
    assert scores.text.model[0] > 700
    assert math.isfinite(scores.perplexity)


def test_text_of_no_bytes_is_refused():
    with pytest.raises(ValueError, match="no byte of text"):
        scores_of(tiny_model(), C, num_bytes=torch.zeros(VOCAB_SIZE, dtype=torch.long))


def test_the_end_of_a_text_is_scored_where_the_pad_is_the_same_token():
    model = tiny_model()
    assert score(model, [*A, EOS, EOS], pad_id=EOS) == pytest.approx(score(model, [*A, PAD, PAD]), rel=1e-6)
