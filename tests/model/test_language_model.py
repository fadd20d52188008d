import copy
import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from memlm.model.language_model import (
    CheckpointError,
    MemoryLlamaForCausalLM,
    build_model,
    count_parameters,
    load_checkpoint,
    load_model_config,
    model_config,
)
from memlm.model.memory import MemoryLayer
from memlm.recipes import RECIPES
from tests.support.tiny import MEMORIES, TWO_SEPARATE, TWO_SHARED, VOCAB_SIZE, random_batch, state, tiny_model

every_memory = pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)


def logits_of(model):
    with torch.no_grad():
        return model(input_ids=random_batch(0).tokens, use_cache=False).logits


@every_memory
def test_the_same_seed_gives_the_same_weights_and_another_gives_others(memory):
    first, again, other = (state(tiny_model(memory, seed=seed)) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(not torch.equal(first[name], other[name]) for name in first if "norm" not in name and "bias" not in name)


@every_memory
def test_building_leaves_the_global_random_state_unchanged(memory):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    tiny_model(memory)
    assert torch.equal(torch.rand(1), expected)


@every_memory
def test_saving_and_loading_is_exact_to_the_bit(memory, tmp_path):
    model = tiny_model(memory)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    assert isinstance(loaded, MemoryLlamaForCausalLM)
    before, after = state(model), state(loaded)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(logits_of(model), logits_of(loaded))
    assert AutoConfig.from_pretrained(tmp_path).memory_layers == list(memory.layers)


@every_memory
def test_values_are_stored_once(memory):
    names = [name for name in tiny_model(memory).state_dict() if "pool" in name]
    assert names == [f"model.value_pools.{number}.weight" for number in range(memory.num_pools)]


def test_shared_values_are_one_pool_and_separate_values_are_not():
    shared, separate = tiny_model(TWO_SHARED).memory_layers, tiny_model(TWO_SEPARATE).memory_layers
    assert shared[0].pool is shared[1].pool
    assert separate[0].pool is not separate[1].pool


@every_memory
@pytest.mark.parametrize(
    "second_model", [lambda first, memory: tiny_model(memory), lambda first, _: copy.deepcopy(first)]
)
def test_two_models_in_one_process_do_not_share_values(memory, second_model):
    first = tiny_model(memory)
    second = second_model(first, memory)
    before = logits_of(first)
    with torch.no_grad():
        for pool in second.model.value_pools:
            pool.weight.add_(1)
    assert torch.equal(logits_of(first), before)
    assert not torch.equal(logits_of(second), before)  # so its layers do read its own pools


@every_memory
def test_generation_with_a_cache_equals_generation_without(memory):
    model = tiny_model(memory)
    prompt = random_batch(1, lengths=(6, 6)).tokens[:, :5]
    cached, plain = (
        model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=12,
            min_new_tokens=12,
            do_sample=False,
            use_cache=use_cache,
        )
        for use_cache in (True, False)
    )
    assert cached.shape == (2, 17)
    assert torch.equal(cached, plain)


def test_the_dense_twin_has_no_memory_and_the_same_shape():
    model, twin = tiny_model(), tiny_model(dense=True)
    assert not twin.memory_layers and not len(twin.model.value_pools)
    assert len(twin.model.layers) == len(model.model.layers)
    assert twin.model.layers[1].mlp.gate_proj.weight.shape == model.model.layers[0].mlp.gate_proj.weight.shape
    assert logits_of(twin).shape == logits_of(model).shape


def test_parameters_are_counted_by_kind():
    model = tiny_model(TWO_SHARED)
    counted = count_parameters(model)
    assert counted.pool == 81 * 10
    assert counted.base + counted.pool == sum(parameter.numel() for parameter in model.parameters())
    assert counted.active == counted.base + 2 * (2 * 3 * 10)  # layers * (heads * top_k * value_dim)
    dense = count_parameters(tiny_model(dense=True))
    assert (dense.pool, dense.active) == (0, dense.base)


def on_meta_device(recipe, *, dense=False, vocab_size=32_000):
    with torch.device("meta"):
        return build_model(model_config(RECIPES[recipe]().model, dense=dense, vocab_size=vocab_size), seed=0)


def test_paper_1b_is_the_papers_model():
    model = on_meta_device("paper_1b")
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert [number for number, layer in enumerate(model.model.layers) if isinstance(layer.mlp, MemoryLayer)] == [12]
    assert (len(model.model.layers), model.config.hidden_size) == (22, 2048)
    assert model.model.value_pools[0].weight.shape == (1_048_576, 1024)
    assert (model.memory_layers[0].top_k, model.memory_layers[0].num_heads) == (32, 4)
    counted = count_parameters(model)
    assert counted.pool == 1_073_741_824
    assert counted.active - counted.base == 4 * 32 * 1024
    assert 1.0e9 < counted.base < 1.5e9


def test_laptop_fits_a_laptop():
    model, twin = on_meta_device("laptop", vocab_size=1024), on_meta_device("laptop", dense=True, vocab_size=1024)
    layer = model.memory_layers[0]
    assert layer.pool.weight.shape[0] >= 16_384
    assert layer.num_heads * layer.top_k >= 32
    for name in ("num_hidden_layers", "hidden_size", "intermediate_size"):
        assert getattr(model.config, name) == getattr(twin.config, name)
    assert count_parameters(model).base < 2e6


def test_vocabulary_size_and_special_tokens_reach_the_config():
    config = tiny_model().config
    assert (config.vocab_size, config.eos_token_id, config.pad_token_id, config.bos_token_id) == (
        VOCAB_SIZE,
        48,
        49,
        None,
    )


@every_memory
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_model_of_16_bits_computes_trains_and_generates(memory, dtype, tmp_path):
    model = tiny_model(memory)
    batch = random_batch(0)
    expected = logits_of(model)
    model.to(dtype).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    found = logits_of(model)
    # Where scores are close, another slot may be found; most are the same.
    assert (found.float() - expected).abs().median() < 40 * torch.finfo(dtype).eps
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(4):
        loss = model(input_ids=batch.tokens, labels=batch.tokens, use_cache=False).loss
        loss.backward()
        assert all(pool.weight.grad.dtype == dtype and pool.weight.grad.any() for pool in model.model.value_pools)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    assert model.generate(input_ids=batch.tokens[:1, :4], max_new_tokens=5, min_new_tokens=5).shape == (1, 9)


@pytest.mark.parametrize(
    "file, content",
    [
        ("config.json", b"{"),
        ("config.json", b'{"model_type": "memory_llama", "hidden_act": 3.5}'),
        ("config.json", b'{"model_type": "memory_llama", "memory_layers": 7}'),
        ("model.safetensors", b"\xff" * 64),
        ("model.safetensors", b""),
        ("model.safetensors", None),
    ],
)
def test_a_folder_without_a_complete_model_is_refused_in_one_line(tmp_path, file, content):
    tiny_model().save_pretrained(tmp_path)
    (tmp_path / file).unlink() if content is None else (tmp_path / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"checkpoint {tmp_path}: cannot be loaded") as refused:
        load_checkpoint(tmp_path, torch.device("cpu"))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("dense", [False, True])
def test_a_hub_kernel_named_by_a_configuration_is_not_downloaded(tmp_path, dense):
    """transformers would download and run it."""
    tiny_model(dense=dense).save_pretrained(tmp_path)
    place = tmp_path / "config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"_attn_implementation": "somebody/kernel"}))
    assert load_checkpoint(tmp_path, torch.device("cpu")).config._attn_implementation == "eager"
    config = load_model_config(tmp_path)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", trust_remote_code=False)
    assert model.config._attn_implementation == "sdpa"


def test_a_folder_with_its_own_code_is_refused_because_none_is_run(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    asked = {"model_type": "theirs", "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}}
    (tmp_path / "config.json").write_text(json.dumps(asked))
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(CheckpointError, match="it needs to run its own code, which memlm never does") as refused:
        load_checkpoint(tmp_path, torch.device("cpu"))
    assert "trust_remote_code" not in str(refused.value) and not (tmp_path / "ran").exists()
