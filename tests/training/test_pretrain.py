"""Pretraining by DeepSpeed on one and on two gloo workers, against each other and against plain torch."""

import os
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F

from memlm.data.blocks import Blocks, batch_ids, write_blocks
from memlm.data.packing import document_positions
from memlm.storage import StorageError
from memlm.training.config import PretrainingConfig
from memlm.training.pretrain import learning_rate_share, pretrain
from tests.tiny import EOS, PAD, state, tiny_model

NUM_BLOCKS, BLOCK_SIZE = 10, 9
CONFIG = PretrainingConfig(
    num_steps=6,
    batch_blocks=4,
    micro_batch_blocks=2,
    learning_rate=0.02,
    value_learning_rate=0.05,
    warmup_steps=2,
    clip_norm=0.5,
    log_every=2,
    seed=3,
)
INPUTS = {"corpus": "c", "config": "d"}
CUT = 3
STAGES = (0, 1, 2, 3)


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


def make_blocks(folder: str) -> None:
    """Blocks with unequal numbers of tokens, so that a mean of means is not the mean."""
    random = np.random.default_rng(0)
    rows = random.integers(0, EOS, (NUM_BLOCKS, BLOCK_SIZE)).astype(np.int32)
    rows[:, 4] = EOS
    for row, length in zip(rows, random.integers(3, BLOCK_SIZE + 1, NUM_BLOCKS), strict=True):
        row[length:] = PAD
    write_blocks(f"{folder}/blocks.parquet", list(rows))


def blocks_in(folder: str) -> Blocks:
    return Blocks([f"{folder}/blocks.parquet"])


def run_steps(
    folder: str, engine, config: PretrainingConfig, first_step: int = 0, last_step: int | None = None
) -> list:
    steps = []
    for step in pretrain(engine, blocks_in(folder), config, first_step=first_step, eos_id=EOS, pad_id=PAD):
        steps.append(step)
        if step.step == last_step:
            break
    return steps


def trained(folder: str, config: PretrainingConfig) -> dict:
    """A whole run from fresh weights."""
    from memlm.training.engine import Engine

    engine = Engine(tiny_model().train(), config)
    steps = run_steps(folder, engine, config)
    with engine.whole_weights() as model:
        return {
            "losses": [step.loss for step in steps],
            "usage": [step.usage for step in steps],
            "weights": state(model),
        }


def resumed(folder: str, config: PretrainingConfig, states: str) -> dict:
    """A run that ends after CUT steps, and another process's going on from what it saved, as far as one process can show."""
    from memlm.training.checkpoint import load_newest_state, save_state
    from memlm.training.engine import Engine

    first = Engine(tiny_model().train(), config)
    before = run_steps(folder, first, config, last_step=CUT)
    save_state(first, states, step=CUT, inputs=INPUTS)
    second = Engine(tiny_model(seed=9).train(), config)
    step = load_newest_state(second, states, inputs=INPUTS)
    after = run_steps(folder, second, config, first_step=step)
    with second.whole_weights() as model:
        return {"step": step, "losses": [done.loss for done in before + after], "weights": state(model)}


def start(rank: int, world_size: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    minute = timedelta(minutes=1)  # rather an error than a hang
    store = f"file://{folder}/store_{world_size}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size, timeout=minute)


def refusal_of(load) -> str:
    try:
        return f"not refused: {load()}"
    except StorageError as error:
        return str(error)


def two_workers(rank: int, folder: str) -> None:
    from memlm.training.checkpoint import load_newest_state, save_state
    from memlm.training.engine import Engine

    start(rank, 2, folder)
    result = {
        "stages": [trained(folder, replace(CONFIG, zero_stage=stage)) for stage in STAGES],
        "resumed": [
            resumed(folder, replace(CONFIG, zero_stage=stage), f"{folder}/states/of_two_{stage}") for stage in STAGES
        ],
    }
    engine = Engine(tiny_model().train(), CONFIG)
    states = f"{folder}/incomplete"
    for step in (1, 2):
        run_steps(folder, engine, CONFIG, first_step=step - 1, last_step=step)
        save_state(engine, states, step=step, inputs=INPUTS)
    dist.barrier()
    if rank == 0:
        shutil.rmtree(f"{states}/step_00000002/rank_1_of_2")
    dist.barrier()
    result["incomplete"] = load_newest_state(engine, states, inputs=INPUTS)
    torch.save(result, f"{folder}/of_two_{rank}")
    dist.destroy_process_group()


def one_worker(rank: int, folder: str) -> None:
    from memlm.training.checkpoint import load_newest_state, save_state
    from memlm.training.engine import Engine

    start(rank, 1, folder)
    whole = replace(CONFIG, micro_batch_blocks=4)
    result = {
        "whole": trained(folder, whole),
        "accumulated": [trained(folder, replace(CONFIG, micro_batch_blocks=size)) for size in (1, 2)],
        "bf16": trained(folder, replace(whole, precision="bf16")),
        "resumed": resumed(folder, CONFIG, f"{folder}/states/of_one"),
    }
    engine, states = Engine(tiny_model().train(), CONFIG), f"{folder}/damaged"
    kept = []
    for step in (1, 2, 3):
        run_steps(folder, engine, CONFIG, first_step=step - 1, last_step=step)
        save_state(engine, states, step=step, inputs=INPUTS)
        kept.append(sorted(path.name for path in Path(states).iterdir() if path.name.startswith("step")))
    result["kept"] = kept
    result["newest"] = load_newest_state(engine, states, inputs=INPUTS)
    (victim,) = [path for path in Path(states).glob("step_00000003/**/*") if path.name.startswith("mp_rank")]
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    result["damaged"] = load_newest_state(engine, states, inputs=INPUTS)
    result["none"] = load_newest_state(engine, f"{folder}/nothing", inputs=INPUTS)
    other = {**INPUTS, "config": "e"}
    result["other config"] = refusal_of(lambda: load_newest_state(engine, f"{folder}/states/of_one", inputs=other))
    result["other world"] = refusal_of(lambda: load_newest_state(engine, f"{folder}/states/of_two_0", inputs=INPUTS))
    torch.save(result, f"{folder}/of_one_0")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict:
    folder = str(tmp_path_factory.mktemp("pretrain"))
    make_blocks(folder)
    for work, world_size in ((two_workers, 2), (one_worker, 1)):
        mp.start_processes(work, args=(folder,), nprocs=world_size, start_method="spawn")
    one = torch.load(f"{folder}/of_one_0", weights_only=False)
    two = [torch.load(f"{folder}/of_two_{rank}", weights_only=False) for rank in range(2)]
    return {"one": one, "two": two, "blocks": blocks_in(folder)}


def plain_training(blocks: Blocks) -> tuple[list[float], dict]:
    """The same run in plain torch: the mean loss over the global batch's tokens, clipped, AdamW with the groups' rates."""
    model = tiny_model().train()
    named = dict(model.named_parameters())
    values = [parameter for name, parameter in named.items() if "value_pools" in name]
    matrices = [parameter for name, parameter in named.items() if parameter.ndim > 1 and "value_pools" not in name]
    vectors = [parameter for parameter in named.values() if parameter.ndim == 1]
    groups = [
        {"params": matrices, "peak": CONFIG.learning_rate, "weight_decay": CONFIG.weight_decay},
        {"params": vectors, "peak": CONFIG.learning_rate, "weight_decay": 0.0},
        {"params": values, "peak": CONFIG.value_learning_rate, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    losses = []
    for step in range(CONFIG.num_steps):
        ids = batch_ids(seed=CONFIG.seed, step=step, batch_size=CONFIG.batch_blocks, num_blocks=NUM_BLOCKS)
        tokens = blocks.take(ids)
        logits = model(input_ids=tokens, position_ids=document_positions(tokens, eos_id=EOS), use_cache=False).logits
        targets = tokens[:, 1:].masked_fill(tokens[:, 1:] == PAD, -100)
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CONFIG.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * learning_rate_share(step, CONFIG)
        optimizer.step()
        losses.append(loss.item())
    return losses, state(model)


def assert_same_run(one: dict, other: dict) -> None:
    """To the tolerance of sums in another order, over steps that amplify it."""
    assert one["losses"] == pytest.approx(other["losses"], rel=2e-4)
    for name, weight in one["weights"].items():
        torch.testing.assert_close(weight, other["weights"][name], rtol=1e-2, atol=2e-3)


def test_one_worker_does_what_plain_torch_does(results):
    losses, weights = plain_training(results["blocks"])
    assert losses[-1] < losses[0] - 0.2  # it learns, so that equality means something
    assert_same_run({"losses": losses, "weights": weights}, results["one"]["whole"])


@pytest.mark.parametrize("number", [0, 1])
def test_accumulation_changes_nothing(results, number):
    assert_same_run(results["one"]["accumulated"][number], results["one"]["whole"])


@pytest.mark.parametrize("stage", STAGES)
def test_two_workers_give_the_loss_curve_of_one_at_every_zero_stage(results, stage):
    first, second = (rank["stages"][stage] for rank in results["two"])
    assert first["losses"] == second["losses"]  # the global batch's loss on both
    assert_same_run(first, results["one"]["whole"])
    assert all(torch.equal(weight, second["weights"][name]) for name, weight in first["weights"].items())


@pytest.mark.parametrize("stage", STAGES)
def test_slot_usage_is_that_of_the_global_batch_whatever_shares_it(results, stage):
    expected = results["one"]["whole"]["usage"]
    found = results["two"][0]["stages"][stage]["usage"]
    assert [bool(usage) for usage in found] == [False, True, False, True, False, True]
    for usage, wanted in zip(found[1::2], expected[1::2], strict=True):
        assert usage.keys() == {"share_read", "entropy", "top_1_percent"}
        assert usage == pytest.approx(wanted, rel=0.05)
        assert 0 < usage["share_read"] <= 1 and 0 < usage["top_1_percent"] < 1


def test_bf16_is_near_and_not_the_same(results):
    assert results["one"]["bf16"]["losses"] == pytest.approx(results["one"]["whole"]["losses"], rel=0.05)
    assert results["one"]["bf16"]["losses"] != results["one"]["whole"]["losses"]


def assert_same_bits(run: dict, undisturbed: dict) -> None:
    assert run["step"] == CUT
    assert run["losses"] == undisturbed["losses"]
    assert all(torch.equal(weight, undisturbed["weights"][name]) for name, weight in run["weights"].items())


def test_a_resumed_run_is_the_undisturbed_one_bit_for_bit(results):
    assert_same_bits(results["one"]["resumed"], results["one"]["accumulated"][1])


@pytest.mark.parametrize("stage", STAGES)
def test_a_resumed_run_of_two_workers_is_the_undisturbed_one_bit_for_bit(results, stage):
    for rank in results["two"]:
        assert_same_bits(rank["resumed"][stage], rank["stages"][stage])


def test_the_newest_two_states_are_kept(results):
    assert results["one"]["kept"] == [
        ["step_00000001"],
        ["step_00000001", "step_00000002"],
        ["step_00000002", "step_00000003"],
    ]
    assert results["one"]["newest"] == 3


def test_a_damaged_state_is_passed_over_for_the_one_before(results):
    assert results["one"]["damaged"] == 2


def test_a_state_that_lacks_a_rank_is_passed_over_for_the_one_before(results):
    assert [rank["incomplete"] for rank in results["two"]] == [1, 1]


def test_without_a_state_a_run_starts_at_the_beginning(results):
    assert results["one"]["none"] == 0


def test_states_of_another_number_of_workers_are_refused(results):
    assert "another number of workers (rank_0_of_2), and this run has 1" in results["one"]["other world"]
    assert "cluster.num_workers" in results["one"]["other world"]


def test_states_of_another_configuration_are_refused(results):
    assert "belongs to another configuration or corpus" in results["one"]["other config"]
