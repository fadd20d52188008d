import pytest
import torch

from memlm.model.reader.decoding import continue_greedily
from memlm.model.reader.trunk import run_trunk
from tests.support.tiny import MEMORIES, MEMORY, PAD, tiny_model

MODELS = {**MEMORIES, "dense": None}
every_model = pytest.mark.parametrize("memory", MODELS.values(), ids=MODELS)


def model_of(memory):
    return tiny_model(MEMORY, dense=True) if memory is None else tiny_model(memory)


def prompts(length, *, count=12):
    return torch.randint(0, 48, (count, length), generator=torch.Generator().manual_seed(length))


def generated(model, tokens, ends, max_new_tokens):
    """Hugging Face's own answer."""
    whole = model.generate(
        input_ids=tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=PAD,
    )
    return whole[:, tokens.shape[1] :]


def ends_of(model, tokens, number):
    """Tokens that the model does write, so that some rows end early and others do not."""
    return generated(model, tokens, [PAD], 8)[:number, 2].unique().tolist()


@every_model
@pytest.mark.parametrize("length", [1, 2, 7])
@pytest.mark.parametrize("number_of_ends", [1, 4, 12])
def test_the_tokens_are_those_of_generate(memory, length, number_of_ends):
    model, tokens = model_of(memory), prompts(length)
    ends = ends_of(model, tokens, number_of_ends)
    expected = generated(model, tokens, ends, 8)
    assert len(expected.unique(dim=0)) > 1
    settings = {"max_new_tokens": 8, "end_ids": ends, "pad_id": PAD}
    assert torch.equal(continue_greedily(model, tokens, **settings), expected)
    if memory is not None:
        trunk = run_trunk(model, tokens, keep_keys_values=True)
        assert torch.equal(continue_greedily(model, tokens, trunk, **settings), expected)


def test_rows_end_at_different_times_in_the_test_above():
    model, tokens = tiny_model(), prompts(7)
    written = generated(model, tokens, ends_of(model, tokens, 4), 8)
    lengths = (written != PAD).sum(dim=1)
    assert lengths.min() < lengths.max() == 8


def test_it_stops_when_all_rows_have_ended():
    model, tokens = tiny_model(), prompts(7)
    everything = list(range(50))
    assert continue_greedily(model, tokens, max_new_tokens=8, end_ids=everything, pad_id=PAD).shape == (12, 1)
