"""Pretraining by DeepSpeed, and of the pools by LazyAdam, on one and on two gloo workers,
against each other and against plain torch."""

from dataclasses import replace

import pytest
import torch

from memlm.training.pretrain import learning_rate_share
from tests.support.tiny import pool_rows
from tests.training.pretraining.plain import assert_same_run, plain_training
from tests.training.pretraining.runs import CONFIG, EVERY_STAGE, OPTIMIZERS

pytestmark = pytest.mark.xdist_group("pretraining")  # they share `results`


@pytest.mark.parametrize(
    "step, share", [(0, 0.25), (1, 0.5), (2, 0.75), (3, 1.0), (4, 1.0), (6, 0.8682), (8, 0.55), (12, 0.1)]
)
def test_learning_rate_share_by_hand(step, share):
    config = replace(CONFIG, num_steps=12, warmup_steps=4, final_learning_rate=0.1)
    assert learning_rate_share(step, config) == pytest.approx(share, abs=1e-4)


def test_without_warm_up_the_rate_starts_at_its_peak_and_falls():
    config = replace(CONFIG, num_steps=10, warmup_steps=0, final_learning_rate=0.0)
    shares = [learning_rate_share(step, config) for step in range(10)]
    assert shares[0] == 1 and shares == sorted(shares, reverse=True) and shares[-1] > 0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_worker_does_what_plain_torch_does(results, name):
    plain = plain_training(results["blocks"], replace(CONFIG, pool_optimizer=name))
    assert plain["losses"][-1] < plain["losses"][0] - 0.2  # it learns, so that equality means something
    assert_same_run(plain, results["one"]["whole"][name])


def test_the_two_optimizers_are_not_the_same(results):
    lazy, dense = (pool_rows(results["one"]["whole"][name]["weights"]) for name in OPTIMIZERS)
    assert ((lazy - dense).abs() > 0.01).any()


def test_a_lazy_step_allocates_nothing_of_the_size_of_the_pool(results):
    largest, pool = results["one"]["allocated"]["lazy_adam"]
    assert 0 < largest < pool / 4
    largest, pool = results["one"]["allocated"]["adamw"]
    assert largest >= pool  # what the measure shows where there is a dense gradient


@pytest.mark.parametrize("stage", EVERY_STAGE[1:])
def test_a_batch_with_a_nan_loss_moves_nothing_under_zero(results, stage):
    before, after = results["one"]["poisoned"][stage]
    assert "num_steps" in before and all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_a_model_trained_by_lazy_adam_is_saved_like_any_other(results):
    saved = results["one"]["saved model"]
    trained, untouched = saved["files"]
    assert trained == untouched and "model.safetensors" in trained
    assert saved["loaded"].keys() == saved["weights"].keys()
    assert all(torch.equal(tensor, saved["loaded"][name]) for name, tensor in saved["weights"].items())


@pytest.mark.parametrize("number", [0, 1])
def test_accumulation_changes_nothing(results, number):
    assert_same_run(results["one"]["accumulated"][number], results["one"]["whole"]["lazy_adam"])


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("stage", EVERY_STAGE)
def test_two_workers_give_the_loss_curve_of_one_at_every_zero_stage(results, stage, name):
    first, second = (rank["stages"][name][stage] for rank in results["two"])
    assert first["losses"] == second["losses"]  # the global batch's loss on both
    assert_same_run(first, results["one"]["whole"][name])
    assert all(torch.equal(weight, second["weights"][name]) for name, weight in first["weights"].items())


@pytest.mark.parametrize("stage", EVERY_STAGE)
def test_slot_usage_is_that_of_the_global_batch_however_it_is_divided(results, stage):
    expected = results["one"]["whole"]["lazy_adam"]["usage"]
    found = results["two"][0]["stages"]["lazy_adam"][stage]["usage"]
    assert [bool(usage) for usage in found] == [False, True, False, True, False, True]
    for usage, wanted in zip(found[1::2], expected[1::2], strict=True):
        assert usage.keys() == {"share_read", "entropy", "top_1_percent"}
        assert usage == pytest.approx(wanted, rel=0.05)
        assert 0 < usage["share_read"] <= 1 and 0 < usage["top_1_percent"] < 1


def test_bf16_is_close_but_not_equal(results):
    whole = results["one"]["whole"]["lazy_adam"]
    assert results["one"]["bf16"]["losses"] == pytest.approx(whole["losses"], rel=0.05)
    assert results["one"]["bf16"]["losses"] != whole["losses"]
