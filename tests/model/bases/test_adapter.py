"""The memory alone on disk, and the base that it belongs to."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from memlm.model.bases.adapter import ADAPTER_FILE, WEIGHTS_FILE, AdapterError, save_adapter
from memlm.model.bases.attaching import memory_names, with_memory
from memlm.model.bases.base import BaseError, load_base, open_base
from memlm.model.decoders.configuration import memory_fields
from memlm.model.decoders.families import FAMILIES
from memlm.model.language_model import load_checkpoint, load_model_config
from tests.support.families import MEMORY, tiny_base
from tests.support.tiny import random_batch

TOKENS = random_batch(0).tokens
CPU = torch.device("cpu")


@pytest.fixture
def made(tmp_path):
    """A function that makes a base and an adapter of it, whose values are not zero."""

    def make(family="llama", dtype=None):
        tiny_base(family).save_pretrained(tmp_path / "base")
        base = open_base(str(tmp_path / "base"))
        model = with_memory(load_base(base, dtype=dtype), MEMORY, seed=3)
        with torch.no_grad():
            model.base_model.value_pools[0].weight.normal_()
        (tmp_path / "adapter").mkdir()
        save_adapter(model, base, MEMORY, tmp_path / "adapter")
        return model, tmp_path / "adapter"

    return make


def memory_of(config):
    return {name: getattr(config, name) for name in memory_fields(MEMORY)}


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_and_its_base_are_the_whole_model_to_the_bit(made, family):
    model, adapter = made(family)
    with safe_open(adapter / WEIGHTS_FILE, framework="pt") as file:
        assert set(file.keys()) == set(memory_names(model))
    loaded = load_checkpoint(adapter, CPU)
    assert torch.equal(loaded(input_ids=TOKENS).logits, model(input_ids=TOKENS).logits)
    config = load_model_config(adapter)
    assert type(config) is type(loaded.config) and config.dtype == loaded.dtype
    assert memory_of(config) == memory_of(loaded.config) == memory_fields(MEMORY)


def test_the_type_is_kept(made):
    model, adapter = made(dtype=torch.bfloat16)
    loaded = load_checkpoint(adapter, CPU)
    assert loaded.dtype == torch.bfloat16
    assert torch.equal(loaded(input_ids=TOKENS).logits, model(input_ids=TOKENS).logits)


def test_another_base_is_refused(made, tmp_path):
    _, adapter = made()
    tiny_base("llama", seed=1).save_pretrained(tmp_path / "base")
    with pytest.raises(AdapterError, match="it was made for .*/base with digest .*name the base that it was made for"):
        load_checkpoint(adapter, CPU)
    with pytest.raises(AdapterError, match="it was made for"):
        load_model_config(adapter)


def test_a_base_that_has_moved_is_named(made, tmp_path):
    _, adapter = made()
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(BaseError, match=r"adapter .*no such folder.*if its base is elsewhere now"):
        load_checkpoint(adapter, CPU)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(format=99),
        lambda content: content.pop("base"),
        lambda content: content.update(dtype="nn"),
        lambda content: content["memory"].update(top_k=0),
        lambda content: content["memory"].update(num_heads=3),
    ],
)
def test_a_description_that_was_changed_is_refused_on_one_line(made, change):
    _, adapter = made()
    content = json.loads((adapter / ADAPTER_FILE).read_text())
    change(content)
    (adapter / ADAPTER_FILE).write_text(json.dumps(content))
    with pytest.raises(ValueError) as refused:
        load_checkpoint(adapter, CPU)
    assert "\n" not in str(refused.value)


def test_an_adapter_without_some_of_its_tensors_is_refused(made):
    _, adapter = made()
    tensors = load_file(adapter / WEIGHTS_FILE)
    del tensors["model.value_pools.0.weight"]
    save_file(tensors, adapter / WEIGHTS_FILE)
    with pytest.raises(AdapterError, match=r"model\.value_pools\.0\.weight is missing"):
        load_checkpoint(adapter, CPU)
