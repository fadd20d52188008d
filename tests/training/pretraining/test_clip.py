"""Clipping of pools and other weights by one norm."""

from dataclasses import replace

import pytest
import torch

from tests.training.pretraining.plain import plain_training
from tests.training.pretraining.runs import ACTIVE, CONFIG, EVERY_CASE, ONE_NORM_CASES, ONE_NORM_EPSILON, ONE_NORM_STEPS

pytestmark = pytest.mark.xdist_group("pretraining")  # they share `results`


def assert_same_one_norm(found: dict, plain: dict, clip: float) -> None:
    assert all((norm > clip) == (clip == ACTIVE) for norm in plain["norms"])
    assert found["losses"] == pytest.approx(plain["losses"], rel=1e-5)
    for kind in ("weights", "moments"):
        assert found[kind].keys() == plain[kind].keys()
        for name, tensor in plain[kind].items():
            torch.testing.assert_close(found[kind][name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("number", EVERY_CASE)
def test_pools_and_the_rest_are_clipped_by_one_norm(results, number, num_workers):
    _, clip, memory = ONE_NORM_CASES[number]
    plain = plain_training(
        results["blocks"],
        replace(CONFIG, clip_norm=clip),
        memory=memory,
        epsilon=ONE_NORM_EPSILON,
        num_steps=ONE_NORM_STEPS,
    )
    ranks = [results["one"]] if num_workers == 1 else results["two"]
    for rank in ranks:
        found = rank["one norm"][number]
        assert_same_one_norm(found, plain, clip)
        assert all(
            torch.equal(tensor, ranks[0]["one norm"][number]["weights"][name])
            for name, tensor in found["weights"].items()
        )


def test_mutant_that_clips_the_pools_by_their_own_norm_is_caught(results):
    """The pools' share of the norm is large enough to show in the rest, and the other way round."""
    plain = plain_training(
        results["blocks"], replace(CONFIG, clip_norm=ACTIVE), epsilon=ONE_NORM_EPSILON, num_steps=ONE_NORM_STEPS
    )
    other = plain_training(
        results["blocks"], replace(CONFIG, clip_norm=ACTIVE * 1.02), epsilon=ONE_NORM_EPSILON, num_steps=ONE_NORM_STEPS
    )
    with pytest.raises(AssertionError):
        assert_same_one_norm(other, plain, ACTIVE)


@pytest.mark.parametrize("number", EVERY_CASE)
def test_pools_are_saved_once_and_not_by_deepspeed(results, number):
    """Each rank's file holds a share of the rows: joined they are the moments, whose shape the
    test above compares."""
    assert results["one"]["one norm"][number]["num_files"] == 1
    for rank in (results["one"], *results["two"]):
        assert rank["one norm"][number]["pools in deepspeed's files"] == []
    assert [rank["one norm"][number]["num_files"] for rank in results["two"]] == [2, 2]
