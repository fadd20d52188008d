import pytest

from memlm.model.config import MemoryConfig, ModelConfig


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_heads": 0}, "model.memory.num_heads is 0"),
        ({"key_dim": 7}, "model.memory.key_dim is 7"),
        ({"top_k": 9, "num_half_keys": 8}, "model.memory.top_k is 9"),
        ({"layers": (2, 1)}, "ascending"),
        ({"layers": (1, 1)}, "once"),
    ],
)
def test_a_memory_that_cannot_be_built_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        MemoryConfig(**fields)


@pytest.mark.parametrize("base", ["{runs}/laptop", "{runs}/laptop/checkpoint-memory", "{runs}/a/b/checkpoint-dense"])
def test_a_base_that_another_run_made_is_its_dense_twin(base):
    with pytest.raises(ValueError, match="the base that another run made is its dense twin, so write it as"):
        ModelConfig(base=base)
    assert ModelConfig(base="{runs}/laptop-{seed}/checkpoint-dense").base.startswith("{runs}")


def test_a_memory_layer_beyond_the_last_layer_is_refused():
    with pytest.raises(ValueError, match=r"names \[22\], but the model has layers 0 to 21"):
        ModelConfig(memory=MemoryConfig(layers=(12, 22)))


@pytest.mark.parametrize(
    ("layers", "share_values", "num_pools"),
    [((), True, 0), ((), False, 0), ((3,), True, 1), ((3, 5), True, 1), ((3, 5), False, 2)],
)
def test_number_of_pools(layers, share_values, num_pools):
    assert MemoryConfig(layers=layers, share_values=share_values).num_pools == num_pools
