"""Pretraining on four gloo workers with the pools' columns split between all, between two and
not at all: the same run, kept and exported."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from memlm.model import column_split
from memlm.model.column_split import split_over_ranks
from memlm.training.config import PretrainingConfig
from tests.support.ranks import run_ranks
from tests.support.tiny import MEMORIES, random_batch, state, tiny_model
from tests.training.pretraining.runs import CONFIG as PRETRAINING
from tests.training.pretraining.runs import make_blocks, run_steps, start

NUM_WORKERS, EPSILON = 4, 0.1
CONFIG = replace(PRETRAINING, batch_blocks=8, micro_batch_blocks=1, num_steps=4, log_every=4)
"""Two micro-batches a step, clipped in each."""
CASES = {
    "separate, ZeRO 0": ("two layers, separate values", 0),
    "shared, ZeRO 3": ("two layers, shared values", 3),
}
"""Memory and ZeRO stage. The unsplit run is one of stage 0 in both, since all stages give the same
result to rounding: stage 3 is slow to set up."""
SPLITS = {"separate, ZeRO 0": (1, 2, 4), "shared, ZeRO 3": (1, 4)}
KEPT = "separate, ZeRO 0"
"""The case whose states are kept in the middle."""
CHANGES = ((2, 4), (4, 1), (1, 2))
"""Splits at which a state is written and read."""
CUT = 2


def new_engine(case: str, pool_split: int, *, seed: int = 0):
    from memlm.training import engine as module

    memory, stage = CASES[case]
    config = replace(CONFIG, zero_stage=stage if pool_split > 1 else 0, pool_split=pool_split)
    model = tiny_model(replace(MEMORIES[memory], value_dim=12), seed=seed, split=split_over_ranks(pool_split))
    usual, module.EPSILON = module.EPSILON, EPSILON
    try:
        return module.Engine(model.train(), config)
    finally:
        module.EPSILON = usual


def tables_of(engine) -> list[tuple[slice, list[Tensor]]]:
    """The columns of each pool that this rank holds, with their values and moments."""
    optimizer = engine._pool_optimizer
    return [
        (pool.columns, [matrix.clone() for matrix in table])
        for pool, table in zip(optimizer.pools, optimizer._tables, strict=True)
    ]


def export(engine, folder: Path, *, shard: str = "") -> None:
    """As one file next to the tables' files, or several."""
    if shard:
        model = engine._engine.module
        model.save_pretrained = partial(model.save_pretrained, max_shard_size=shard)
    engine.export(folder if dist.get_rank() == 0 else None)


def run(folder: Path, case: str, pool_split: int) -> dict:
    """A whole run."""
    engine = new_engine(case, pool_split)
    steps = run_steps(str(folder), engine, engine.config, last_step=CUT)
    if case == KEPT:
        state = folder / "states" / str(pool_split)
        state.mkdir(parents=True, exist_ok=True)
        engine.save(state)
        dist.barrier()
    saved = tables_of(engine)
    steps += run_steps(str(folder), engine, engine.config, first_step=CUT)
    export(engine, folder / "exported" / f"{case} {pool_split}", shard="4KB" if case.startswith("shared") else "")
    return {
        "losses": [step.loss for step in steps],
        "usage": steps[-1].usage,
        "saved": saved,
        "tables": tables_of(engine),
        "norm": engine._pool_norm,
    }


def go_on(folder: Path, written: int, read: int) -> dict:
    engine = new_engine(KEPT, read, seed=9)
    engine.load(folder / "states" / str(written))
    loaded = tables_of(engine)
    steps = run_steps(str(folder), engine, engine.config, first_step=CUT)
    return {"losses": [done.loss for done in steps], "loaded": loaded, "tables": tables_of(engine)}


def refusal_of(config: PretrainingConfig) -> str:
    from memlm.training.engine import Engine

    with pytest.raises(ValueError) as refused:
        Engine(tiny_model(), config)
    return str(refused.value)


def work(rank: int, folder: str) -> None:
    start(rank, NUM_WORKERS, folder)
    column_split.CHUNK_BYTES = 4 * 12 * 20  # several chunks of 16 rows
    results = {
        "runs": {case: {parts: run(Path(folder), case, parts) for parts in SPLITS[case]} for case in CASES},
        "changed": [go_on(Path(folder), *change) for change in CHANGES],
        "built whole": refusal_of(replace(CONFIG, pool_split=2)),
    }
    torch.save(results, f"{folder}/rank_{rank}")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("split")
    make_blocks(str(folder))
    (folder / "exported").mkdir()
    run_ranks(work, str(folder), number=NUM_WORKERS)
    return folder


@pytest.fixture(scope="module")
def ranks(folder) -> list[dict]:
    return [torch.load(folder / f"rank_{rank}", weights_only=False) for rank in range(NUM_WORKERS)]


def whole(of_ranks: list[list[tuple[slice, list[Tensor]]]]) -> list[Tensor]:
    """The pools' matrices put together from what the ranks hold; what several hold must be the
    same to the bit."""
    matrices = []
    for pools in zip(*of_ranks, strict=True):
        for parts in zip(*[[(columns, matrix) for matrix in table] for columns, table in pools], strict=True):
            matrix = torch.full((len(parts[0][1]), 12), float("nan"))
            for columns, part in parts:
                here = matrix[:, columns]
                assert here.isnan().all() or torch.equal(here, part)
                here.copy_(part)
            assert not matrix.isnan().any()
            matrices.append(matrix)
    return matrices


def close(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(
        torch.allclose(*pair, rtol=1e-4, atol=1e-6) for pair in zip(one, other, strict=True)
    )


def loaded(folder: Path, case: str, pool_split: int) -> dict[str, Tensor]:
    return state(AutoModelForCausalLM.from_pretrained(folder / "exported" / f"{case} {pool_split}"))


every_case = pytest.mark.parametrize("case", CASES)
every_change = pytest.mark.parametrize("number", range(len(CHANGES)), ids=map(str, CHANGES))


@every_case
def test_splitting_the_pools_does_not_change_a_run(ranks, case):
    unsplit, *others = ([rank["runs"][case][parts] for rank in ranks] for parts in SPLITS[case])
    assert len(set(unsplit[0]["losses"])) == CONFIG.num_steps
    for split in others:
        for of_rank in split:
            assert of_rank["losses"] == pytest.approx(unsplit[0]["losses"], rel=1e-5)
            assert of_rank["usage"] == pytest.approx(unsplit[0]["usage"], rel=1e-6)
            assert float(of_rank["norm"]) == pytest.approx(float(unsplit[0]["norm"]), rel=1e-4)
            assert torch.equal(of_rank["norm"], split[0]["norm"])
        assert close(whole([rank["tables"] for rank in split]), whole([rank["tables"] for rank in unsplit]))


@every_case
def test_each_rank_holds_its_columns_alone(ranks, case):
    for parts in SPLITS[case]:
        for position, rank in enumerate(ranks):
            for columns, table in rank["runs"][case][parts]["tables"]:
                assert columns == slice(position % parts * 12 // parts, (position % parts + 1) * 12 // parts)
                assert {tuple(matrix.shape) for matrix in table} == {(81, 12 // parts)}


@every_case
def test_the_exported_checkpoint_is_the_whole_model(folder, ranks, case):
    unsplit = loaded(folder, case, 1)
    for parts in SPLITS[case]:
        exported = loaded(folder, case, parts)
        assert exported.keys() == unsplit.keys()
        for name, tensor in unsplit.items():
            torch.testing.assert_close(exported[name], tensor, rtol=1e-4, atol=1e-5)
        tables = whole([rank["runs"][case][parts]["tables"] for rank in ranks])[::3]  # values, without their moments
        pools = [tensor for name, tensor in exported.items() if "value_pools" in name]
        assert len(pools) == len(tables) and all(torch.equal(*pair) for pair in zip(pools, tables, strict=True))


def test_the_exported_checkpoint_answers_as_any_other(folder):
    inputs = random_batch(0).tokens
    with torch.no_grad():
        logits = [
            AutoModelForCausalLM.from_pretrained(folder / "exported" / f"{KEPT} {parts}")(input_ids=inputs).logits
            for parts in SPLITS[KEPT]
        ]
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(logits[2], logits[0], rtol=1e-3, atol=1e-4)


@every_case
def test_the_exported_files_hold_each_tensor_once_and_a_table_in_one_piece(folder, case):
    names: list[str] = []
    exported = folder / "exported" / f"{case} {SPLITS[case][-1]}"
    for path in exported.glob("*.safetensors"):
        tensors = load_file(path)
        names += tensors
        if path.name.startswith("value_pools"):
            assert [tuple(tensor.shape) for tensor in tensors.values()] == [(81, 12)]
    assert sorted(names) == sorted(loaded(folder, case, 1))
    index = json.loads((exported / "model.safetensors.index.json").read_text())
    total = sum(tensor.nbytes for path in exported.glob("*.safetensors") for tensor in load_file(path).values())
    assert index["metadata"]["total_size"] == total and sorted(index["weight_map"]) == sorted(names)
    several = len(list(exported.glob("model-*.safetensors")))
    assert (several > 1) == case.startswith("shared")


@every_change
def test_a_training_state_continues_at_another_split_to_the_bit(ranks, number):
    written, read = CHANGES[number]
    saved = whole([rank["runs"][KEPT][written]["saved"] for rank in ranks])
    found = [rank["changed"][number] for rank in ranks]
    assert all(torch.equal(*pair) for pair in zip(whole([rank["loaded"] for rank in found]), saved, strict=True))
    undisturbed = [rank["runs"][KEPT][read] for rank in ranks]
    assert found[0]["losses"] == pytest.approx(undisturbed[0]["losses"][CUT:], rel=1e-5)
    assert close(whole([rank["tables"] for rank in found]), whole([rank["tables"] for rank in undisturbed]))


def test_the_clip_is_at_work_and_the_pools_have_a_share_in_it(ranks):
    """So that a norm counted twice, or in parts, would have shown above."""
    for case in CASES:
        assert float(ranks[0]["runs"][case][1]["norm"]) > 0.1 * CONFIG.clip_norm


def test_a_model_built_without_a_split_is_refused_for_split_pools(ranks):
    for rank in ranks:
        assert (
            "pretraining.pool_split is 2, and the model was built with pools split over 1 ranks" in rank["built whole"]
        )
