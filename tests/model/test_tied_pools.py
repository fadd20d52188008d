"""The pool is part of all layers that read it: replacing or training it in one place does so in
all of them."""

import copy
import warnings

import peft
import pytest
import torch
from peft.utils.other import ModulesToSaveWrapper
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

from memlm.model.memory import MemoryLayer, ValuePool
from memlm.slots.accesses import accesses_of, on_accesses, value_pools
from tests.support.tiny import MEMORIES, MEMORY, TWO_SEPARATE, TWO_SHARED, random_batch, tiny_model

every_memory = pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)


def logits_of(model, seed=0):
    with torch.no_grad():
        return model(input_ids=random_batch(seed).tokens, use_cache=False).logits


def losses_of_training(model, num_steps=4):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    tokens = random_batch(0).tokens
    losses = []
    for _ in range(num_steps):
        loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    return losses


def names_of_pools(memory):
    return [f"model.value_pools.{number}.weight" for number in range(memory.num_pools)]


@every_memory
def test_the_pool_is_a_registered_part_of_its_layers_under_one_name(memory):
    model = tiny_model(memory)
    for layer in model.memory_layers:
        assert any(layer.pool is pool for pool in model.model.value_pools)
        assert dict(layer.named_children())["pool"] is layer.pool
        assert "pool.weight" in dict(layer.named_parameters())
    for names in (dict(model.named_parameters()), model.state_dict()):
        assert [name for name in names if "pool" in name] == names_of_pools(memory)
    assert list(model.state_dict()) == [name for name, _ in model.named_parameters()]
    assert len({id(module) for module in model.modules()}) == len(list(model.modules()))
    everywhere = [name for name, _ in model.named_parameters(remove_duplicate=False) if "pool" in name]
    assert len(everywhere) == memory.num_pools + len(memory.layers)


def as_item(model, number, pool):
    model.model.value_pools[number] = pool


def as_attribute(model, number, pool):  # as PEFT does
    setattr(model.model.value_pools, str(number), pool)


def as_submodule(model, number, pool):
    model.set_submodule(f"model.value_pools.{number}", pool)


def in_another_list(model, number, pool):
    pools = list(model.model.value_pools)
    pools[number] = pool
    model.model.value_pools = nn.ModuleList(pools)


def in_the_last_layer(model, number, pool):
    model.memory_layers[-1].pool = pool


@pytest.mark.parametrize("put", [as_item, as_attribute, as_submodule, in_another_list, in_the_last_layer])
@every_memory
def test_a_replaced_pool_is_read_by_all_its_layers(memory, put):
    model = tiny_model(memory)
    before, number = logits_of(model), memory.num_pools - 1
    old = model.model.value_pools[number]
    pool = ValuePool(memory.num_slots, memory.value_dim)
    with torch.no_grad():
        pool.weight.copy_(old.weight + 1)
    put(model, number, pool)
    assert model.model.value_pools[number] is pool and model.memory_layers[-1].pool is pool
    assert not any(module is old for module in model.modules())
    after = logits_of(model)
    with torch.no_grad():
        pool.weight.sub_(1)
    put(model, number, old)
    assert torch.equal(logits_of(model), before) and not torch.equal(after, before)


@every_memory
def test_a_copy_has_ties_of_its_own(memory):
    model = tiny_model(memory)
    before, copied = logits_of(model), copy.deepcopy(model)
    copied.model.value_pools[0] = ValuePool(memory.num_slots, memory.value_dim)
    with torch.no_grad():
        copied.model.value_pools[0].weight.zero_()
    assert copied.memory_layers[0].pool is copied.model.value_pools[0]
    assert model.memory_layers[0].pool is model.model.value_pools[0]
    assert torch.equal(logits_of(model), before) and not torch.equal(logits_of(copied), before)


@every_memory
def test_a_file_written_before_the_tie_gives_the_same_bits(memory, tmp_path):
    """Its tensors are named as in files from the time when the pool was not part of the layers."""
    model = tiny_model(memory)
    model.save_pretrained(tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    stored = load_file(path)
    assert [name for name in stored if "pool" in name] == names_of_pools(memory)
    assert sum(value.numel() for value in stored.values()) == sum(p.numel() for p in model.parameters())
    loaded, report = AutoModelForCausalLM.from_pretrained(
        tmp_path, attn_implementation="eager", output_loading_info=True
    )
    assert not any(report.values())
    assert all(torch.equal(stored[name], value) for name, value in loaded.state_dict().items())
    assert torch.equal(logits_of(loaded), logits_of(model))
    assert loaded.memory_layers[0].pool is loaded.model.value_pools[0]


@pytest.mark.parametrize("assign", [False, True])
@every_memory
def test_a_state_dict_loads_strictly_and_missing_tensors_are_named_once(memory, assign):
    model, other = tiny_model(memory), tiny_model(memory, seed=1)
    other.load_state_dict(model.state_dict(), assign=assign)
    assert torch.equal(logits_of(other), logits_of(model))
    assert other.memory_layers[0].pool.weight is other.model.value_pools[0].weight
    state = model.state_dict()
    del state[names_of_pools(memory)[0]]
    assert other.load_state_dict(state, strict=False) == ([names_of_pools(memory)[0]], [])
    with pytest.raises(RuntimeError, match="value_pools.0.weight"):
        other.load_state_dict(state)


def test_missing_weights_are_initialised_for_the_pool_as_for_the_rest(tmp_path):
    model = tiny_model(TWO_SHARED)
    state = model.state_dict()
    pool = state.pop("model.value_pools.0.weight")
    model.save_pretrained(tmp_path, state_dict=state)
    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert report["missing_keys"] == {"model.value_pools.0.weight"}
    drawn = loaded.model.value_pools[0].weight
    assert float(drawn.std()) == pytest.approx(float(pool.std()), rel=0.2)
    assert loaded.memory_layers[1].pool.weight is drawn


@pytest.mark.parametrize("name", ["value_pools.0", "pool"])
@pytest.mark.parametrize("memory", [MEMORY, TWO_SHARED], ids=["one layer", "two layers, shared values"])
def test_peft_trains_and_saves_the_whole_pool_once(memory, name, tmp_path):
    model = tiny_model(memory)
    before = model.model.value_pools[0].weight.detach().clone()
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=[name], task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(model, config)
    wrappers = {id(module) for module in adapted.modules() if isinstance(module, ModulesToSaveWrapper)}
    assert len(wrappers) == 1
    assert all(isinstance(layer.pool, ModulesToSaveWrapper) for layer in model.memory_layers)
    losses = losses_of_training(adapted)
    trained = model.model.value_pools[0].modules_to_save["default"].weight
    assert not torch.equal(trained, before) and losses[-1] < losses[0]
    assert torch.equal(model.model.value_pools[0].original_module.weight, before)

    adapted.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(tiny_model(memory), tmp_path)
    assert torch.equal(logits_of(again), logits_of(adapted))
    expected = logits_of(adapted)
    merged = adapted.merge_and_unload()
    assert [type(pool) for pool in merged.model.value_pools] == [ValuePool]
    assert all(layer.pool is merged.model.value_pools[0] for layer in merged.memory_layers)
    torch.testing.assert_close(logits_of(merged), expected)


def test_peft_trains_one_of_several_pools():
    model = tiny_model(TWO_SEPARATE)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["value_pools.1"])
    adapted = peft.get_peft_model(model, config)
    assert [type(layer.pool) for layer in model.memory_layers] == [ValuePool, ModulesToSaveWrapper]
    losses_of_training(adapted)
    trained = model.model.value_pools[1]
    assert not torch.equal(trained.modules_to_save["default"].weight, trained.original_module.weight)


@pytest.mark.parametrize("memory", [MEMORY, TWO_SHARED], ids=["one layer", "two layers, shared values"])
def test_peft_trains_a_low_rank_change_of_the_pool(memory, tmp_path):
    model = tiny_model(memory)
    base = logits_of(model)
    config = peft.LoraConfig(r=2, target_modules=[], target_parameters=["value_pools.0.weight"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # PEFT's warning about a name that does not exist
        adapted = peft.get_peft_model(model, config)
    trainable = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert len(trainable) == 2 and all("value_pools.0" in name for name in trainable)
    losses = losses_of_training(adapted)
    assert losses[-1] < losses[0] and not torch.equal(logits_of(adapted), base)
    adapted.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(tiny_model(memory), tmp_path)
    assert torch.equal(logits_of(again), logits_of(adapted))
    with adapted.disable_adapter():
        assert torch.equal(logits_of(adapted), base)
    expected = logits_of(adapted)
    torch.testing.assert_close(logits_of(adapted.merge_and_unload()), expected)


def test_accesses_are_the_same_when_peft_wraps_the_pools():
    model = tiny_model(TWO_SEPARATE)
    tokens = random_batch(0).tokens
    expected = accesses_of(model, input_ids=tokens)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["value_pools.0", "value_pools.1"])
    adapted = peft.get_peft_model(model, config)
    assert torch.equal(accesses_of(adapted, input_ids=tokens), expected)
    assert sum(pool.num_slots for pool in value_pools(adapted)) == 2 * TWO_SEPARATE.num_slots
    with on_accesses(adapted, lambda number, slots: None):
        logits_of(adapted)


def test_a_single_layer_includes_its_pool():
    layer = MemoryLayer(
        ValuePool(81, 10), hidden_size=12, num_half_keys=9, top_k=3, num_heads=2, key_dim=6, query_norm=False
    )
    assert "pool.weight" in layer.state_dict()
    assert layer.to(torch.bfloat16).pool.weight.dtype == torch.bfloat16
    nn.Sequential(layer).load_state_dict({f"0.{name}": value for name, value in layer.state_dict().items()})
