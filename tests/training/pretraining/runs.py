"""Runs of pretraining on one and on two gloo workers, for the tests to compare."""

import os
import resource
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from memlm.data.corpus.blocks import Blocks, write_blocks
from memlm.storage import StorageError
from memlm.training.config import PretrainingConfig
from memlm.training.pretrain import pretrain
from tests.support.tiny import EOS, MEMORIES, MEMORY, PAD, state, tiny_model

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
FEW_STAGES = (0, 3)
"""The stages of `make test`."""
EVERY_STAGE = [stage if stage in FEW_STAGES else pytest.param(stage, marks=pytest.mark.slow) for stage in STAGES]
OPTIMIZERS = ("lazy_adam", "adamw")
ONE_NORM_EPSILON = 0.1
"""Adam's step does not depend on the gradient's scale, so a wrong clip coefficient would hardly
show; with a large epsilon it does."""
ONE_NORM_STEPS = 4
ACTIVE, INACTIVE = 0.3, 1000.0
ONE_NORM_CASES = [(stage, clip, "one layer") for stage in STAGES for clip in (ACTIVE, INACTIVE)] + [
    (0, ACTIVE, "two layers, separate values"),
    (1, ACTIVE, "two layers, shared values"),
    (3, ACTIVE, "two layers, separate values"),
]
EVERY_CASE = [
    pytest.param(number, id=str(case), marks=[] if case[0] in FEW_STAGES else [pytest.mark.slow])
    for number, case in enumerate(ONE_NORM_CASES)
]


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


def one_norm(folder: str, case: tuple[int, float, str], scratch: str) -> dict:
    """A few steps with two micro-batches each, at an epsilon that lets the clip coefficient
    show."""
    from memlm.training import engine as module

    stage, clip, memory = case
    micro_batch = CONFIG.batch_blocks // dist.get_world_size() // 2
    config = replace(CONFIG, zero_stage=stage, clip_norm=clip, micro_batch_blocks=micro_batch)
    usual, module.EPSILON = module.EPSILON, ONE_NORM_EPSILON
    engine = module.Engine(tiny_model(MEMORIES[memory]).train(), config)
    module.EPSILON = usual
    steps = run_steps(folder, engine, config, last_step=ONE_NORM_STEPS)
    Path(scratch).mkdir(parents=True, exist_ok=True)
    dist.barrier()
    engine.save(Path(scratch))
    dist.barrier()
    files = [load_file(path) for path in sorted(Path(scratch).glob("value_pools_*"))]
    moments = {name: torch.cat([file[name] for file in files]) for name in files[0] if "moments" in name}
    saved_by_deepspeed = [
        torch.load(path, weights_only=False) for path in sorted(Path(scratch).rglob("*model_states.pt"))
    ]
    with engine.whole_weights() as model:
        return {
            "losses": [step.loss for step in steps],
            "weights": state(model),
            "moments": moments,
            "num_files": len(files),
            "pools in deepspeed's files": [
                name for saved in saved_by_deepspeed for name in saved["module"] if "value_pools" in name
            ],
        }


class _LargestAllocation(TorchDispatchMode):
    """The largest tensor whose memory is not that of the tensors known before, in bytes."""

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.largest = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        results = operation(*args, **(kwargs or {}))
        for result in results if isinstance(results, tuple | list) else [results]:
            if isinstance(result, Tensor) and result.untyped_storage().data_ptr() not in self.known:
                self.largest = max(self.largest, result.untyped_storage().nbytes())
        return results


def largest_allocation(folder: str, config: PretrainingConfig) -> tuple[int, int]:
    """In the second of two steps with a pool of many slots, reported usage left out; and the
    pool's own size."""
    from memlm.training.engine import Engine

    config = replace(config, log_every=100)
    model = tiny_model(replace(MEMORY, num_half_keys=70)).train()
    engine = Engine(model, config)
    run_steps(folder, engine, config, last_step=1)
    pool = model.model.value_pools[0].weight
    with _LargestAllocation([pool]) as allocations:
        run_steps(folder, engine, config, first_step=1, last_step=2)
    return allocations.largest, pool.untyped_storage().nbytes()


def poisoned(folder: str, stage: int) -> tuple[dict, dict]:
    """The weights and moments before and after a batch whose loss is no number."""
    from memlm.training.engine import Engine

    config = replace(CONFIG, zero_stage=stage)
    engine = Engine(tiny_model().train(), config)
    run_steps(folder, engine, config, last_step=2)

    def everything(name: str) -> dict[str, Tensor]:
        place = Path(folder, f"poisoned_{stage}_{name}")
        place.mkdir()
        engine.save(place)
        with engine.whole_weights() as model:
            return state(model) | load_file(place / "value_pools_0.safetensors")

    before = everything("before")
    for _ in range(engine.num_micro_batches):
        tokens = torch.arange(12).view(2, 6)
        engine.backward(engine.model(input_ids=tokens, use_cache=False).logits.sum() * float("nan"))
        engine.step()
    return before, everything("after")


def saved_model(folder: str, engine) -> dict:
    """What save_pretrained writes of a trained model, and of one that was never trained, with
    the same weights."""
    with engine.whole_weights() as model:
        weights = state(model)
        model.save_pretrained(f"{folder}/trained")
    untouched = tiny_model()
    untouched.load_state_dict(weights)
    untouched.save_pretrained(f"{folder}/untouched")
    loaded = AutoModelForCausalLM.from_pretrained(f"{folder}/trained")
    files = [
        {path.name: path.read_bytes() for path in Path(folder, name).iterdir()} for name in ("trained", "untouched")
    ]
    return {"files": files, "weights": weights, "loaded": state(loaded)}


def resumed(folder: str, config: PretrainingConfig, states: str) -> dict:
    """A run that ends after CUT steps, and its continuation by another process, as far as one
    process can show."""
    from memlm.training.engine import Engine

    first = Engine(tiny_model().train(), config)
    before = run_steps(folder, first, config, last_step=CUT)
    save_now(states_of(first, states), CUT)
    gone_on = gone_on_with(folder, config, states)
    return {**gone_on, "losses": [done.loss for done in before] + gone_on["losses"]}


def gone_on_with(folder: str, config: PretrainingConfig, states: str) -> dict:
    """What another start, with other initial weights, makes of the newest state."""
    from memlm.training.engine import Engine

    engine = Engine(tiny_model(seed=9).train(), config)
    step = states_of(engine, states, start=2).load_newest()
    after = run_steps(folder, engine, config, first_step=step)
    with engine.whole_weights() as model:
        return {"step": step, "losses": [done.loss for done in after], "weights": state(model)}


def for_the_other(folder: str, config: PretrainingConfig, whose: str, stage: int) -> str:
    """States from which the other number of workers continues; the file next to them shows that
    they are complete."""
    return f"{folder}/states/of_{whose}_{config.pool_optimizer}_{stage}_for_the_other"


def save_for_the_other(folder: str, config: PretrainingConfig, whose: str, stage: int) -> None:
    from memlm.training.engine import Engine

    engine, states = Engine(tiny_model().train(), config), for_the_other(folder, config, whose, stage)
    run_steps(folder, engine, config, last_step=CUT)
    save_now(states_of(engine, states), CUT)
    Path(f"{states}.there").touch()


def gone_on_after_the_other(folder: str, config: PretrainingConfig, whose: str, stage: int) -> dict:
    states, deadline = for_the_other(folder, config, whose, stage), time.monotonic() + 120
    while not Path(f"{states}.there").exists():
        assert time.monotonic() < deadline, f"the other workers never saved {states}"
        time.sleep(0.1)
    return gone_on_with(folder, config, states)


def without_moments(folder: str, config: PretrainingConfig) -> dict:
    from memlm.training.engine import Engine

    engine = Engine(tiny_model().train(), config)
    run_steps(folder, engine, config, last_step=CUT)
    engine._optimizer.state.clear()
    steps = run_steps(folder, engine, config, first_step=CUT)
    with engine.whole_weights() as model:
        return {"step": CUT, "losses": [done.loss for done in steps], "weights": state(model)}


def states_of(engine, uri: str, **options):
    from memlm.training.checkpoints.checkpoint import TrainingStates

    return TrainingStates(engine, uri, **{"inputs": INPUTS, **options})


def save_now(states, step: int) -> None:
    states.save(step)
    states.settle(wait=True)


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """Writes of this process beyond the limit fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


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


def two_workers(rank: int, folder: str, stages: Sequence[int]) -> None:
    from memlm.training.engine import Engine

    start(rank, 2, folder)
    for name in OPTIMIZERS:
        for stage in stages:
            save_for_the_other(folder, replace(CONFIG, pool_optimizer=name, zero_stage=stage), "two", stage)
    result = {
        "stages": {
            name: {stage: trained(folder, replace(CONFIG, pool_optimizer=name, zero_stage=stage)) for stage in stages}
            for name in OPTIMIZERS
        },
        "resumed": {
            name: {
                stage: resumed(
                    folder,
                    replace(CONFIG, pool_optimizer=name, zero_stage=stage),
                    f"{folder}/states/of_two_{name}_{stage}",
                )
                for stage in stages
            }
            for name in OPTIMIZERS
        },
        "one norm": {
            number: one_norm(folder, case, f"{folder}/one_norm_of_two/{number}")
            for number, case in enumerate(ONE_NORM_CASES)
            if case[0] in stages
        },
    }
    engine = Engine(tiny_model().train(), CONFIG)
    states = states_of(engine, f"{folder}/incomplete")
    for step in (1, 2):
        run_steps(folder, engine, CONFIG, first_step=step - 1, last_step=step)
        save_now(states, step)
    with no_file_above(4096) if rank == 1 else nullcontext():  # one rank's disk is full
        save_now(states, 3)
    dist.barrier()  # the first rank alone deletes
    result["given up"] = (states.num_failed, sorted(os.listdir(f"{folder}/incomplete")))
    dist.barrier()
    save_now(states, 4)
    if rank == 0:
        shutil.rmtree(f"{folder}/incomplete/step_00000004_start_0001/rank_1_of_2")
    dist.barrier()
    result["incomplete"] = states.load_newest()
    result["of one"] = {
        name: {
            stage: gone_on_after_the_other(folder, replace(CONFIG, pool_optimizer=name, zero_stage=stage), "one", 0)
            for stage in stages
        }
        for name in OPTIMIZERS
    }
    torch.save(result, f"{folder}/of_two_{rank}")
    dist.destroy_process_group()


def one_worker(rank: int, folder: str, stages: Sequence[int]) -> None:
    from memlm.training.engine import Engine

    start(rank, 1, folder)
    whole = replace(CONFIG, micro_batch_blocks=4)
    for name in OPTIMIZERS:
        save_for_the_other(folder, replace(whole, pool_optimizer=name), "one", 0)
    result = {
        "whole": {name: trained(folder, replace(whole, pool_optimizer=name)) for name in OPTIMIZERS},
        "accumulated": [trained(folder, replace(CONFIG, micro_batch_blocks=size)) for size in (1, 2)],
        "bf16": trained(folder, replace(whole, precision="bf16")),
        "resumed": resumed(folder, CONFIG, f"{folder}/states/of_one"),
        "one norm": {
            number: one_norm(folder, case, f"{folder}/one_norm_of_one/{number}")
            for number, case in enumerate(ONE_NORM_CASES)
            if case[0] in stages
        },
        "allocated": {name: largest_allocation(folder, replace(CONFIG, pool_optimizer=name)) for name in OPTIMIZERS},
        "poisoned": {stage: poisoned(folder, stage) for stage in stages if stage},
    }
    engine = Engine(tiny_model().train(), CONFIG)
    result["saved model"] = saved_model(f"{folder}/saved", engine)
    result["without moments"] = without_moments(folder, replace(whole, pool_optimizer="adamw"))
    result["none"] = states_of(engine, f"{folder}/nothing").load_newest()
    other = states_of(engine, f"{folder}/states/of_one", inputs={**INPUTS, "config": "e"})
    result["other config"] = refusal_of(other.load_newest)
    result["of two"] = {
        name: {
            stage: gone_on_after_the_other(folder, replace(whole, pool_optimizer=name), "two", stage)
            for stage in stages
        }
        for name in OPTIMIZERS
    }
    torch.save(result, f"{folder}/of_one_0")
    dist.destroy_process_group()
