"""Damage to the files of training states: every mutation is found and never loaded, and both ranks
resume from the newest intact state."""

import json
import logging
import os
import random
import re
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from memlm import storage
from memlm.slots.accesses import value_pools
from memlm.training.config import PretrainingConfig
from tests.chaos.frame import Outcome, Row
from tests.support.tiny import tiny_model
from tests.training.pretraining.runs import make_blocks, run_steps, save_now, start, states_of

CONFIG = PretrainingConfig(
    num_steps=9, batch_blocks=4, micro_batch_blocks=2, warmup_steps=2, log_every=9, seed=3, zero_stage=1
)
STEPS = (1, 2, 3)


def files_of(folder: Path, step: int) -> list[Path]:
    return sorted(path for path in folder.glob(f"step_{step:08d}_*/*/*") if path.stat().st_size)


def of_another_state(path: Path, step: int, choices: random.Random) -> Path:
    """The file of the same name that belongs to another rank or step."""
    others = [other for number in STEPS for other in files_of(path.parents[2], number)]
    kind = re.split(r"[_.]", path.name)[0]  # fragments, value (pools) or manifest
    return choices.choice([other for other in others if other != path and other.name.startswith(kind)])


def flip(path: Path, step: int, choices: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[choices.randrange(len(content))] ^= 1 << choices.randrange(8)
    path.write_bytes(content)


def cut(path: Path, step: int, choices: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: choices.randrange(path.stat().st_size)])


def zero(path: Path, step: int, choices: random.Random) -> None:
    content = bytearray(path.read_bytes())
    written = [place for place, byte in enumerate(content) if byte]
    first = choices.choice(written)
    last = min(first + choices.randint(1, 64), len(content))
    content[first:last] = bytes(last - first)
    path.write_bytes(content)


def swap(path: Path, step: int, choices: random.Random) -> None:
    """Swap two files, or the whole parts of two ranks with their manifests. Only the newer state
    may be damaged, so the older one keeps its own."""
    if choices.random() < 0.5:
        path.write_bytes(of_another_state(path, step, choices).read_bytes())
        return
    part = path.parent
    others = [other for other in sorted(path.parents[2].glob("step_*/rank_*")) if other != part]
    other = choices.choice(others)
    shutil.rmtree(part)
    shutil.copytree(other, part)


def stale_manifest(path: Path, step: int, choices: random.Random) -> None:
    older = choices.choice([number for number in STEPS if number != step])
    (source,) = path.parents[2].glob(f"step_{older:08d}_*/{path.parent.name}/{storage.MANIFEST}")
    shutil.copy(source, path.parent / storage.MANIFEST)


MUTATIONS: list[Callable[[Path, int, random.Random], None]] = [flip, cut, zero, swap, stale_manifest]


def contents(folder: Path, step: int) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob(f"step_{step:08d}_*/*/*"))}


def mutate(folder: Path, choices: random.Random) -> tuple[int, str]:
    """Damage the newest state, and in one of five cases the one before it too. Returns the newest
    intact state and what was done."""
    victims = [3, 2] if choices.random() < 0.2 else [3]
    done = choices.choice(MUTATIONS)
    for step in victims:
        before = contents(folder, step)
        while contents(folder, step) == before:  # swapping equal files changes nothing
            done(choices.choice(files_of(folder, step)), step, choices)
    return min(victims) - 1, done.__name__


def tensors_of(engine) -> dict[str, torch.Tensor]:
    """The weights that the model works with, including the pools."""
    pools = {f"pool {number}": pool.weight for number, pool in enumerate(value_pools(engine.model.module))}
    return dict(engine.model.module.named_parameters()) | pools


def two_workers(rank: int, folder: str, seed: int, tries: int) -> None:
    from memlm.training.engine import Engine

    start(rank, 2, folder)
    logging.getLogger("memlm").setLevel(logging.ERROR)  # otherwise a line for each mutation found
    warnings.simplefilter("ignore")
    engine = Engine(tiny_model().train(), CONFIG)
    whole, choices = f"{folder}/states", random.Random(seed)
    states, weights = states_of(engine, whole, keep=len(STEPS)), {}
    for step in STEPS:
        run_steps(folder, engine, CONFIG, first_step=step - 1, last_step=step)
        save_now(states, step)
        weights[step] = {name: tensor.clone() for name, tensor in tensors_of(engine).items()}
    outcomes = []
    for number in range(tries):
        mutated = Path(folder, f"mutated_{number}")
        mutation = torch.zeros(1, dtype=torch.int64)
        name = ""
        if rank == 0:
            shutil.copytree(whole, mutated)
            left, name = mutate(mutated, choices)
            mutation[0] = left
        dist.broadcast(mutation, src=0)
        with torch.no_grad():
            for tensor in tensors_of(engine).values():
                tensor.fill_(float("nan"))  # weights that are not loaded stay zero
        step = states_of(engine, str(mutated), start=2).load_newest()
        found = tensors_of(engine)
        same = step in weights and all(torch.equal(tensor, found[key]) for key, tensor in weights[step].items())
        outcomes.append({"mutation": name, "expected": int(mutation), "step": step, "same": same})
        dist.barrier()
        if rank == 0:
            shutil.rmtree(mutated)
    Path(folder, f"outcomes_{rank}.json").write_text(json.dumps(outcomes))
    dist.destroy_process_group()


def rot(seed: int, small: bool) -> Outcome:
    tries = 20 if small else 300
    with tempfile.TemporaryDirectory(prefix="memlm-chaos-") as folder:
        make_blocks(folder)
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        mp.start_processes(two_workers, args=(folder, seed, tries), nprocs=2, start_method="spawn")
        ranks = [json.loads(Path(folder, f"outcomes_{rank}.json").read_text()) for rank in range(2)]
    right = [all(one["same"] and one["step"] == one["expected"] for one in both) for both in zip(*ranks, strict=True)]
    return Outcome(
        tries=len(right),
        survived=sum(right),
        differences=sum(not one["same"] for rank in ranks for one in rank),
        details={"mutations": dict(Counter(one["mutation"] for one in ranks[0]))},
    )


ROWS = [
    Row(
        name="checkpoint_mutations",
        bar="300 mutations, all found, never loaded, newest valid one used",
        tries=300,
        run=rot,
        seconds=90,
        small_seconds=12,
    )
]
