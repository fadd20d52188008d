import copy

import pytest
import torch
import torch.nn.functional as F

from memlm.methods.config import OptimizerConfig, RehearsalConfig
from memlm.methods.full import FullConfig
from memlm.methods.lora import LoRAConfig
from memlm.methods.method import LearningInputs
from memlm.methods.parts.anchoring import Anchor, diagonal_fisher
from memlm.methods.parts.distillation import Distillation
from memlm.methods.parts.rehearsal import BackgroundText
from memlm.methods.parts.replay import Replay
from memlm.training.step import finetune_step
from tests.support.tiny import EOS, PAD, mean_loss, random_batch, state, tiny_model

KINDS = ("replay", "distillation")


def text(num_blocks: int = 1, seed: int = 0) -> BackgroundText:
    generator = torch.Generator().manual_seed(seed)
    return BackgroundText(blocks=torch.randint(0, EOS, (num_blocks, 8), generator=generator), eos_id=EOS, pad_id=PAD)


def full(kind: str, weight: float = 1.0, /, **optimizer: object) -> FullConfig:
    settings = {"kind": "sgd", "learning_rate": 0.1, **optimizer}
    return FullConfig(
        optimizer=OptimizerConfig(**settings), rehearsal=RehearsalConfig(kind=kind, weight=weight, blocks_per_step=1)
    )


def learned(config: FullConfig | LoRAConfig, background: BackgroundText, steps: int = 1) -> dict[str, torch.Tensor]:
    model = tiny_model(dense=True)
    method = config.build(model, LearningInputs(background=None, seed=0, text=background))
    for step in range(steps):
        finetune_step(method, [random_batch(step)])
    return state(method.finish())


def nats(model, blocks):
    logits = model(input_ids=blocks, use_cache=False).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), blocks[:, 1:].flatten())


def test_replay_is_a_step_on_the_sum_of_both_losses():
    plain, background = tiny_model(dense=True), text()
    (mean_loss(plain, [random_batch(0)]) + 2.0 * nats(plain, background.blocks)).backward()
    expected = {name: parameter.detach() - 0.1 * parameter.grad for name, parameter in plain.named_parameters()}
    torch.testing.assert_close(learned(full("replay", 2.0), background), expected)


def test_distillation_has_no_gradient_at_first_and_pulls_back_later():
    alone = learned(full("none"), text())
    torch.testing.assert_close(learned(full("distillation", 50.0), text()), alone)
    original, background = tiny_model(dense=True), text(4)

    def drift(weights):
        model = tiny_model(dense=True)
        model.load_state_dict(weights)
        with torch.no_grad():
            said, says = (m(input_ids=background.blocks).logits.log_softmax(-1) for m in (original, model))
        return float(F.kl_div(says, said, log_target=True, reduction="batchmean"))

    held, free = (learned(full(kind, 5.0), background, steps=12) for kind in ("distillation", "none"))
    assert drift(held) < 0.75 * drift(free)


@pytest.mark.parametrize("kind", KINDS)
def test_lora_rehearses_too_and_its_base_stays(kind):
    config = LoRAConfig(rank=2, alpha=2.0, rehearsal=RehearsalConfig(kind=kind, blocks_per_step=1))
    model = tiny_model(dense=True)
    before = copy.deepcopy(state(model))
    method = config.build(model, LearningInputs(background=None, seed=0, text=text()))
    finetune_step(method, [random_batch(0)])
    base = {
        name.replace("base_model.model.", "").replace(".base_layer", ""): p
        for name, p in method.model.named_parameters()
    }
    assert all(torch.equal(before[name], base[name]) for name in before if name in base)
    assert any(not torch.equal(value, before[name]) for name, value in state(method.finish()).items())


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_are_drawn_for_each_step_and_repeat_by_seed(kind):
    runs = [learned(full(kind), text(16), steps=3) for _ in range(2)]
    torch.testing.assert_close(runs[0], runs[1], rtol=0, atol=0)


def test_pads_of_background_text_are_not_rehearsed():
    padded = text().blocks.clone()
    padded[:, 5:] = PAD
    model = tiny_model(dense=True)
    config = RehearsalConfig(kind="replay", blocks_per_step=1)
    whole = Replay(model, BackgroundText(blocks=padded, eos_id=EOS, pad_id=PAD), config, seed=0).add_gradients()
    short = Replay(model, BackgroundText(blocks=padded[:, :5], eos_id=EOS, pad_id=PAD), config, seed=0).add_gradients()
    assert whole == pytest.approx(short, rel=1e-5)


def test_too_little_text_or_none_is_refused():
    with pytest.raises(ValueError, match="blocks_per_step is 2, and there are 1 blocks"):
        Distillation(tiny_model(dense=True), text(1), RehearsalConfig(kind="distillation"), seed=0)
    with pytest.raises(ValueError, match="no background text"):
        full("replay").build(tiny_model(dense=True), LearningInputs(background=None, seed=0))


def far(weights: dict[str, torch.Tensor]) -> float:
    """The distance of the layers' weights from the tiny model's."""
    start = {name: base for name, base in state(tiny_model(dense=True)).items() if ".layers." in name}
    return float(torch.cat([(weights[name] - base).flatten() for name, base in start.items()]).norm())


@pytest.mark.parametrize("kind", ["l2_sp", "ewc"])
def test_a_heavy_anchor_holds_the_weights_at_the_start(kind):
    adam = {"kind": "adamw", "learning_rate": 0.01}
    free, light = learned(full("none", **adam), text(4), steps=6), learned(full(kind, 1e-9, **adam), text(4), steps=6)
    torch.testing.assert_close(light, free, rtol=1e-3, atol=1e-4)
    # Adam's first step is as long as its rate, whatever the gradient.
    assert far(learned(full(kind, 1e9, **adam), text(4), steps=6)) < 0.6 * far(free)


def test_l2_sp_is_a_step_on_half_the_squared_distance():
    model, config = tiny_model(dense=True), RehearsalConfig(kind="l2_sp", weight=0.5)
    anchor, weight = Anchor(model, config), model.lm_head.weight
    with torch.no_grad():
        weight += 0.25
    assert anchor.add_gradients() == pytest.approx(0.25**2 * weight.numel() / 2)
    torch.testing.assert_close(weight.grad, torch.full_like(weight, 0.5 * 0.25))


def test_fisher_information_is_that_of_the_models_own_predictions():
    """Against its definition for the last matrix: the expectation, over all targets, of the squared
    gradient of each token's log-likelihood."""
    model, background = tiny_model(dense=True), text(2)
    weight, whole = model.lm_head.weight, background.blocks
    with torch.no_grad():
        hidden = model.model(input_ids=whole, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
        chances = model(input_ids=whole, use_cache=False).logits[:, :-1].flatten(0, 1).softmax(-1)
    # The gradient of row v is (p_v - [v is the target]) * hidden; its mean square is as follows.
    expected = (chances * (1 - chances)).T @ hidden.square() / len(hidden)
    drawn = torch.stack([diagonal_fisher(model, [weight], background, 2, seed=seed)[0] for seed in range(400)]).mean(0)
    assert float((drawn - expected).norm() / expected.norm()) < 0.15
    assert weight.grad is None and weight.requires_grad


def test_ewc_holds_what_background_text_needs_more_than_the_rest():
    """A token that the text never holds has an embedding without information."""
    background = text(4)
    unread = next(token for token in range(EOS) if token not in background.blocks)
    model = tiny_model(dense=True)
    embedding = model.model.embed_tokens.weight
    (fisher,) = diagonal_fisher(model, [embedding], background, 4, seed=0)
    assert float(fisher[unread].abs().max()) == 0 and float(fisher[background.blocks[0, 0]].abs().max()) > 0


def test_lora_is_anchored_by_the_matrices_that_it_is_merged_into():
    config = RehearsalConfig(kind="l2_sp", weight=1.0)
    method = LoRAConfig(rank=2, alpha=4.0, rehearsal=config).build(
        tiny_model(dense=True), LearningInputs(background=None, seed=0)
    )
    for step in range(2):
        finetune_step(method, [random_batch(step)])
    distance = method.rehearsal.add_gradients()
    start, end = state(tiny_model(dense=True)), state(method.finish())
    assert distance == pytest.approx(
        sum(float((end[name] - start[name]).square().sum()) for name in start) / 2, rel=1e-3
    )


def test_ewc_without_text_is_refused_and_l2_sp_needs_none():
    inputs = LearningInputs(background=None, seed=0)
    with pytest.raises(ValueError, match="rehearsal.kind is ewc, and there is no background text"):
        full("ewc").build(tiny_model(dense=True), inputs)
    assert full("l2_sp").build(tiny_model(dense=True), inputs).rehearsal is not None
