import pytest
import torch

from memlm.methods.config import OptimizerConfig
from memlm.methods.lora import LoRAConfig, LoRAMemoryConfig
from memlm.methods.method import LearningInputs
from memlm.methods.parts.adapters import MergedAdapter
from memlm.training.step import finetune_step
from tests.support.tiny import random_batch, state, tiny_model

every_target = pytest.mark.parametrize("target", ["attention", "all"])
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
FEED_FORWARD = ["gate_proj", "up_proj", "down_proj"]
MEMORY = ["query", "gate", "output"]
OPTIMIZER = OptimizerConfig(learning_rate=0.02, weight_decay=0.1)


def lora(target="all", *, seed=0, rank=3, alpha=6.0, steps=3):
    method = MergedAdapter(
        tiny_model(dense=True), LoRAConfig(rank=rank, alpha=alpha, target=target, optimizer=OPTIMIZER), seed=seed
    )
    results = [finetune_step(method, [random_batch(step)]) for step in range(steps)]
    return method, results


def logits_of(model):
    with torch.no_grad():
        return model(input_ids=random_batch(9).tokens, use_cache=False).logits


@every_target
def test_the_merged_model_answers_as_the_adapted_one(target):
    method, _ = lora(target)
    base, adapted = logits_of(tiny_model(dense=True)), logits_of(method.model)
    merged = method.finish()
    assert float((adapted - base).abs().max()) > 0.05  # so there was something to merge
    torch.testing.assert_close(logits_of(merged), adapted)


@every_target
def test_the_merged_model_has_the_base_models_form_and_moves_the_targets_alone(target):
    before = state(tiny_model(dense=True))
    merged = lora(target)[0].finish()
    after = state(merged)
    assert type(merged) is type(tiny_model(dense=True))
    assert before.keys() == after.keys()
    names = ATTENTION + (FEED_FORWARD if target == "all" else [])
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if name.split(".")[-2] in names}


@every_target
def test_a_change_has_the_adapters_rank_and_scale(target):
    before = state(tiny_model(dense=True))
    after = state(lora(target, rank=2)[0].finish())
    name = "model.layers.1.self_attn.q_proj.weight"
    assert torch.linalg.matrix_rank(after[name] - before[name], rtol=1e-4) == 2


def test_the_number_of_trainable_parameters_is_that_of_the_adapters():
    _, (result, *_) = lora("attention", rank=3, steps=1)
    assert result.report["num_trainable_parameters"] == 3 * 4 * 3 * (12 + 12)  # layers, matrices, rank, in and out


def test_before_the_first_step_the_model_is_the_base_model():
    method, _ = lora(steps=0)
    assert torch.equal(logits_of(method.model), logits_of(tiny_model(dense=True)))


def test_only_the_seed_determines_the_initial_adapters():
    first = state(lora(seed=0)[0].finish())
    torch.manual_seed(123)
    again, other = state(lora(seed=0)[0].finish()), state(lora(seed=1)[0].finish())
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_pads_are_not_trained_on():
    weights = []
    batch = random_batch(0)
    for each in (batch, batch._replace(tokens=batch.tokens.masked_fill(~batch.is_token, 3)), random_batch(0, seq=13)):
        method, _ = lora(steps=0)
        finetune_step(method, [each])
        weights.append(state(method.finish()))
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
    torch.testing.assert_close(weights[0], weights[2])


@every_target
def test_lora_on_the_memory_model_moves_its_matrices_and_no_table(target):
    before = state(tiny_model())
    config = LoRAMemoryConfig(rank=2, alpha=2.0, target=target, optimizer=OPTIMIZER)
    method = config.build(tiny_model(), LearningInputs(background=None, seed=0))
    for step in range(3):
        finetune_step(method, [random_batch(step)])
    after = state(method.finish())
    assert before.keys() == after.keys()
    names = ATTENTION + (FEED_FORWARD + MEMORY if target == "all" else [])
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if name.endswith("weight") and name.split(".")[-2] in names}


def test_the_change_is_scaled_at_the_end():
    start, whole = state(tiny_model(dense=True)), state(lora()[0].finish())
    for scale in (0.0, 0.25):
        config = LoRAConfig(rank=3, alpha=6.0, optimizer=OPTIMIZER, update_scale=scale)
        method = config.build(tiny_model(dense=True), LearningInputs(background=None, seed=0))
        for step in range(3):
            finetune_step(method, [random_batch(step)])
        scaled = state(method.finish())
        for name, base in start.items():
            torch.testing.assert_close(scaled[name], base + scale * (whole[name] - base))
            assert scale or torch.equal(scaled[name], base), "0 gives the base model back"
