"""A model behind a prefix answers as if each text began with it."""

import pytest
import torch

from memlm.data.corpus.packing import document_positions
from memlm.model.reader import Reader
from memlm.model.reader.prefixes import Prefix, behind, load_prefix, prefix_before, prefix_of, put_behind, save_prefix
from tests.support.tiny import EOS, PAD, random_batch, tiny_model

BEFORE = torch.tensor([3, 1, 4, 1, 5, 9])
both_models = pytest.mark.parametrize("dense", [True, False])


def whole(tokens):
    """The rows with the prefix's own tokens in front."""
    return torch.cat([BEFORE.expand(len(tokens), -1), tokens], dim=1)


@torch.no_grad()
def logits(model, tokens, **more):
    return Reader(model).logits(tokens, **more)


@both_models
def test_logits_are_those_of_the_whole_text(dense):
    model, tokens = tiny_model(dense=dense), random_batch(0).tokens
    expected = logits(model, whole(tokens))[:, len(BEFORE) :]
    prefix = prefix_of(model, BEFORE)
    assert prefix.length == len(BEFORE)
    assert float((logits(model, tokens) - expected).abs().max()) > 0.1, "the prefix matters"
    with behind(model, prefix):
        torch.testing.assert_close(logits(model, tokens), expected)
    torch.testing.assert_close(logits(model, whole(tokens))[:, len(BEFORE) :], expected, rtol=0, atol=0)


@both_models
def test_greedy_continuations_are_those_of_the_whole_text(dense):
    model, tokens = tiny_model(dense=dense), random_batch(1).tokens[:, :4]
    ends = {"max_new_tokens": 8, "end_ids": [EOS], "pad_id": PAD}
    expected = Reader(model).continue_greedily(whole(tokens), **ends)
    with behind(model, prefix_of(model, BEFORE)):
        found = Reader(model).continue_greedily(tokens, **ends)
    assert torch.equal(found, expected)
    assert not torch.equal(Reader(model).continue_greedily(tokens, **ends), expected)


def test_each_of_several_documents_in_a_row_sees_the_prefix_and_itself_alone():
    model = tiny_model(dense=True)
    first, second = torch.tensor([[7, 8, 9, EOS]]), torch.tensor([[11, 12, 13]])
    row = torch.cat([first, second], dim=1)
    with behind(model, prefix_of(model, BEFORE)):
        packed = logits(model, row, position_ids=document_positions(row, eos_id=EOS))
        apart = torch.cat([logits(model, first), logits(model, second)], dim=1)
    torch.testing.assert_close(packed, apart)


def test_the_last_prefix_counts_and_one_may_be_computed_behind_another():
    model, tokens, more = tiny_model(dense=True), random_batch(2).tokens, torch.tensor([20, 21])
    expected = logits(model, torch.cat([whole(more.expand(len(tokens), -1)), tokens], dim=1))[:, -tokens.shape[1] :]
    put_behind(model, prefix_of(model, BEFORE))
    both = prefix_of(model, more)
    assert both.length == len(BEFORE) + len(more)
    with behind(model, both):
        torch.testing.assert_close(logits(model, tokens), expected)
        assert prefix_before(model) is both
    assert prefix_before(model).length == len(BEFORE)


def test_a_function_gives_the_prefix_anew_and_receives_gradients():
    model, tokens = tiny_model(dense=True).requires_grad_(False), random_batch(3).tokens
    fixed = prefix_of(model, BEFORE)
    leaves = [[pair.detach().clone().requires_grad_(True) for pair in pairs] for pairs in fixed.keys_values]
    put_behind(model, lambda: Prefix(tuple((keys, values) for keys, values in leaves)))
    model(input_ids=tokens, use_cache=False).logits.square().sum().backward()
    assert all(float(leaf.grad.abs().sum()) > 0 for pair in leaves for leaf in pair)


def test_no_prefix_changes_nothing():
    model = tiny_model(dense=True)
    with behind(model, None):
        assert prefix_before(model) is None
        assert not model._forward_pre_hooks


def test_a_stored_prefix_keeps_its_bits(tmp_path):
    prefix = prefix_of(tiny_model(dense=True), BEFORE)
    save_prefix(prefix, tmp_path / "prefix.safetensors")
    torch.testing.assert_close(load_prefix(tmp_path / "prefix.safetensors"), prefix, rtol=0, atol=0)
