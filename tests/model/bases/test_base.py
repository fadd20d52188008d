"""Bases that are refused, before any weight is read, and what a base in GGUF becomes."""

import json
import re

import huggingface_hub
import numpy as np
import pytest
import torch

from memlm.model.bases import base as module
from memlm.model.bases.base import BaseError, load_base, open_base, require_room
from memlm.model.decoders.families import UnknownFamily
from tests.support.families import MEMORY, SHAPE, tiny_base
from tests.support.tiny import random_batch, tiny_model

TOKENS = random_batch(0).tokens


@pytest.fixture
def folder(tmp_path):
    tiny_base("llama").save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def change_config(folder, **changes):
    place = folder / "config.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bloom"}, "model_type is 'bloom'; memlm puts a memory into .*llama.*where its layers are"),
        ({"model_type": "mixtral", "num_local_experts": 8}, r"num_local_experts is 8 \(mixtral\).*mixtures of experts"),
        ({"num_experts": 4}, r"num_experts is 4 \(llama\)"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, r"quantised \(bitsandbytes\), .*dequantize\(\)"),
        ({"model_type": 3}, "model_type is 3; it must be a name"),
        ({"hidden_size": "wide"}, "cannot be read"),
    ],
)  # fmt: skip
def test_a_configuration_that_memlm_cannot_use_is_refused_on_one_line(folder, changes, message):
    change_config(folder, **changes)
    with pytest.raises((BaseError, UnknownFamily), match=message) as refused:
        open_base(str(folder))
    assert str(folder) in str(refused.value) and "\n" not in str(refused.value)


def test_a_model_that_has_a_memory_is_refused(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(BaseError, match="model_type is memory_llama, so it has a memory already"):
        open_base(str(tmp_path))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("/nowhere/at/all", "no such folder or file; .*owner/name@commit"),
        ("./nowhere.gguf", "no such file"),
        ("what is this", "no such folder or file"),
    ],
)
def test_a_place_that_does_not_exist_is_refused(address, message):
    with pytest.raises(BaseError, match=message):
        open_base(address)


def test_a_folder_without_weights_or_configuration_is_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BaseError, match="no weights as safetensors, the only format that memlm reads besides GGUF"):
        open_base(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(BaseError, match=re.escape("it has no config.json")):
        open_base(str(folder))


def test_a_damaged_file_of_weights_is_refused_on_one_line(folder):
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(BaseError, match="cannot be read") as refused:
        load_base(open_base(str(folder)))
    assert "\n" not in str(refused.value)


def test_code_in_the_folder_is_never_run(folder, tmp_path):
    change_config(folder, auto_map={"AutoModelForCausalLM": "code.M", "AutoConfig": "code.C"})
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    load_base(open_base(str(folder)))
    assert not (tmp_path / "ran").exists()


def test_a_hub_kernel_named_by_a_configuration_is_not_fetched(folder):
    change_config(folder, _attn_implementation="somebody/kernel")
    base = open_base(str(folder))
    assert base.num_parameters and load_base(base).config._attn_implementation == "eager"


def test_a_hub_that_cannot_be_reached_is_an_error_that_names_a_local_copy(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"could not be listed on the hub: .*the path of a local copy instead"):
        open_base("somebody/model@" + 40 * "a")


def test_a_model_on_the_hub_needs_a_commit():
    with pytest.raises(ValueError, match="the revision is missing, .*owner/name@commit"):
        open_base("somebody/model")


def test_a_base_larger_than_memory_is_refused_by_arithmetic(folder, monkeypatch):
    monkeypatch.setattr(module, "available_memory", lambda: 32_000)
    base = open_base(str(folder))
    require_room(base, num_values=10)
    number = sum(parameter.numel() for parameter in tiny_base("llama").parameters())
    assert base.num_parameters == number
    with pytest.raises(BaseError, match=rf"\({number:,} weights \+ 5,000 values\) x 4 bytes = .*fewer slots"):
        require_room(base, num_values=5_000)
    require_room(base, num_values=5_000, dtype=torch.bfloat16)


def test_the_digest_is_that_of_the_weights(folder, tmp_path):
    first = open_base(str(folder)).digest
    (folder / "README.md").write_text("a card")
    assert open_base(str(folder)).digest == first
    tiny_base("llama", seed=1).save_pretrained(tmp_path / "other")
    assert open_base(str(tmp_path / "other")).digest != first
    tiny_base("llama").save_pretrained(tmp_path / "sharded", max_shard_size="2KB")
    sharded = open_base(str(tmp_path / "sharded"))
    assert len(sharded.files) > 1 and len(sharded.digest) == 64


def write_gguf(path, model):
    """A llama in GGUF, in fp16, without a tokenizer."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(SHAPE["max_position_embeddings"])
    writer.add_embedding_length(SHAPE["hidden_size"])
    writer.add_block_count(SHAPE["num_hidden_layers"])
    writer.add_feed_forward_length(SHAPE["intermediate_size"])
    writer.add_head_count(SHAPE["num_attention_heads"])
    writer.add_head_count_kv(SHAPE["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(SHAPE["vocab_size"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, SHAPE["num_hidden_layers"])
    for name, tensor in model.state_dict().items():
        stem, _, kind = name.rpartition(".")
        writer.add_tensor(f"{names.get_name(stem)}.{kind}", tensor.numpy().astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_base_in_gguf_is_dequantised_and_can_be_saved(tmp_path):
    write_gguf(tmp_path / "tiny.gguf", tiny_base("llama"))
    base = open_base(str(tmp_path / "tiny.gguf"))
    assert base.family == "llama" and base.files == ["tiny.gguf"] and base.stored_type == torch.float32
    model = load_base(base)
    assert model.dtype == torch.float32
    model.save_pretrained(tmp_path / "saved")
    again = load_base(open_base(str(tmp_path / "saved")))
    assert torch.equal(again(input_ids=TOKENS).logits, model(input_ids=TOKENS).logits)
    assert MEMORY.value_dim == model.config.hidden_size
