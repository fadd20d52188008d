import math

import pytest
import torch

from memlm.data.corpus.packing import document_positions
from memlm.evaluation.likelihood import nats_per_token, score_text
from memlm.model.reader import Reader
from tests.support.tiny import EOS, MEMORY, PAD, tiny_model

A, B, C = [1, 2, 3, 4, EOS], [9, 8, 7, EOS], [11, 12, 13, 14, 15, EOS]
MODELS = pytest.mark.parametrize("model", [tiny_model(MEMORY), tiny_model(dense=True)], ids=["memory", "dense"])


def score(model, *rows, batch_size=8):
    return nats_per_token(Reader(model), torch.tensor(rows), eos_id=EOS, pad_id=PAD, batch_size=batch_size)


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


def test_a_block_without_a_token_to_predict_is_refused():
    with pytest.raises(ValueError, match="no token to predict"):
        score(tiny_model(), A, [PAD] * 5)


@MODELS
def test_perplexity_and_bits_per_byte_are_of_all_tokens(model):
    """Blocks of different lengths: a mean over blocks would weigh their tokens differently."""
    rows = torch.tensor([[*A, *B], [*C, PAD, PAD, PAD]])
    token_bytes = torch.arange(50) % 3 + 1
    token_bytes[EOS] = token_bytes[PAD] = 0
    scores = score_text(Reader(model), rows, eos_id=EOS, pad_id=PAD, batch_size=1, token_bytes=token_bytes)
    assert scores.nats_per_token == nats_per_token(Reader(model), rows, eos_id=EOS, pad_id=PAD, batch_size=1)
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
    scores = score_text(
        Reader(model),
        torch.tensor([C]),
        eos_id=EOS,
        pad_id=PAD,
        batch_size=1,
        token_bytes=torch.ones(50, dtype=torch.long),
    )
    assert scores.nats_per_token[0] > 700
    assert math.isfinite(scores.perplexity)


def test_text_of_no_bytes_is_refused():
    with pytest.raises(ValueError, match="no byte of text"):
        score_text(
            Reader(tiny_model()),
            torch.tensor([C]),
            eos_id=EOS,
            pad_id=PAD,
            batch_size=1,
            token_bytes=torch.zeros(50, dtype=torch.long),
        )


def test_the_end_of_a_text_is_scored_where_the_pad_is_the_same_token():
    model = tiny_model()
    own = nats_per_token(Reader(model), torch.tensor([[*A, PAD, PAD]]), eos_id=EOS, pad_id=PAD, batch_size=1)
    same = nats_per_token(Reader(model), torch.tensor([[*A, EOS, EOS]]), eos_id=EOS, pad_id=EOS, batch_size=1)
    assert same == pytest.approx(own, rel=1e-6)
