import pytest
import torch

from memlm.data.packing import document_positions
from memlm.evaluation.likelihood import nats_per_token
from tests.tiny import EOS, MEMORY, PAD, tiny_model

A, B, C = [1, 2, 3, 4, EOS], [9, 8, 7, EOS], [11, 12, 13, 14, 15, EOS]
MODELS = pytest.mark.parametrize("model", [tiny_model(MEMORY), tiny_model(dense=True)], ids=["memory", "dense"])


def score(model, *rows, batch_size=8):
    return nats_per_token(model, torch.tensor(rows), eos_id=EOS, pad_id=PAD, batch_size=batch_size)


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
