"""A base whose memory alone is pretrained: what moves, what is stored, and what comes out."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from memlm.model.bases.attaching import memory_names, with_memory
from memlm.model.bases.dense_addition import DenseAddition, macs_of_memory
from memlm.training.checkpoints.of_base import (
    control_to_train,
    control_with_trained,
    memory_to_train,
    teacher_of,
    with_trained,
)
from memlm.training.pretrain import pretrain
from tests.support.families import MEMORY, tiny_base
from tests.support.tiny import EOS, PAD, random_batch, state
from tests.training.pretraining.runs import CONFIG, CUT, blocks_in, make_blocks, run_steps, save_now, states_of

CPU = torch.device("cpu")
TOKENS = random_batch(0).tokens
SETTINGS = replace(CONFIG, micro_batch_blocks=4)
REPLACING = replace(MEMORY, placement="replace")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base, the same with a memory in either place, and blocks of tokens."""
    folder = tmp_path_factory.mktemp("memory_of_base")
    tiny_base("llama").save_pretrained(folder / "base")
    for memory in (MEMORY, REPLACING):
        with_memory(tiny_base("llama"), memory).save_pretrained(folder / memory.placement)
    make_blocks(str(folder))
    return folder


def engine_for(model, config=SETTINGS):
    from memlm.training.engine import Engine

    return Engine(model, config)


def memory_of(folder, config=SETTINGS, placement="parallel"):
    return memory_to_train(Path(folder, placement), config, CPU)


def trained(folder, config=SETTINGS, placement="parallel"):
    engine = engine_for(memory_of(folder, config, placement), config)
    return engine, run_steps(str(folder), engine, config)


def logits(model, tokens=TOKENS):
    with torch.no_grad():
        return model(input_ids=tokens, use_cache=False).logits


@pytest.mark.parametrize("optimizer", ["lazy_adam", "adamw"])
def test_the_memory_alone_moves_and_the_checkpoint_has_the_bases_own_bits(one_rank, folder, tmp_path, optimizer):
    engine, steps = trained(folder, replace(SETTINGS, pool_optimizer=optimizer))
    assert steps[-1].loss < steps[0].loss and steps[-1].usage
    weights = engine.trained_weights()
    before = state(memory_of(folder))
    assert weights.keys() == set(memory_names(memory_of(folder)))
    assert all(not torch.equal(weights[name], before[name]) for name in weights)
    with_trained(folder / "parallel", weights).save_pretrained(tmp_path)
    written = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert torch.equal(logits(written), logits(engine.model))
    base = state(tiny_base("llama"))
    assert all(torch.equal(state(written)[name], tensor) for name, tensor in base.items())


def test_neither_state_nor_optimizer_holds_the_base(one_rank, folder, tmp_path):
    engine, _ = trained(folder)
    engine.save(tmp_path)
    with safe_open(tmp_path / "fragments_0.safetensors", "pt") as file:
        stored = {name.partition("/")[2] for name in file.keys()}
    assert stored == {name for name in memory_names(memory_of(folder)) if "value_pools" not in name}
    groups = engine._optimizer.param_groups
    assert sum(len(group["params"]) for group in groups) == len(stored)
    assert all(parameter.grad is None for parameter in engine.model.parameters() if not parameter.requires_grad)


@pytest.mark.parametrize("changes", [{}, {"precision": "bf16", "distillation_weight": 0.5}], ids=["plain", "distilled"])
def test_a_killed_run_continues_bit_for_bit(one_rank, folder, tmp_path, changes):
    config = replace(SETTINGS, **changes)

    def steps_of(engine, **part):
        teacher = teacher_of(engine.model, folder / "base", "parallel", config)
        blocks = blocks_in(str(folder))
        return pretrain(engine, blocks, config, eos_id=EOS, pad_id=PAD, teacher=teacher, **part)

    undisturbed = engine_for(memory_of(folder, config), config)
    losses = [done.loss for done in steps_of(undisturbed, first_step=0)]
    killed = engine_for(memory_of(folder, config), config)
    before = [done.loss for done in islice(steps_of(killed, first_step=0), CUT)]
    save_now(states_of(killed, str(tmp_path)), CUT)
    again = engine_for(memory_of(folder, config), config)
    assert states_of(again, str(tmp_path), start=2).load_newest() == CUT
    after = [done.loss for done in steps_of(again, first_step=CUT)]
    assert before + after == losses
    weights = undisturbed.trained_weights()
    assert all(torch.equal(weights[name], found) for name, found in again.trained_weights().items())


@pytest.mark.parametrize("stage", [1, 3])
@pytest.mark.slow
def test_zero_trains_and_stores_the_same(one_rank, folder, tmp_path, stage):
    plain, _ = trained(folder)
    config = replace(SETTINGS, zero_stage=stage)
    engine, steps = trained(folder, config)
    save_now(states_of(engine, str(tmp_path)), len(steps))
    again = engine_for(memory_of(folder, config), config)
    assert states_of(again, str(tmp_path), start=2).load_newest() == len(steps)
    found, loaded = engine.trained_weights(), again.trained_weights()
    for name, wanted in plain.trained_weights().items():
        torch.testing.assert_close(found[name], wanted, rtol=1e-2, atol=2e-3)
        assert torch.equal(loaded[name], found[name])


def test_keys_may_stay_as_they_were_fitted(one_rank, folder):
    engine, _ = trained(folder, replace(SETTINGS, keys="fixed"))
    weights, before = engine.trained_weights(), state(memory_of(folder))
    moved = {name.rpartition("memory.")[2] for name in weights}
    assert moved == {"gate.weight", "gate.bias", "output.weight", "output.bias", "model.value_pools.0.weight"}
    assert all(not torch.equal(weights[name], before[name]) for name in weights)


def test_in_bf16_the_base_is_held_in_it_and_the_memory_in_fp32(one_rank, folder):
    config = replace(SETTINGS, precision="bf16")
    model = memory_of(folder, config)
    memory = set(memory_names(model))
    types = {name in memory: parameter.dtype for name, parameter in model.named_parameters()}
    assert types == {True: torch.float32, False: torch.bfloat16}
    engine, steps = trained(folder, config)
    assert steps[-1].loss < steps[0].loss
    assert all(weight.dtype == torch.float32 for weight in engine.trained_weights().values())


@pytest.mark.parametrize("placement", ["parallel", "replace"])
def test_the_teacher_is_the_base(one_rank, folder, placement):
    config = replace(SETTINGS, distillation_weight=1.0)
    engine, _ = trained(folder, config, placement)
    teacher = teacher_of(engine.model, folder / "base", placement, config)
    positions = torch.arange(TOKENS.shape[1]).expand_as(TOKENS)
    with torch.no_grad():
        wanted = tiny_base("llama")(input_ids=TOKENS, position_ids=positions).logits
        assert torch.equal(teacher(TOKENS, positions), wanted)
        assert not torch.equal(logits(engine.model), wanted)
    assert teacher_of(engine.model, folder / "base", placement, SETTINGS) is None


def test_distillation_keeps_the_predictions_near_the_bases(one_rank, folder):
    def distances(weight):
        config = replace(SETTINGS, distillation_weight=weight, distillation_temperature=2.0)
        engine = engine_for(memory_of(folder, config), config)
        teacher = teacher_of(engine.model, folder / "base", "parallel", config)
        steps = pretrain(engine, blocks_in(str(folder)), config, first_step=0, eos_id=EOS, pad_id=PAD, teacher=teacher)
        return [done.divergence for done in steps]

    free, held = distances(1e-9), distances(30.0)
    assert free[0] == held[0] == 0 and 0 < held[-1] < free[-1] / 2


@pytest.mark.parametrize("memory", [MEMORY, REPLACING], ids=["parallel", "replace"])
def test_the_control_computes_as_much_and_is_trained_the_same(one_rank, folder, memory):
    model = control_to_train(folder / "base", memory, SETTINGS, CPU)
    if memory.placement == "parallel":
        assert torch.equal(logits(model), logits(tiny_base("llama")))
    (dense,) = [module for module in model.modules() if isinstance(module, DenseAddition)]
    macs = macs_of_memory(memory, 16)
    assert abs(sum(parameter.numel() for parameter in dense.parameters()) - macs) <= 3 * 16 / 2
    engine = engine_for(model)
    steps = run_steps(str(folder), engine, SETTINGS)
    assert steps[-1].loss < steps[0].loss
    weights = engine.trained_weights()
    assert len(weights) == 3
    again = control_with_trained(folder / "base", memory, weights, CPU)
    assert torch.equal(logits(again), logits(engine.model))
