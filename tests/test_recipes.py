import pytest
import torch

from memlm.config import Config
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
def test_a_recipe_is_named_as_it_is_called_and_fits_together(name):
    config = RECIPES[name]()
    assert config.recipe == name
    assert config.corpus.block_size <= config.model.max_positions
    assert config.stream.max_length + config.evaluation.max_new_tokens <= config.model.max_positions
    assert config.pretraining.warmup_steps < config.pretraining.num_steps
    if config.world is not None:
        assert config.stream.num_facts <= config.world.num_new * 5


def test_laptop_is_as_large_as_promised_and_no_larger():
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


def test_smoke_asks_for_little():
    config = RECIPES["smoke"]()
    assert config.pretraining.num_steps <= 100 and config.model.memory.num_slots <= 4096
    assert config.sweep.scale == "smoke" and len(config.sweep.seeds) >= 2
