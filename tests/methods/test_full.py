import pytest
import torch

from memlm.methods.config import OptimizerConfig
from memlm.methods.full import FullConfig, FullFinetuning
from memlm.methods.lora import LoRAMemoryConfig
from memlm.methods.method import LearningInputs
from memlm.training.step import finetune_step
from tests.support.tiny import MEMORY, TWO_SEPARATE, mean_loss, random_batch, rows_of, state, tiny_model

MODELS = {
    "dense": lambda: tiny_model(dense=True),
    "memory": lambda: tiny_model(MEMORY),
    "two": lambda: tiny_model(TWO_SEPARATE),
}


def finetuned(model, batches, **optimizer):
    method = FullFinetuning(model, FullConfig(optimizer=OptimizerConfig(**optimizer)))
    result = finetune_step(method, batches)
    return method, result


@pytest.mark.parametrize("model", [build() for build in MODELS.values()], ids=MODELS)
def test_everything_moves(model):
    before = state(model)
    method, result = finetuned(model, [random_batch(0)], learning_rate=0.01, weight_decay=0.1)
    after = state(method.finish())
    assert method.finish() is model
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert result.report["num_trainable_parameters"] == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("chunks", [(slice(0, 4),), (slice(0, 3), slice(3, 4))])
def test_a_step_is_sgd_on_the_mean_over_the_batchs_tokens(chunks):
    model, plain, batch = tiny_model(dense=True), tiny_model(dense=True), random_batch(0)
    mean_loss(plain, [batch]).backward()
    expected = {name: p.detach() - 0.1 * p.grad for name, p in plain.named_parameters()}
    finetuned(model, rows_of(batch, *chunks), kind="sgd", learning_rate=0.1)
    torch.testing.assert_close(dict(model.named_parameters()), expected)


def test_pads_are_not_trained_on():
    batch, longer = random_batch(0), random_batch(0, seq=13)
    others = batch._replace(tokens=batch.tokens.masked_fill(~batch.is_token, 3))
    weights = []
    for each in (batch, others, longer):
        model = tiny_model(dense=True)
        finetuned(model, [each], kind="sgd", learning_rate=0.1)
        weights.append(state(model))
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
    torch.testing.assert_close(weights[0], weights[2])


def test_a_second_step_starts_from_no_gradient():
    model, batch = tiny_model(dense=True), random_batch(0)
    method, _ = finetuned(model, [batch], kind="sgd", learning_rate=0.1)
    between = tiny_model(dense=True)
    between.load_state_dict(state(model))
    finetune_step(method, [batch])
    finetuned(between, [batch], kind="sgd", learning_rate=0.1)
    torch.testing.assert_close(state(model), state(between), rtol=0, atol=0)


@pytest.mark.parametrize("config", [FullConfig(update_scale=0.25), FullConfig(update_scale=0.0)])
def test_the_change_is_scaled_at_the_end(config):
    ends = []
    for each in (FullConfig(), config):
        method = each.build(tiny_model(dense=True), LearningInputs(background=None, seed=0))
        for step in range(2):
            finetune_step(method, [random_batch(step)])
        ends.append(state(method.finish()))
    start, (whole, scaled) = state(tiny_model(dense=True)), ends
    for name, base in start.items():
        assert not torch.equal(whole[name], base)
        torch.testing.assert_close(scaled[name], base + config.update_scale * (whole[name] - base))
        assert config.update_scale or torch.equal(scaled[name], base), "0 gives the base model back"


def test_a_linear_schedule_warms_up_and_falls_to_0():
    optimizer = OptimizerConfig(kind="sgd", learning_rate=0.1, schedule="linear", warmup_share=0.2)
    method = FullConfig(optimizer=optimizer).build(
        tiny_model(dense=True), LearningInputs(background=None, seed=0, num_steps=10)
    )
    rates = []
    for step in range(10):
        rates.append(method.optimizer.param_groups[0]["lr"])
        finetune_step(method, [random_batch(step)])
    assert rates == pytest.approx([0.1 / 3, 0.2 / 3, *(0.1 * left / 8 for left in range(8, 0, -1))])
    assert method.optimizer.param_groups[0]["lr"] == pytest.approx(0)


def test_a_schedule_without_steps_is_refused():
    config = FullConfig(optimizer=OptimizerConfig(schedule="linear"))
    with pytest.raises(ValueError, match=r"schedule is linear, which needs the number of steps, and the stream has 0"):
        config.build(tiny_model(dense=True), LearningInputs(background=None, seed=0))


@pytest.mark.parametrize(
    ("config", "label"),
    [
        (FullConfig(optimizer=OptimizerConfig(kind="sgd")), "full_sgd"),
        (FullConfig(update_scale=0.5), "full_wise_ft"),
        (FullConfig(optimizer=OptimizerConfig(schedule="linear")), "full"),
        (LoRAMemoryConfig(), "lora_memory"),
    ],
)
def test_a_variant_is_named_after_its_change(config, label):
    assert config.label == label
