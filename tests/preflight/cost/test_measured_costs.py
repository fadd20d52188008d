"""The plan against measurement, at laptop scale: each within a quarter."""

from dataclasses import replace

import pytest
import torch
import torch.multiprocessing as mp

from memlm.model.kernels import reference
from memlm.model.language_model import build_model, count_parameters, model_config
from memlm.preflight.cost.model import sizes_of, work_of
from memlm.preflight.cost.training import distinct_rows
from memlm.recipes import RECIPES
from tests.preflight.cost.measuring import (
    ALONE,
    LARGER,
    SMALL,
    STAGES,
    counted_flops,
    kept_activations,
    measure_rank,
    measure_steps,
    pretraining_of,
    reads_spread_by,
)

QUARTER = 0.25


def layers_of(config, layers, share_values=True):
    memory = replace(config.model.memory, layers=layers, share_values=share_values)
    return replace(config, model=replace(config.model, memory=memory))


SHAPES = {
    "small": SMALL,
    "larger": LARGER,
    "two layers, one pool": layers_of(SMALL, (0, 2)),
    "two layers, two pools": layers_of(SMALL, (0, 2), share_values=False),
    "tied": replace(SMALL, model=replace(SMALL.model, tie_embeddings=True)),
    **{name: RECIPES[name]() for name in ("laptop", "wiki", "laptop_layers", "smoke")},
}


@pytest.mark.parametrize("name", [*SHAPES, "paper_1b"])
@pytest.mark.parametrize("architecture", ["memory", "dense"])
def test_parameters_are_those_of_the_model(name, architecture):
    model = (SHAPES.get(name) or RECIPES[name]()).model
    with torch.device("meta"):
        built = build_model(model_config(model, dense=architecture == "dense", vocab_size=700), seed=0)
    counted, planned = count_parameters(built), sizes_of(model, 700, architecture)
    assert (planned.base, planned.pool, planned.active) == (counted.base, counted.pool, counted.active)


@pytest.mark.parametrize("name", ["small", "larger", "two layers, one pool"])
@pytest.mark.parametrize("dense", [False, True])
def test_flops_equal_torchs_count(name, dense):
    config = SHAPES[name]
    work = work_of(config.model, config.corpus.vocab_size, config.corpus.block_size, "dense" if dense else "memory")
    products = sum(part.step for part in work.values() if part.unit != "rows")
    tokens = config.pretraining.micro_batch_blocks * config.corpus.block_size
    assert tokens * products == pytest.approx(counted_flops(config, dense=dense), rel=QUARTER)


def test_flops_of_the_weighted_read_are_those_of_its_definition():
    """Whose plain form multiplies matrices, which torch counts."""
    memory = SMALL.model.memory
    reads = memory.num_heads * memory.top_k
    values = torch.randn(memory.num_slots, memory.value_dim).bfloat16()
    slots = torch.randint(0, memory.num_slots, (40, reads))
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        reference.read(values, slots, torch.rand(40, reads))
    planned = work_of(SMALL.model, 512, 64, "memory")["weighted read"].forward
    assert 40 * planned == pytest.approx(counter.get_total_flops(), rel=0.01)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("attention, machine", [("eager", "cpu"), ("sdpa", "h100")])
@pytest.mark.parametrize("dense", [False, True])
def test_activations_equal_those_kept_by_autograd(precision, attention, machine, dense):
    config = replace(LARGER, pretraining=replace(LARGER.pretraining, precision=precision))
    planned = pretraining_of(config, architecture="dense" if dense else "memory", machine=machine).activations()
    assert planned == pytest.approx(kept_activations(config, dense=dense, attention=attention), rel=QUARTER)


@pytest.mark.parametrize(
    "reads, slots, share", [(131_072, 36_864, 0.484), (131_072, 65_536, 0.514)], ids=["laptop", "wiki"]
)
def test_rows_read_by_trained_models(reads, slots, share):
    """slots/share_read at the last step of the recipe's pretraining: 4,096 tokens of 32 reads."""
    assert distinct_rows(reads, slots) / slots == pytest.approx(share, rel=QUARTER)


def test_rows_read_never_exceed_slots_or_reads():
    for reads in (1, 1e3, 1e6, 1e9):
        assert 0 < distinct_rows(reads, 4096) <= min(reads, 4096) * 1.0001


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    mp.start_processes(measure_rank, args=(str(folder),), nprocs=2, start_method="spawn")
    return [torch.load(folder / f"rank_{rank}") for rank in range(2)]


def mean(ranks, stage, what):
    """Over both: where DeepSpeed deals out whole parameters, one rank may have more than its
    half."""
    return sum(rank[stage][what] for rank in ranks) / len(ranks)


def plan_of_rank(ranks, stage):
    config = replace(SMALL, pretraining=replace(SMALL.pretraining, zero_stage=stage))
    return pretraining_of(config, devices=2), reads_spread_by(mean(ranks, stage, "spread"))


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_memory_of_a_rank(ranks, stage):
    """When gradients are whole: of the pools exactly, and of the engine's part within a quarter,
    the logits of the last micro-batch aside."""
    plan, _ = plan_of_rank(ranks, stage)
    parts = plan.memory()
    columns, pool = SMALL.model.memory.value_dim, parts["pool values"] + parts["pool moments"]
    assert pool == 12 * SMALL.model.memory.num_slots * columns
    rows, logits = mean(ranks, stage, "rows of a rank") * (8 + 4 * columns), 4 * plan.micro_tokens * plan.vocab_size
    engine = mean(ranks, stage, "held") - pool - rows - logits
    assert parts["weights"] + parts["gradients"] + parts["optimizer"] == pytest.approx(engine, rel=QUARTER)
    assert mean(ranks, stage, "bucket") in (0, parts["ZeRO's bucket"])


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_rows_that_a_step_reads(ranks, stage):
    plan, uneven = plan_of_rank(ranks, stage)
    with uneven:
        assert plan.rows_read(plan.rank_tokens) == pytest.approx(mean(ranks, stage, "rows of a rank"), rel=QUARTER)
        assert plan.rows_read(plan.step_tokens) == pytest.approx(mean(ranks, stage, "rows of a step"), rel=QUARTER)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_bytes_received_by_a_rank_in_a_step(ranks, stage):
    plan, uneven = plan_of_rank(ranks, stage)
    with uneven:
        planned = sum(plan.network().values())
    assert planned == pytest.approx(mean(ranks, stage, "received"), rel=QUARTER)


@pytest.mark.slow
def test_bytes_received_by_a_rank_for_split_columns(ranks):
    """Lookups are gathered forward; outputs and the lookups' gradient are exchanged. What else
    is gathered are single numbers."""
    alone, _ = plan_of_rank(ranks, 0)
    plan = replace(alone, layout=replace(alone.layout, split=2))
    lookups, outputs = plan.split_reads().values()
    assert mean(ranks, -1, "gathered") == pytest.approx(12 / 16 * lookups, rel=0.01)
    assert mean(ranks, -1, "exchanged") == pytest.approx(outputs + 4 / 16 * lookups, rel=0.01)
    assert sum(plan.network().values()) == pytest.approx(mean(ranks, -1, "received"), rel=QUARTER)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_size_of_a_training_state(ranks, stage):
    plan, _ = plan_of_rank(ranks, stage)
    assert plan.state_bytes() == pytest.approx(ranks[0][stage]["state"], rel=QUARTER)


@pytest.mark.slow
def test_the_utilisation_of_one_step_predicts_the_time_of_another_shape(tmp_path):
    mp.start_processes(measure_steps, args=(str(tmp_path),), nprocs=1, start_method="spawn")
    small, larger = torch.load(tmp_path / "seconds")
    at_peak = pretraining_of(ALONE).seconds(1.0)
    utilisation = at_peak["products"] / (small - at_peak["rows"])
    assert sum(pretraining_of(LARGER).seconds(utilisation).values()) == pytest.approx(larger, rel=QUARTER)
