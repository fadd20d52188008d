"""Runs that resume from a state, also with another number of workers."""

import pytest
import torch

from tests.training.pretraining.plain import assert_same_run
from tests.training.pretraining.runs import CUT, EVERY_STAGE, OPTIMIZERS

pytestmark = pytest.mark.xdist_group("pretraining")  # they share `results`


def assert_same_bits(run: dict, undisturbed: dict) -> None:
    assert run["step"] == CUT
    assert run["losses"] == undisturbed["losses"]
    assert all(torch.equal(weight, undisturbed["weights"][name]) for name, weight in run["weights"].items())


def test_a_resumed_run_is_the_undisturbed_one_bit_for_bit(results):
    assert_same_bits(results["one"]["resumed"], results["one"]["accumulated"][1])


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("stage", EVERY_STAGE)
def test_a_resumed_run_of_two_workers_is_the_undisturbed_one_bit_for_bit(results, stage, name):
    for rank in results["two"]:
        assert_same_bits(rank["resumed"][name][stage], rank["stages"][name][stage])


def test_a_state_that_lacks_a_rank_is_skipped_for_the_previous_one(results):
    assert [rank["incomplete"] for rank in results["two"]] == [2, 2]


def test_a_state_that_one_rank_cannot_write_is_abandoned_by_all(results):
    assert [rank["given up"] for rank in results["two"]] == [(1, ["step_00000002_start_0001"])] * 2


def test_without_a_state_a_run_starts_at_the_beginning(results):
    assert results["one"]["none"] == 0


def assert_gone_on(run: dict, undisturbed: dict) -> None:
    """From the same step, to the tolerance of sums in another order."""
    assert run["step"] == CUT
    assert_same_run(run, {**undisturbed, "losses": undisturbed["losses"][CUT:]})


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("stage", EVERY_STAGE)
def test_one_worker_continues_a_state_of_two_at_every_zero_stage(results, stage, name):
    assert_gone_on(results["one"]["of two"][name][stage], results["one"]["whole"][name])


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("stage", EVERY_STAGE)
def test_two_workers_continue_a_state_of_one_at_every_zero_stage(results, stage, name):
    for rank in results["two"]:
        assert_gone_on(rank["of one"][name][stage], results["one"]["whole"][name])


def test_mutant_that_loses_moments_between_numbers_of_workers_is_caught(results):
    """A continuation with fresh moments, as after a loader that drops them, exceeds the
    tolerance."""
    with pytest.raises(AssertionError):
        assert_gone_on(results["one"]["without moments"], results["one"]["whole"]["adamw"])


def test_states_of_another_configuration_are_refused(results):
    assert "belongs to another configuration or corpus" in results["one"]["other config"]
