"""Sparse memory finetuning by curvature: its step by the definition, and what each of its two sides
does; with mutants that the checks catch."""

from dataclasses import replace

import pytest
import torch

from memlm.methods.config import OptimizerConfig
from memlm.methods.method import LearningInputs
from memlm.methods.parts.curvature_finetuning import CurvatureFinetuning
from memlm.methods.parts.decorrelated_finetuning import Decorrelation
from memlm.methods.sparse_memory_curvature import SparseMemoryCurvatureConfig
from memlm.methods.sparse_memory_decorrelated import SparseMemoryDecorrelatedConfig
from memlm.slots.sensitivities import Sensitivities
from memlm.training.step import finetune_step
from tests.support.tiny import (
    MEMORIES,
    MEMORY,
    background_reads,
    changed_rows,
    learning_inputs,
    num_slots,
    plain_gradients,
    pool_rows,
    random_background,
    random_batch,
    random_statements,
    rows_of,
    state,
    tiny_model,
)

every_memory = pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)
every_number = pytest.mark.parametrize("t", [6, 0])
RATE, TOKENS, EXPONENT, HALVED_AT = 1.5, 30.0, 0.5, 0.7


def config_of(kind=SparseMemoryCurvatureConfig, **fields):
    return kind(halved_at_tokens=TOKENS, optimizer=OptimizerConfig(kind="sgd", learning_rate=RATE), **fields)


def learner(model, config, *, reads=None, method=None):
    inputs = learning_inputs(model, reads)
    return config.build(model, inputs) if method is None else method(model, config, inputs)


def change_of(config, *, reads=None, seed=0) -> torch.Tensor:
    """What one step adds to the rows."""
    model = tiny_model()
    before = pool_rows(state(model))
    finetune_step(learner(model, config, reads=reads), [random_batch(seed)])
    return pool_rows(state(model)) - before


def plain_step(model, batch, rows, reads):
    """The definition, with dense reads of every background token and two dense solves."""
    total = num_slots(model)
    powers = reads.sensitivities.of_rows.double() ** EXPONENT
    dense = torch.zeros(len(reads.slots), total, dtype=torch.float64)
    dense.scatter_add_(1, reads.slots.long(), reads.weights.double())
    dense *= (powers / powers.mean()).sqrt()[:, None]
    damping = dense.square().sum() / (dense > 0).sum() / TOKENS
    matrix = torch.eye(len(rows)).double() + (dense.T @ dense / reads.num_tokens / damping)[rows][:, rows]
    gradient = torch.cat(plain_gradients(model, [batch], rows))[rows].double()
    step = torch.linalg.solve(matrix, gradient)
    expected, per_pool = pool_rows(state(model)), total // len(reads.sensitivities.of_outputs)
    for place, row in enumerate(rows):
        outputs = reads.sensitivities.of_outputs[row // per_pool]
        right = torch.eye(10).double() + outputs / (HALVED_AT * outputs.diagonal().mean())
        expected[row] -= RATE * torch.linalg.solve(right, step[place]).float()
    return expected


def check_steps_are_the_plain_definition(memory, t, method=None):
    model = tiny_model(memory)
    reads = background_reads(model)
    config = config_of(num_trainable_slots=t, sensitivity_exponent=EXPONENT, halved_at_sensitivity=HALVED_AT)
    trained = learner(model, config, reads=reads, method=method)
    for seed in (0, 1, 0) if len(memory.layers) == 1 else (0, 1):
        before, batch = state(model), random_batch(seed)
        rows = trained._fact(batch.fact_id, rows_at_once=4).slots.tolist()
        expected = plain_step(model, batch, rows, reads)
        finetune_step(trained, rows_of(batch, slice(0, 3), slice(3, 4)))
        torch.testing.assert_close(pool_rows(state(model)), expected, rtol=1e-4, atol=1e-6)
        assert set(changed_rows(before, state(model))) <= set(rows)


@every_memory
@every_number
def test_a_step_is_the_plain_definition(memory, t):
    check_steps_are_the_plain_definition(memory, t)


class WeightsAllAlike(CurvatureFinetuning):
    def __init__(self, model, config, inputs):
        super().__init__(model, config, inputs)
        self.decorrelation = Decorrelation(inputs.reads, config.halved_at_tokens)


class MovesAllDirectionsAlike(CurvatureFinetuning):
    def __init__(self, model, config, inputs):
        super().__init__(model, config, inputs)
        self.dampings = {}


class DampsByTheDiagonal(CurvatureFinetuning):
    def __init__(self, model, config, inputs):
        super().__init__(model, config, inputs)
        self.dampings = {pool: damping.diag().diag() for pool, damping in self.dampings.items()}


@pytest.mark.parametrize("mutant", [WeightsAllAlike, MovesAllDirectionsAlike, DampsByTheDiagonal])
@every_number
def test_mutants_are_caught(mutant, t):
    with pytest.raises(AssertionError):
        check_steps_are_the_plain_definition(MEMORY, t, mutant)


@every_memory
@every_number
def test_without_its_two_sides_it_is_the_decorrelated_step_to_the_bit(memory, t):
    ends = []
    for config in (
        config_of(SparseMemoryDecorrelatedConfig, num_trainable_slots=t),
        config_of(num_trainable_slots=t, sensitivity_exponent=0.0, halved_at_sensitivity=0.0),
        config_of(num_trainable_slots=t),
    ):
        model = tiny_model(memory)
        trained = learner(model, config)
        for seed in (0, 1, 0):
            finetune_step(trained, [random_batch(seed)])
        ends.append(pool_rows(state(model)))
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])


def test_a_direction_to_which_background_is_insensitive_moves_as_before():
    """The others move less, the more sensitive the less."""
    reads = background_reads(tiny_model())
    sizes = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 10.0]).double()  # with a mean of 2
    known = replace(reads.sensitivities, of_outputs=sizes.diag()[None])
    reads = replace(reads, sensitivities=known)
    plain = change_of(config_of(sensitivity_exponent=0.0, halved_at_sensitivity=0.0), reads=reads)
    damped = change_of(config_of(sensitivity_exponent=0.0, halved_at_sensitivity=2.0), reads=reads)
    torch.testing.assert_close(damped, plain / (1 + sizes / 4).float(), rtol=1e-4, atol=1e-6)
    assert torch.equal(damped[:, :5], plain[:, :5]) and plain[:, :5].any()


def test_a_token_without_sensitivity_does_not_constrain():
    """With sensitivities of 0 for all tokens but one, the others may as well not be there: the step
    is that of the sample of this token alone, at the same lambda."""
    reads = background_reads(tiny_model())
    of_rows = torch.zeros(len(reads.slots))
    of_rows[40] = 5.0
    known = Sensitivities(of_rows=of_rows, of_outputs=reads.sensitivities.of_outputs)
    found = change_of(config_of(halved_at_sensitivity=0.0), reads=replace(reads, sensitivities=known))
    alone = replace(
        reads,
        slots=reads.slots[40:41],
        weights=reads.weights[40:41],
        num_tokens=1,
        sensitivities=Sensitivities(of_rows=of_rows[40:41], of_outputs=reads.sensitivities.of_outputs),
    )
    # Lambda is lambda's share of the mean squared weight of all reads, those of no weight included.
    share = alone.mean_square / replace(reads, sensitivities=known).weighted(0.5).mean_square
    config = replace(config_of(halved_at_sensitivity=0.0), halved_at_tokens=TOKENS * share)
    torch.testing.assert_close(found, change_of(config, reads=alone), rtol=1e-4, atol=1e-6)


def test_what_the_loss_depends_on_moves_less_at_equal_gain():
    """What the step is for: of two steps with the same first-order gain, it costs less by the
    product of both moments."""
    costs = {}
    reads = background_reads(tiny_model(), num_batches=40)
    weighted = reads.weighted(0.5).second_moment(torch.arange(81))
    outputs = reads.sensitivities.of_outputs[0]
    gradient = torch.cat(plain_gradients(tiny_model(), [random_batch(0)], list(range(81)))).double()
    for kind in (SparseMemoryCurvatureConfig, SparseMemoryDecorrelatedConfig):
        change = change_of(config_of(kind), reads=reads).double()
        gain = -(change * gradient).sum()
        costs[kind] = float((weighted @ change @ outputs * change).sum() / gain**2)
    assert costs[SparseMemoryCurvatureConfig] < 0.8 * costs[SparseMemoryDecorrelatedConfig]


def test_factors_serve_later_trials_and_never_another_weighting():
    reads = background_reads(tiny_model())
    first = change_of(config_of(), reads=reads)
    number = len(reads.kept.kept)
    assert not torch.equal(change_of(config_of(halved_at_sensitivity=9.0), reads=reads), first)
    assert len(reads.kept.kept) == number  # another M has the same factors
    other = change_of(config_of(sensitivity_exponent=1.0), reads=reads)
    assert len(reads.kept.kept) == number + 1  # the reads of the fact are the same
    assert torch.equal(other, change_of(config_of(sensitivity_exponent=1.0)))
    assert torch.equal(first, change_of(config_of(), reads=reads))


# What is refused


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sensitivity_exponent": -0.1}, "sensitivity_exponent is -0.1; it must be at least 0 and finite"),
        ({"halved_at_sensitivity": float("inf")}, "halved_at_sensitivity is inf; it must be at least 0 and finite"),
        ({"halved_at_sensitivity": float("nan")}, "halved_at_sensitivity is nan"),
        ({"num_trainable_slots": -1}, "num_trainable_slots is -1"),
    ],
)
def test_settings_that_cannot_work_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        SparseMemoryCurvatureConfig(**fields)


def test_missing_inputs_are_refused():
    model = tiny_model()
    inputs = LearningInputs(background=random_background(model), seed=0, statements=random_statements)
    with pytest.raises(ValueError, match=r"sparse_memory_curvature needs background reads.*count_accesses.py"):
        config_of().build(model, inputs)
    with pytest.raises(ValueError, match=r"no sensitivities.*move the run's folder reads away"):
        learner(model, config_of(), reads=replace(background_reads(model), sensitivities=None))


@pytest.mark.parametrize(
    ("fields", "label"),
    [
        ({}, ""),
        ({"halved_at_sensitivity": 1.0, "sensitivity_exponent": 1.0}, ""),
        ({"num_trainable_slots": 500}, "_500"),
        ({"num_trainable_slots": 500, "ranking": "tfidf", "continual": 1.0}, "_500_tfidf_continual"),
    ],
)
def test_variants_are_methods_of_their_own(fields, label):
    assert SparseMemoryCurvatureConfig(**fields).label == f"sparse_memory_curvature{label}"
