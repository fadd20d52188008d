"""Invariant 3 over processes: two gloo ranks with unequal shares of a batch do what one process
does with all of it."""

from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from memlm.data.questions.facts import FactBatch
from memlm.methods.config import OptimizerConfig
from memlm.methods.full import FullConfig, FullFinetuning
from memlm.methods.method import LearningInputs
from memlm.methods.parts import sparse_memory_finetuning
from memlm.methods.registry import METHOD_CONFIGS
from memlm.methods.sparse_memory import SparseMemoryConfig
from memlm.slots.accesses import accesses_of
from memlm.slots.counts import BackgroundCounts, SlotCounts, merge_over_ranks
from memlm.training.step import finetune_step
from tests.support.ranks import run_ranks
from tests.support.tiny import (
    MEMORIES,
    PAD,
    background_reads,
    changed_rows,
    plain_selection,
    pool_rows,
    random_background,
    random_batch,
    random_statements,
    rows_of,
    sparse_config,
    state,
    tiny_model,
)

CHUNKS = (slice(0, 2), slice(2, 3), slice(3, 4))
BATCHES_OF_RANK = ((0, 2), (1,))
SEEDS = (0, 1)


def steps(case, batches_of_step):
    """The reports and the weights after a few steps; each step's batches are given as
    micro-batches."""
    memory, kind = case
    if kind == "full":
        model = tiny_model(dense=True)
        method = FullFinetuning(model, FullConfig(optimizer=OptimizerConfig(kind="sgd", learning_rate=0.1)))
    elif kind.startswith(("decorrelated", "curvature")):
        model = tiny_model(MEMORIES[memory])
        optimizer = OptimizerConfig(kind="sgd", learning_rate=1.5)
        name, t = kind.split()
        config = METHOD_CONFIGS[f"sparse_memory_{name}"](num_trainable_slots=int(t), optimizer=optimizer)
        inputs = LearningInputs(
            background=random_background(model),
            seed=0,
            reads=background_reads(model),
            statements=random_statements,
        )
        method = config.build(model, inputs)
    else:
        model = tiny_model(MEMORIES[memory])
        config = SparseMemoryConfig(num_trainable_slots=6, ranking=kind, optimizer=sparse_config().optimizer)
        method = sparse_memory_finetuning.SparseMemoryFinetuning(model, config, random_background(model), seed=0)
    results = [finetune_step(method, batches) for batches in batches_of_step]
    return [result.report for result in results], [result.loss for result in results], state(model)


CASES = [
    *((memory, "tfidf") for memory in MEMORIES),
    *(("one layer", kind) for kind in ("random", "full", "decorrelated 6", "decorrelated 0", "curvature 0")),
    *(("two layers, separate values", kind) for kind in ("decorrelated 6", "curvature 6")),
]


def micro_batches(seed, numbers=(0, 1, 2)):
    batches = rows_of(random_batch(seed), *CHUNKS)
    return [batches[number] for number in numbers]


def pads(fact_id="fact 0"):
    """A share of a batch in which there is nothing to learn."""
    return FactBatch(fact_id, torch.full((2, 4), PAD), torch.zeros(2, 4, dtype=torch.bool))


def refusal(case):
    """The error on a rank if no rank's share has a token to predict."""
    with pytest.raises(ValueError) as refused:
        steps(case, [[pads()]])
    return str(refused.value)


def background(batch):
    model = tiny_model()
    return BackgroundCounts.of_batch(accesses_of(model, input_ids=batch.tokens), batch.is_token, num_slots=81)


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    minute = timedelta(minutes=1)  # rather an error than a hang
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=minute)
    mine = [micro_batches(seed, BATCHES_OF_RANK[rank]) for seed in SEEDS]
    some = SlotCounts(torch.tensor([3, 8]), torch.tensor([1, 5]))
    none = SlotCounts(*torch.empty(2, 0, dtype=torch.int64))
    result = {
        "cases": [steps(case, mine) for case in CASES],
        "one share empty": [
            steps(case, [(micro_batches(seed), [pads(f"fact {seed}")])[rank] for seed in SEEDS]) for case in CASES
        ],
        "all shares empty": [refusal(case) for case in CASES],
        "merged": [tuple(merge_over_ranks(counts)) for counts in ((some, some), (none, some))[rank]],
    }
    for number, batch in enumerate(mine[0]):
        background(batch).save(Path(folder, f"background_{rank}_{number}"))
    sparse_memory_finetuning.merge_over_ranks = lambda counts: counts  # the mutant: each rank selects for itself
    result["mutant"] = steps(CASES[0], mine)
    torch.save(result, Path(folder, f"rank_{rank}"))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(work, str(folder), number=2)
    return folder, [torch.load(folder / f"rank_{rank}") for rank in range(2)]


def check_ranks_equal_one_process(case, of_ranks):
    reports, losses, weights = steps(case, [micro_batches(seed) for seed in SEEDS])
    before = state(tiny_model(MEMORIES[case[0]], dense=case[1] == "full"))
    for rank_reports, rank_losses, rank_weights in of_ranks:
        assert rank_reports == reports
        assert rank_losses == pytest.approx(losses)
        for name in weights:
            torch.testing.assert_close(rank_weights[name], weights[name])
            assert torch.equal(rank_weights[name], of_ranks[0][2][name])  # the ranks agree to the bit
        if case[1] != "full":
            assert changed_rows(before, rank_weights) == changed_rows(before, weights)


@pytest.mark.parametrize("number", range(len(CASES)), ids=map(str, CASES))
def test_two_ranks_equal_one_process(ranks, number):
    check_ranks_equal_one_process(CASES[number], [rank["cases"][number] for rank in ranks[1]])


@pytest.mark.parametrize("number", range(len(CASES)), ids=map(str, CASES))
def test_a_rank_with_an_empty_share_continues_like_the_others(ranks, number):
    check_ranks_equal_one_process(CASES[number], [rank["one share empty"][number] for rank in ranks[1]])


def test_a_batch_that_is_empty_on_all_ranks_is_refused_on_all(ranks):
    for rank in ranks[1]:
        assert len(rank["all shares empty"]) == len(CASES)
        assert all("no token to predict" in message for message in rank["all shares empty"])


def test_the_first_selection_is_the_plain_one():
    """The reference that the ranks are compared with is right."""
    model = tiny_model()
    selected = plain_selection(model, [random_batch(0)], random_background(model), 6)
    _, _, weights = steps(CASES[0], [micro_batches(0)])
    assert changed_rows(state(model), weights) == selected
    assert len(pool_rows(weights)) == 81


def test_mutant_that_selects_on_each_rank_separately_is_caught(ranks):
    with pytest.raises(AssertionError):
        check_ranks_equal_one_process(CASES[0], [rank["mutant"] for rank in ranks[1]])


def test_counts_add_up_over_ranks_even_if_one_has_none(ranks):
    for rank in ranks[1]:
        slots, counts = rank["merged"][0]
        assert (slots.tolist(), counts.tolist()) == ([3, 8], [1, 5])
        slots, counts = rank["merged"][1]
        assert (slots.tolist(), counts.tolist()) == ([3, 8], [2, 10])


def test_background_counts_of_the_ranks_add_up_to_those_of_one_process(ranks):
    folder, _ = ranks
    parts = [BackgroundCounts.load(path) for path in sorted(folder.glob("background_*"))]
    assert len(parts) == len(CHUNKS)
    expected = sum((background(batch) for batch in micro_batches(0)), start=BackgroundCounts.zero(81))
    for order in (parts, parts[::-1]):
        merged = sum(order, start=BackgroundCounts.zero(81))
        for name in ("batch_frequency", "sequence_frequency", "accesses"):
            assert torch.equal(getattr(merged, name), getattr(expected, name))
        assert merged.num_batches == expected.num_batches == 3
        assert merged.num_sequences == 4 and merged.num_tokens == 21
