"""Every kind of adapter learns, starts as the base model, and ends in its form; prefixes write no
weight."""

from dataclasses import replace

import pytest
import torch

from memlm.data.questions.facts import Fact
from memlm.methods.config import OptimizerConfig, RehearsalConfig
from memlm.methods.method import LearningInputs
from memlm.methods.parts.adapters import tokens_of_statements
from memlm.methods.parts.target_modules import target_modules
from memlm.methods.peft import KINDS, MERGED, PREFIXES, PeftConfig
from memlm.model.reader.prefixes import prefix_before
from memlm.recipes import RECIPES
from memlm.stages import RunError, require_finetunable
from memlm.training.step import finetune_step
from tests.support.tiny import mean_loss, random_batch, random_statements, state, tiny_model

RATE = OptimizerConfig(learning_rate=0.05)
FACTS = [Fact(id=f"fact {number}", statements=(), questions=()) for number in range(3)]
SMALL = {
    "miss": ("r=4",),
    "oft": ("oft_block_size=4", "r=0"),
    "psoft": ("r=4",),
    "road": ("group_size=4",),
    "shira": ("r=2",),
    "waveft": ("n_frequency=40",),
    "cartridge": ("num_virtual_tokens=9",),
    "p_tuning": ("num_virtual_tokens=6",),
    "prefix_tuning": ("num_virtual_tokens=6", "prefix_projection=true", "encoder_hidden_size=8"),
    "prompt_tuning": ("num_virtual_tokens=6",),
}
"""Settings for matrices of 12 by 20."""
NEAR = ("hra", "osf")
"""Kinds that begin as the base model up to rounding."""


def config_of(kind, **more):
    return PeftConfig(kind=kind, settings=SMALL.get(kind, ()), **{"optimizer": RATE, **more})


def built(kind, model=None, *, seed=0, **more):
    inputs = LearningInputs(background=None, seed=seed, facts=FACTS, statements=random_statements)
    return config_of(kind, **more).build(model or tiny_model(dense=True), inputs)


@torch.no_grad()
def logits_of(model):
    return model(input_ids=random_batch(9).tokens, use_cache=False).logits


@torch.no_grad()
def loss_of(model):
    return float(mean_loss(model, [random_batch(0)]))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns(kind):
    method = built(kind)
    start = loss_of(method.learning_model)
    results = [finetune_step(method, [random_batch(0)]) for _ in range(30)]
    assert results[0].report["num_trainable_parameters"] > 0
    learning = loss_of(method.learning_model)
    assert learning < start - 0.01
    assert abs(loss_of(method.finish()) - learning) < 1e-3


@pytest.mark.parametrize("kind", MERGED)
def test_a_merged_kind_begins_as_the_base_and_ends_in_its_form(kind):
    base, model = tiny_model(dense=True), tiny_model(dense=True)
    shared = list(model.parameters())
    arrays = [parameter.data for parameter in shared]
    copies = [array.clone() for array in arrays]
    method = built(kind, model)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if kind in NEAR else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(logits_of(method.model), logits_of(base), **tolerance)
    for step in range(3):
        finetune_step(method, [random_batch(step)])
    adapted = logits_of(method.model)
    merged = method.finish()
    assert type(merged) is type(base) and state(merged).keys() == state(base).keys()
    torch.testing.assert_close(logits_of(merged), adapted, rtol=1e-3, atol=1e-3)
    assert all(torch.equal(array, copy) for array, copy in zip(arrays, copies, strict=True)), "others read these"


@pytest.mark.parametrize("kind", MERGED)
def test_the_change_is_scaled_at_the_end(kind):
    start, ends = state(tiny_model(dense=True)), {}
    for scale in (0.0, 0.5, 1.0):
        method = built(kind, update_scale=scale)
        for step in range(2):
            finetune_step(method, [random_batch(step)])
        ends[scale] = state(method.finish())
    for name, base in start.items():
        assert torch.equal(ends[0.0][name], base), "0 gives the base model back"
        torch.testing.assert_close(ends[0.5][name], base.lerp(ends[1.0][name], 0.5))


@pytest.mark.parametrize("kind", PREFIXES)
def test_a_prefix_writes_no_weight_and_stays_before_every_text(kind):
    base, method = tiny_model(dense=True), built(kind)
    for step in range(3):
        finetune_step(method, [random_batch(step)])
    learning = logits_of(method.learning_model)
    learned = method.finish()
    torch.testing.assert_close(state(learned), state(base), rtol=0, atol=0)
    torch.testing.assert_close(logits_of(learned), learning)
    assert float((learning - logits_of(base)).abs().max()) > 0.01
    assert prefix_before(learned).length == (9 if kind == "cartridge" else 6)
    assert not any(tensor.requires_grad for pair in prefix_before(learned).keys_values for tensor in pair)


def test_a_cartridge_begins_as_the_statements_themselves():
    model = tiny_model(dense=True)
    tokens = tokens_of_statements(FACTS, random_statements, 9)
    first = [random_statements(fact.id).tokens[0] for fact in FACTS]
    assert tokens.tolist() == torch.cat(first)[:9].tolist()
    asked = random_batch(9).tokens
    with torch.no_grad():
        whole = model(input_ids=torch.cat([tokens.expand(len(asked), -1), asked], dim=1), use_cache=False).logits
    torch.testing.assert_close(logits_of(built("cartridge").model), whole[:, 9:])


def test_the_first_token_of_a_cartridge_stays():
    method = built("cartridge")
    before = method.prefix().detached()
    for step in range(2):
        finetune_step(method, [random_batch(step)])
    for old, new in zip(before.keys_values, method.finish() and method.prefix().keys_values, strict=True):
        assert torch.equal(old[0][:, :, :1], new[0][:, :, :1])
        assert not torch.equal(old[0][:, :, 1:], new[0][:, :, 1:])


def test_a_cartridge_longer_than_the_statements_is_refused():
    with pytest.raises(ValueError, match="num_virtual_tokens 1000 .* have 63; lower num_virtual_tokens"):
        tokens_of_statements(FACTS, random_statements, 1000)


def test_only_the_seed_determines_the_initial_adapter():
    weights = []
    for seed, noise in ((0, 1), (0, 2), (1, 2)):
        torch.manual_seed(noise)
        weights.append([parameter.detach().clone() for parameter in built("prefix_tuning", seed=seed).parameters])
    assert all(map(torch.equal, weights[0], weights[1])) and not all(map(torch.equal, weights[0], weights[2]))


def test_modules_are_found_by_their_place():
    found = target_modules(tiny_model())
    assert found.attention == tuple(f"self_attn.{name}_proj" for name in "qkvo")
    assert found.feed_forward == ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    assert found.memory == ("mlp.query", "mlp.gate", "mlp.output")
    assert found.keys_and_values == ("self_attn.k_proj", "self_attn.v_proj")
    assert found.last_of_feed_forward == ("mlp.down_proj",)


def test_ia3_scales_keys_values_and_the_inputs_of_the_last_matrix():
    method = built("ia3")
    finetune_step(method, [random_batch(0)])
    before, after = state(tiny_model(dense=True)), state(method.finish())
    moved = {name.split(".")[-2] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"k_proj", "v_proj", "down_proj"}
    value, down = "model.layers.0.self_attn.v_proj.weight", "model.layers.0.mlp.down_proj.weight"
    assert torch.linalg.matrix_rank(after[down] / before[down], rtol=1e-4) == 1
    rows, columns = (after[value] / before[value]), (after[down] / before[down])
    torch.testing.assert_close(rows, rows[:, :1].expand_as(rows))
    torch.testing.assert_close(columns, columns[:1].expand_as(columns))


def test_osf_leaves_what_the_largest_singular_vectors_hold():
    """With SGD: AdamW scales each number of a projected gradient, and so leaves the subspace."""
    method = built("osf", optimizer=OptimizerConfig(kind="sgd", learning_rate=0.05))
    for step in range(3):
        finetune_step(method, [random_batch(step)])
    name = "model.layers.0.self_attn.q_proj.weight"
    before, after = state(tiny_model(dense=True))[name], state(method.finish())[name]
    left, sizes, right = torch.linalg.svd(before)
    top = left[:, :6], right[:6]
    torch.testing.assert_close(top[0].T @ after @ top[1].T, torch.diag(sizes[:6]), rtol=1e-3, atol=1e-3)
    assert float((after - before).norm()) > 0.01


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "ia4"}, "method.kind is 'ia4'; did you mean 'ia3'"),
        ({"kind": "lora"}, "method.kind is 'lora'; .*LoRA is the method lora"),
        ({"settings": ("r",)}, "method.settings holds 'r'; write each as name=value"),
        (
            {"kind": "vera", "settings": ("rr=3",)},
            "method.settings names 'rr', and method.kind is vera; did you mean 'r'",
        ),
        ({"kind": "cartridge", "update_scale": 0.5}, "method.kind is cartridge, a prefix, which has no rehearsal"),
        ({"kind": "ia3", "rehearsal": RehearsalConfig(kind="ewc")}, "method.rehearsal.kind is ewc"),
    ],
)
def test_settings_that_cannot_work_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        PeftConfig(**fields)


def test_what_peft_refuses_is_refused_in_our_words():
    config = PeftConfig(kind="road", settings=("group_size=7",))
    with pytest.raises(ValueError, match="PEFT refuses road with .*change method.settings"):
        config.build(tiny_model(dense=True), LearningInputs(background=None, seed=0))


def test_each_kind_is_a_method_of_its_own():
    assert PeftConfig().label == "ia3"
    assert PeftConfig(kind="osf", rehearsal=RehearsalConfig(kind="replay")).label == "osf_replay"
    assert len({PeftConfig(kind=kind).label for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("option", [{"log_model": True}, {"register_model": "mine"}])
def test_no_model_is_logged_for_a_prefix(option):
    smoke = replace(RECIPES["smoke"](), tracking="/nonexistent", **option)
    require_finetunable(replace(smoke, method=PeftConfig(kind="ia3")))
    with pytest.raises(RunError, match=f"{next(iter(option))} is .*method cartridge changes no model"):
        require_finetunable(replace(smoke, method=PeftConfig(kind="cartridge")))
