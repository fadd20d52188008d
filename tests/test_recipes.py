from dataclasses import replace

import pytest
import torch

from memlm.config import Config
from memlm.model.capacity import pool_bytes
from memlm.model.column_split import ColumnSplit
from memlm.model.language_model import build_model, count_parameters, model_config
from memlm.model.memory import MemoryLayer
from memlm.recipes import RECIPES

every_recipe = pytest.mark.parametrize("name", RECIPES)


def on_meta_device(config: Config, *, dense: bool):
    with torch.device("meta"):
        return build_model(model_config(config.model, dense=dense, vocab_size=config.corpus.vocab_size), seed=0)


@every_recipe
def test_a_recipe_builds_without_memory_and_has_a_dense_twin_of_the_same_shape(name):
    config = RECIPES[name]()
    model, twin = (on_meta_device(config, dense=dense) for dense in (False, True))
    assert {parameter.device.type for parameter in [*model.parameters(), *twin.parameters()]} == {"meta"}
    for shape in ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size"):
        assert getattr(model.config, shape) == getattr(twin.config, shape)
    ffn = {tuple(layer.mlp.gate_proj.weight.shape) for layer in twin.model.layers}
    assert ffn == {(config.model.intermediate_size, config.model.hidden_size)}
    kept = [layer.mlp for layer in model.model.layers if not isinstance(layer.mlp, MemoryLayer)]
    assert {tuple(mlp.gate_proj.weight.shape) for mlp in kept} <= ffn
    assert len(model.memory_layers) == len(model.model.layers) - len(kept) == len(config.model.memory.layers) > 0
    assert twin.memory_layers == [] and count_parameters(twin).pool == 0


@every_recipe
def test_a_recipe_has_its_functions_name_and_is_consistent(name):
    config = RECIPES[name]()
    assert config.recipe == name
    assert config.corpus.block_size <= config.model.max_positions
    assert config.stream.max_length + config.evaluation.max_new_tokens <= config.model.max_positions
    assert config.pretraining.warmup_steps < config.pretraining.num_steps
    if config.world is not None:
        assert config.stream.num_facts <= config.world.num_new * 5


def test_laptop_has_the_documented_size():
    memory = RECIPES["laptop"]().model.memory
    assert memory.num_slots >= 16_384
    assert memory.num_heads * memory.top_k >= 32
    assert count_parameters(on_meta_device(RECIPES["laptop"](), dense=False)).base < 2e6
    assert len(RECIPES["laptop"]().sweep.seeds) == 3


def test_paper_1b_has_the_papers_numbers():
    """Lin et al. 2025, sections 3 to 5.1."""
    config = RECIPES["paper_1b"]()
    model, memory = config.model, config.model.memory
    assert (model.num_layers, model.hidden_size, memory.layers) == (22, 2048, (12,))
    assert (memory.num_slots, memory.num_half_keys) == (1_048_576, 1024)
    assert (memory.top_k, memory.num_heads, memory.value_dim, memory.key_dim) == (32, 4, 1024, 512)
    assert (config.stream.num_facts, config.stream.num_wordings, config.counting.num_batches) == (1000, 64, 1000)
    assert (config.method.name, config.method.num_trainable_slots, config.method.optimizer.kind) == (
        "sparse_memory",
        500,
        "sgd",
    )
    counted = count_parameters(on_meta_device(config, dense=False))
    assert counted.pool == 1_048_576 * 1024
    assert counted.active - counted.base == 32 * 4 * 1024


def test_paper_64m_is_the_papers_model_with_64_times_the_slots():
    paper, large = RECIPES["paper_1b"](), RECIPES["paper_64m"]()
    assert large.model.memory.num_slots == 64 * paper.model.memory.num_slots == 67_108_864
    assert replace(large.model, memory=replace(large.model.memory, num_half_keys=1024)) == paper.model
    assert (large.corpus, large.questions, large.stream, large.method) == (
        paper.corpus,
        paper.questions,
        paper.stream,
        paper.method,
    )
    counted, of_paper = (count_parameters(on_meta_device(config, dense=False)) for config in (large, paper))
    assert counted.pool == 67_108_864 * 1024
    # 7,168 more half-keys of 256 in each half and head; a token reads no more rows.
    assert counted.base - of_paper.base == 2 * 4 * 7168 * 256
    assert counted.active - counted.base == of_paper.active - of_paper.base


def test_memory_of_a_rank_of_paper_64m():
    """32 columns of 64 M rows, with first and second moments: 8 GiB each."""
    config = RECIPES["paper_64m"]()
    split = ColumnSplit(num_parts=config.pretraining.pool_split, part=31)
    with torch.device("meta"):
        model = build_model(model_config(config.model, dense=False, vocab_size=32_000), seed=0, split=split)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    (pool,) = model.model.value_pools
    assert (tuple(pool.weight.shape), pool.value_dim, pool.columns) == ((67_108_864, 32), 1024, slice(992, 1024))
    assert model.memory_layers[0].gate.out_features == 1024  # what is read is a whole row
    held = pool_bytes(
        config.model.memory,
        pool_split=config.pretraining.pool_split,
        batch_tokens=256 * 2048,
        micro_batch_tokens=8 * 2048,
    )
    assert held.values == pool.weight.numel() * pool.weight.element_size() == 8 * 2**30
    assert held.moments == 16 * 2**30
    # 256 blocks of 2,048 tokens read 4 * 32 slots each: 2^26 at most, which is all; 32 numbers
    # of 4 bytes and a slot of 8.
    assert held.gradient == 2**26 * (32 * 4 + 8)
    assert held.accesses == 8 * 2048 * 32 * 128 * 12
    assert (
        held.values + held.moments + 3 * held.gradient + held.accesses < 60 * 2**30
    )  # an 80 GB GPU has room for the rest
    assert "8.59 GB of values, 17.2 GB of moments" in str(held)
    assert count_parameters(model).pool == 67_108_864 * 1024


def test_smoke_is_small():
    config = RECIPES["smoke"]()
    assert config.pretraining.num_steps <= 100 and config.model.memory.num_slots <= 4096
    assert config.sweep.scale == "smoke" and len(config.sweep.seeds) >= 2
