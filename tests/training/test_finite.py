"""A run that meets a number that is not finite ends with an error: no weight moves, and none is
saved or exported."""

import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from memlm.training.config import PretrainingConfig
from memlm.training.finite import DivergedError, first_not_finite, is_finite
from tests.support.tiny import state, tiny_model
from tests.training.pretraining.runs import make_blocks, run_steps, save_now, states_of

CONFIG = PretrainingConfig(num_steps=4, batch_blocks=4, micro_batch_blocks=2, warmup_steps=2, log_every=2, seed=3)
STRANGE = [float("nan"), float("inf"), float("-inf")]
every_engine = pytest.mark.parametrize(
    ("zero_stage", "pool_optimizer"), [(0, "lazy_adam"), (0, "adamw"), (1, "lazy_adam"), (3, "adamw")]
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("strange", STRANGE)
@pytest.mark.parametrize("place", [0, 7, 11])
def test_one_number_that_is_not_finite_is_found_anywhere(dtype, strange, place):
    tensor = torch.linspace(-3, 3, 12, dtype=dtype).view(3, 4)
    assert is_finite(tensor)
    tensor.view(-1)[place] = strange
    assert not is_finite(tensor)
    assert first_not_finite([("a", torch.zeros(2)), ("empty", torch.zeros(0)), ("b", tensor), ("c", tensor)]) == "b"


def test_the_largest_numbers_are_finite():
    assert is_finite(torch.tensor([torch.finfo(torch.float32).max, -torch.finfo(torch.float32).max]))
    assert first_not_finite([("a", torch.ones(1))]) is None


@pytest.fixture(scope="module")
def folder(one_rank, tmp_path_factory) -> str:
    """Blocks to train on, with a group of one rank around."""
    folder = str(tmp_path_factory.mktemp("finite"))
    make_blocks(folder)
    return folder


def new_engine(**settings):
    from memlm.training.engine import Engine

    return Engine(tiny_model().train(), replace(CONFIG, **settings))


def everything(engine, place: Path) -> dict[str, bytes]:
    """All weights and moments, to the bit, even those that are not finite."""
    place.mkdir()
    engine.save(place)
    with engine.whole_weights() as model:
        weights = {name: value.numpy().tobytes() for name, value in state(model).items()}
    return weights | {path.name: path.read_bytes() for path in sorted(place.iterdir())}


@pytest.mark.parametrize("strange", STRANGE)
@every_engine
def test_a_gradient_that_is_not_finite_moves_nothing_and_ends_the_run(
    folder, tmp_path, zero_stage, pool_optimizer, strange
):
    """The loss is always finite; only a gradient in backward is not."""
    engine = new_engine(zero_stage=zero_stage, pool_optimizer=pool_optimizer)
    run_steps(folder, engine, engine.config, last_step=2)
    before = everything(engine, tmp_path / "before")
    layer = engine.model.module.model.layers[2]

    def poison(module, inputs, output):
        output.register_hook(lambda gradient: gradient * strange)

    hook = layer.register_forward_hook(poison)
    with pytest.raises(DivergedError, match="the gradient's norm is .* at step 3; lower pretraining.learning_rate"):
        run_steps(folder, engine, engine.config, first_step=2)
    hook.remove()
    assert everything(engine, tmp_path / "after") == before
    engine.require_finite("after step 2")


@pytest.mark.parametrize("factor", [1e30, 1e38])
def test_a_gradient_whose_norm_overflows_does_not_move_the_weights(folder, tmp_path, factor):
    """At 1e30 each number of the gradient is finite, and the sum of their squares is not."""
    engine = new_engine()
    before = everything(engine, tmp_path / "before")
    for _ in range(engine.num_micro_batches):
        logits = engine.model(input_ids=torch.arange(12).view(2, 6), use_cache=False).logits
        engine.backward(logits.sum() * factor)
        engine.step()
    assert not math.isfinite(engine.gradient_norm)
    assert everything(engine, tmp_path / "after") == before


def test_the_reported_norm_is_the_gradients(folder):
    engine = new_engine(pool_optimizer="adamw", clip_norm=1e-3)
    model = tiny_model()
    tokens = torch.arange(12).view(2, 6)
    loss = model(input_ids=tokens, use_cache=False).logits.square().mean()
    loss.backward()
    for _ in range(engine.num_micro_batches):
        engine.backward(engine.model(input_ids=tokens, use_cache=False).logits.square().mean())
        engine.step()
    expected = torch.nn.utils.get_total_norm([parameter.grad for parameter in model.parameters()])
    assert engine.gradient_norm == pytest.approx(float(expected), rel=1e-5)


def places(engine) -> dict:
    """One number of each kind of saved tensor."""
    module, optimizer = engine.model.module, engine._optimizer
    weight = next(module.parameters())
    table = engine._pool_optimizer._tables[0]
    return {
        "model.embed_tokens.weight": weight,
        "moments of it": optimizer.state[weight]["exp_avg_sq"],
        "value pool 0": table.values,
        "moments of the pool": table.second_moments,
    }


@pytest.mark.parametrize("strange", STRANGE)
@pytest.mark.parametrize("place", ["model.embed_tokens.weight", "moments of it", "value pool 0", "moments of the pool"])
def test_a_model_that_is_not_finite_is_neither_saved_nor_exported(folder, tmp_path, place, strange):
    engine = new_engine()
    run_steps(folder, engine, engine.config, last_step=2)
    states = states_of(engine, str(tmp_path / "states"))
    save_now(states, 2)
    with torch.no_grad():
        places(engine)[place].view(-1)[7] = strange
    name = "value pool 0" if "pool" in place else "model.embed_tokens.weight"
    with pytest.raises(DivergedError, match=f"{name} or its moments are not finite after step 3; lower pretraining"):
        states.save(3)
    assert os.listdir(states.uri) == ["step_00000002_start_0001"]
    export = tmp_path / "export"
    export.mkdir()
    with pytest.raises(DivergedError, match=f"{name} or its moments are not finite after the last step"):
        engine.export(export)
    assert not list(export.iterdir())


@every_engine
def test_a_rate_that_overflows_the_weights_saves_none_of_them(folder, tmp_path, zero_stage, pool_optimizer):
    """Norm and loss are finite until the step that breaks the weights; no step follows the last one
    to show it."""
    engine = new_engine(
        zero_stage=zero_stage, pool_optimizer=pool_optimizer, learning_rate=1e39, warmup_steps=0, num_steps=1
    )
    run_steps(folder, engine, engine.config)
    with pytest.raises(DivergedError, match=r"learning_rate \(1e\+39\)"):
        engine.export(tmp_path)
    assert not list(tmp_path.iterdir())
