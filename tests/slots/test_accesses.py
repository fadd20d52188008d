import pytest
import torch

from memlm.model.memory import MemoryLayer
from memlm.slots.accesses import accesses_of, accesses_of_tokens, on_accesses
from tests.support.tiny import MEMORIES, TWO_SEPARATE, random_batch, read_slots, tiny_model

every_memory = pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)


@every_memory
def test_accesses_are_the_best_slots_of_every_token_layer_and_head(memory):
    model, tokens = tiny_model(memory), random_batch(0).tokens
    slots = accesses_of(model, input_ids=tokens)
    expected = read_slots(model, tokens)
    reads = memory.num_heads * memory.top_k
    assert slots.shape == expected.shape == (*tokens.shape, len(memory.layers) * reads)
    heads = (-1, memory.top_k)
    assert torch.equal(slots.unflatten(-1, heads).sort().values, expected.unflatten(-1, heads).sort().values)


def test_slots_of_separate_pools_have_numbers_of_their_own():
    slots = accesses_of(tiny_model(TWO_SEPARATE), input_ids=random_batch(0).tokens)
    assert int(slots[..., :6].max()) < 81 <= int(slots[..., 6:].min())
    assert int(slots.max()) < 2 * 81


def modules_run(model, run):
    names, hooks = [], []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda *_, name=name: names.append(name)))
    run()
    for hook in hooks:
        hook.remove()
    return names


@every_memory
def test_nothing_is_computed_beyond_the_last_search(memory):
    """The last memory layer's values are not read, and its gate and output, the layers above and
    the head do not run."""
    model, tokens = tiny_model(memory), random_batch(0).tokens
    last = memory.layers[-1]
    names = modules_run(model, lambda: accesses_of(model, input_ids=tokens))
    assert names[-1] == f"model.layers.{last}.mlp.query_norm"
    assert not {f"model.layers.{last}.mlp.gate", f"model.layers.{last}.mlp.output", "model.norm", "lm_head"} & set(
        names
    )
    assert not any(name.startswith(f"model.layers.{above}") for above in range(last + 1, 3) for name in names)
    # Each memory layer below the last one reads once.
    assert sum(name.startswith("model.value_pools.") for name in names) == len(memory.layers) - 1
    whole = modules_run(model, lambda: model(input_ids=tokens))
    assert {"lm_head", "model.norm", f"model.layers.{last}.mlp.output"} < set(whole)  # so the hooks work


def test_the_last_pools_values_are_not_read():
    model, tokens = tiny_model(TWO_SEPARATE), random_batch(0).tokens
    before = accesses_of(model, input_ids=tokens)
    with torch.no_grad():
        model.model.value_pools[1].weight.fill_(float("nan"))
    assert torch.equal(accesses_of(model, input_ids=tokens), before)


def test_the_model_is_left_unchanged():
    model, tokens = tiny_model(), random_batch(0).tokens
    expected = model(input_ids=tokens).logits
    accesses_of(model, input_ids=tokens)
    assert torch.is_grad_enabled()
    assert all(layer.on_access is None for layer in model.modules() if isinstance(layer, MemoryLayer))
    assert torch.equal(model(input_ids=tokens).logits, expected)


def test_an_error_of_the_model_is_not_suppressed():
    model = tiny_model()
    with pytest.raises(IndexError):
        accesses_of(model, input_ids=torch.tensor([[10_000]]))
    assert model.memory_layers[0].on_access is None


def test_a_dense_model_is_refused():
    with pytest.raises(ValueError, match="no memory layer"), on_accesses(tiny_model(dense=True), lambda *_: None):
        pass


def test_pads_access_nothing():
    slots = torch.arange(12).view(2, 3, 2)
    is_token = torch.tensor([[True, True, False], [True, False, False]])
    assert accesses_of_tokens(slots, is_token).tolist() == [0, 1, 2, 3, 6, 7]
