"""The two halves of a forward pass give the bits of the whole pass, and each runs only its half."""

import pytest
import torch
from transformers import DynamicCache

from memlm.data.corpus.packing import document_positions
from memlm.model.language_model import build_model
from memlm.model.reader.trunk import continue_from, run_trunk
from memlm.slots.accesses import on_accesses
from tests.support.tiny import EOS, MEMORIES, PAD, random_batch, tiny_model

every_memory = pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)


def packed_tokens():
    """Several documents a row, so that positions restart and attention must not cross."""
    batch = random_batch(0, lengths=(9, 9, 9))
    tokens = batch.tokens.clone()
    tokens[0, 3] = tokens[1, 5] = EOS
    return tokens


def model_with(memory, attention):
    return build_model(tiny_model(memory).config, seed=0, attention=attention).eval()


@torch.no_grad()
def check_halves_are_the_whole(memory, *, attention="eager", continued=continue_from):
    model, tokens = model_with(memory, attention), packed_tokens()
    for positions in (None, document_positions(tokens, eos_id=EOS)):
        whole = model(input_ids=tokens, position_ids=positions, use_cache=False).logits
        assert torch.equal(continued(model, run_trunk(model, tokens, positions)), whole)


@every_memory
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_halves_give_the_logits_of_the_whole_to_the_bit(memory, attention):
    check_halves_are_the_whole(memory, attention=attention)


@every_memory
def test_mutant_that_forgets_the_positions_is_caught(memory):
    with pytest.raises(AssertionError):
        check_halves_are_the_whole(
            memory, continued=lambda model, trunk: continue_from(model, trunk._replace(position_ids=None))
        )


@every_memory
@torch.no_grad()
def test_a_key_value_cache_is_filled_as_by_the_whole_forward_pass(memory):
    model, tokens = tiny_model(memory), packed_tokens()
    halves, whole = (DynamicCache(config=model.config) for _ in range(2))
    trunk = run_trunk(model, tokens, keep_keys_values=True)
    logits = continue_from(model, trunk, cache=halves, last_only=True)
    expected = model(input_ids=tokens, past_key_values=whole, use_cache=True, logits_to_keep=1).logits
    assert torch.equal(logits, expected)
    assert len(halves.layers) == len(whole.layers) == 3
    for ours, theirs in zip(halves.layers, whole.layers, strict=True):
        assert torch.equal(ours.keys, theirs.keys) and torch.equal(ours.values, theirs.values)


@torch.no_grad()
def test_filling_a_cache_leaves_the_kept_keys_and_values_as_they_are():
    model = tiny_model()
    trunk = run_trunk(model, packed_tokens(), keep_keys_values=True)
    kept = [tensor.clone() for pair in trunk.keys_values for tensor in pair]
    cache = DynamicCache(config=model.config)
    continue_from(model, trunk, cache=cache)
    for layer in cache.layers:
        layer.keys.zero_(), layer.values.zero_()
    assert kept and all(map(torch.equal, kept, [tensor for pair in trunk.keys_values for tensor in pair]))


@every_memory
def test_the_trunk_does_not_depend_on_the_layers_above_it(memory):
    """Neither on values nor on later layers; so nothing of them is computed."""
    model, other = tiny_model(memory), tiny_model(memory)
    first = memory.layers[0]
    with torch.no_grad():
        for pool in other.model.value_pools:
            pool.weight.fill_(torch.nan)
        for module in (other.model.layers[first + 1 :], other.model.norm, other.lm_head):
            for parameter in module.parameters():
                parameter.fill_(torch.nan)
    ours, theirs = (run_trunk(each, packed_tokens(), keep_keys_values=True) for each in (model, other))
    assert ours.residual.isfinite().all() and len(ours.keys_values) == first + 1
    for name in ("residual", "slots", "weights"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name))


@every_memory
def test_a_trunk_leaves_no_hook_behind(memory):
    model, tokens = tiny_model(memory), packed_tokens()
    run_trunk(model, tokens)
    assert model(input_ids=tokens, use_cache=False).logits.shape[:2] == tokens.shape


def accesses(model, forward):
    seen = []
    with on_accesses(model, lambda number, slots: seen.append((number, slots))):
        forward()
    return seen


@every_memory
@torch.no_grad()
def test_the_second_half_shows_every_access_and_the_first_none(memory):
    model, tokens = tiny_model(memory), packed_tokens()
    assert accesses(model, lambda: run_trunk(model, tokens)) == []
    trunk = run_trunk(model, tokens)
    halves = accesses(model, lambda: continue_from(model, trunk))
    whole = accesses(model, lambda: model(input_ids=tokens, use_cache=False))
    assert [number for number, _ in halves] == [number for number, _ in whole] == list(range(len(memory.layers)))
    for (_, ours), (_, theirs) in zip(halves, whole, strict=True):
        assert torch.equal(ours, theirs)


def test_a_dense_model_has_no_trunk():
    with pytest.raises(ValueError, match="no memory layer"):
        run_trunk(tiny_model(dense=True), torch.full((1, 3), PAD))
