"""Every family of the table: what a memory in it must not change, and what must work."""

import os
import pickle
import subprocess
import sys
from dataclasses import replace

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, DynamicCache, StaticCache

from memlm.model.bases.attaching import memory_names, with_memory
from memlm.model.bases.base import load_base, open_base
from memlm.model.decoders.classes import memory_classes
from memlm.model.decoders.families import FAMILIES, UnknownFamily, family_of
from memlm.model.language_model import compute_buffers, load_checkpoint
from memlm.model.reader.decoding import continue_greedily
from memlm.model.reader.trunk import continue_from, run_trunk
from memlm.slots.accesses import accesses_of, memory_layers
from tests.support.families import MEMORY
from tests.support.tiny import PAD, random_batch

every_family = pytest.mark.parametrize("family", FAMILIES)
TOKENS = random_batch(0, lengths=(9, 9, 9)).tokens  # longer than the windows of those that have one
CPU = torch.device("cpu")
WITHOUT_MEMLM = """
import sys
sys.modules["memlm"] = sys.modules["jaxtyping"] = None  # neither can be imported
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

tokens = torch.tensor(TOKENS)
for folder in sys.argv[1:]:
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, attn_implementation="eager").eval()
    with torch.no_grad():
        results = {"logits": model(input_ids=tokens, use_cache=False).logits}
    mask = torch.ones_like(tokens)
    results["text"] = model.generate(input_ids=tokens, attention_mask=mask, max_new_tokens=6, do_sample=False)
    model.save_pretrained(folder + "/again")
    save_file(results, folder + "/results")
"""


def learned(folder, *, dtype=None, attention="eager", memory=MEMORY):
    """The base with a memory whose values are no longer zero."""
    model = with_memory(load_base(open_base(str(folder)), dtype=dtype, attention=attention), memory)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for pool in model.base_model.value_pools:
            pool.weight.copy_(3 * torch.randn(pool.weight.shape, generator=generator))
    return model


def logits_of(model, **inputs):
    with torch.no_grad():
        return model(input_ids=TOKENS, **{"use_cache": False, **inputs}).logits


def generated(model, **settings):
    """Six tokens, whether or not one of them ends the text."""
    model.generation_config.eos_token_id = None
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": PAD, **settings}
    return model.generate(input_ids=TOKENS, attention_mask=torch.ones_like(TOKENS), **settings)[:, TOKENS.shape[1] :]


@every_family
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_fresh_memory_changes_no_bit_and_a_learned_one_does(bases, family, dtype, attention):
    if attention == "sdpa" and family == "gemma2":
        pytest.skip("transformers has no sdpa for it")
    base = load_base(open_base(str(bases[family])), dtype=dtype, attention=attention)
    expected = logits_of(base)
    joined = with_memory(base, MEMORY)
    assert joined.dtype == dtype and torch.equal(logits_of(joined), expected)
    changed = logits_of(learned(bases[family], dtype=dtype, attention=attention))
    assert changed.isfinite().all() and not torch.equal(changed, expected)


@every_family
def test_the_bases_tensors_keep_their_names_and_are_not_copied(bases, family):
    base = load_base(open_base(str(bases[family])))
    joined = with_memory(base, MEMORY)
    state, new = joined.state_dict(), set(memory_names(joined))
    assert state.keys() - new == base.state_dict().keys() and len(new) == 9
    assert all(state[name].data_ptr() == tensor.data_ptr() for name, tensor in base.state_dict().items())
    assert joined.generation_config == base.generation_config


@every_family
def test_every_slot_can_be_read_by_the_fresh_keys(bases, family):
    """Some families set the weight of every norm to zero, which would make all queries equal."""
    slots = accesses_of(learned(bases[family]), input_ids=TOKENS)
    assert len(slots.unique()) > 20


@every_family
def test_a_memory_in_place_of_the_network_replaces_its_tensors(bases, family):
    base = load_base(open_base(str(bases[family])))
    joined = with_memory(base, replace(MEMORY, placement="replace"))
    gone = base.state_dict().keys() - joined.state_dict().keys()
    assert gone and all(".1.mlp." in name for name in gone)
    assert float(joined.base_model.value_pools[0].weight.detach().std()) > 0.1
    assert not torch.equal(logits_of(joined), logits_of(base))


@every_family
def test_saving_and_loading_is_exact_to_the_bit(bases, family, tmp_path):
    model = learned(bases[family])
    model.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).model_type == f"memory_{family}"
    by_name = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    for loaded in (by_name, load_checkpoint(tmp_path, CPU)):
        assert type(loaded) is memory_classes(family).language_model
        assert torch.equal(logits_of(loaded), logits_of(model))
        assert loaded.state_dict().keys() == model.state_dict().keys()
    decoder = AutoModel.from_pretrained(tmp_path, attn_implementation="eager").eval()
    hidden = decoder(input_ids=TOKENS, use_cache=False).last_hidden_state
    assert torch.equal(hidden, model.base_model(input_ids=TOKENS, use_cache=False).last_hidden_state)


def test_transformers_alone_computes_and_saves_the_same(bases, tmp_path):
    models = {family: learned(bases[family]) for family in FAMILIES}
    for family, model in models.items():
        model.save_pretrained(tmp_path / family)
    folders = [str(tmp_path / family) for family in FAMILIES]
    code = WITHOUT_MEMLM.replace("TOKENS", repr(TOKENS.tolist()))
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code, *folders], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    for family, model in models.items():
        theirs = load_file(tmp_path / family / "results")
        torch.testing.assert_close(theirs["logits"], logits_of(model), rtol=0, atol=1e-4, msg=family)
        text = model.generate(
            input_ids=TOKENS, attention_mask=torch.ones_like(TOKENS), max_new_tokens=6, do_sample=False
        )
        assert torch.equal(theirs["text"], text), family
        again = load_checkpoint(tmp_path / family / "again", CPU)
        assert torch.equal(logits_of(again), logits_of(model)), family


@every_family
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_two_halves_of_a_pass_give_its_bits(bases, family, dtype):
    model = learned(bases[family], dtype=dtype)
    trunk = run_trunk(model, TOKENS)
    assert trunk.residual.any() and torch.equal(continue_from(model, trunk), logits_of(model))
    positions = torch.arange(TOKENS.shape[1]).flip(0)[None].clamp(max=5).flip(1)
    expected = logits_of(model, position_ids=positions)
    assert torch.equal(continue_from(model, run_trunk(model, TOKENS, positions)), expected)
    whole, halves = DynamicCache(config=model.config), DynamicCache(config=model.config)
    last = logits_of(model, past_key_values=whole, use_cache=True, logits_to_keep=1)
    trunk = run_trunk(model, TOKENS, keep_keys_values=True)
    assert torch.equal(continue_from(model, trunk, cache=halves, last_only=True), last)
    for one, other in zip(whole.layers, halves.layers, strict=True):
        assert torch.equal(one.keys, other.keys) and torch.equal(one.values, other.values)
        assert one.get_mask_sizes(1) == other.get_mask_sizes(1)


@every_family
def test_no_cache_changes_the_text(bases, family):
    model = learned(bases[family])
    plain = generated(model, use_cache=False)
    assert torch.equal(generated(model), plain)
    static = StaticCache(config=model.config, max_cache_len=16)
    assert torch.equal(generated(model, past_key_values=static, disable_compile=True), plain)
    trunk = run_trunk(model, TOKENS, keep_keys_values=True)
    for recorded in (None, trunk):
        assert torch.equal(continue_greedily(model, TOKENS, recorded, max_new_tokens=6, end_ids=[], pad_id=PAD), plain)


@every_family
def test_weights_used_in_place_need_no_more_than_the_configuration(bases, family, tmp_path):
    model = learned(bases[family])
    weights = dict(model.state_dict())
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(model.config, attn_implementation="eager")
    empty.load_state_dict(weights, assign=True)
    empty.tie_weights()
    compute_buffers(empty, CPU)
    assert torch.equal(logits_of(empty.eval()), logits_of(model))
    assert empty.base_model.value_pools[0].weight.data_ptr() == model.base_model.value_pools[0].weight.data_ptr()


@every_family
def test_peft_adapts_what_it_adapts_in_the_family(bases, family):
    named = {
        "olmo2": ["q_proj", "v_proj"],
        "smollm3": ["q_proj", "v_proj"],
        "phi3": ["qkv_proj"],
    }  # PEFT knows the others'
    config = peft.LoraConfig(r=2, target_modules=named.get(family), task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(learned(bases[family]), config)
    trainable = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert trainable and not any("memory" in name for name in trainable)
    adapted(input_ids=TOKENS, labels=TOKENS).loss.backward()
    assert len(memory_layers(adapted)) == 1


@every_family
def test_every_weight_has_a_gradient_and_checkpointing_changes_none(bases, family):
    model = learned(bases[family]).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    grads = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        model(input_ids=TOKENS, labels=TOKENS, use_cache=False).loss.backward()
        grads.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert all(gradient is not None for gradient in grads[0].values())
    for name, gradient in grads[0].items():
        torch.testing.assert_close(gradient, grads[1][name], msg=name)


def test_classes_are_found_by_name_in_pickles():
    model_class = memory_classes("qwen3").language_model
    assert pickle.loads(pickle.dumps(model_class)) is model_class


def test_a_family_outside_the_table_is_named_with_what_the_table_needs():
    with pytest.raises(UnknownFamily, match="model_type is 'bloom'; .* gemma2, .*, smollm3.* where its layers are"):
        family_of("bloom")


def test_a_placement_that_does_not_exist_is_refused(bases):
    model = learned(bases["llama"])
    config = model.config
    config.memory_placement = "beside"
    with pytest.raises(ValueError, match="memory_placement is 'beside'"):
        type(model)._from_config(config)
