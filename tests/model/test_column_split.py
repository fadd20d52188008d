"""A table whose columns are split over gloo ranks gives the same reads, gradients and training as
the whole table in one process."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor

from memlm.model import column_split
from memlm.model.column_split import ColumnSplit, row_chunks, split_over_ranks
from memlm.model.kernels import RowGradient
from memlm.model.memory import MemoryLayer, ValuePool
from memlm.model.weighted_read import RowGradients
from memlm.training.row_sparse import LazyAdam
from tests.support.ranks import run_ranks

NUM_SLOTS, VALUE_DIM, HIDDEN, TOKENS = 81, 24, 12, 7
LAYER = {"hidden_size": HIDDEN, "num_half_keys": 9, "top_k": 3, "num_heads": 2, "key_dim": 6, "query_norm": True}
SPLITS = [(2, 2), (4, 4), (4, 2)]
"""Total number of ranks, and number of ranks that share the columns."""
READ_BY = {(2, 2): ("whole, 2",), (4, 4): ("2 on 2",), (4, 2): ("4 on 4", "whole, 4")}
"""Saved state that the ranks of each split read after their steps; it was written at another
split."""
SAVED = ("whole, 2", "whole, 4", "2 on 2", "4 on 4", "2 on 4")
RATE, EPSILON = 0.05, 0.1
NUM_STEPS = 3
every_split = pytest.mark.parametrize("split", SPLITS, ids=lambda split: f"{split[1]} parts on {split[0]} ranks")


@dataclass
class Inputs:
    """Inputs of one rank at one step. The last token has no gradient, like the last of a block."""

    hidden: Tensor
    grad_output: Tensor

    @classmethod
    def of(cls, rank: int, step: int) -> "Inputs":
        generator = torch.Generator().manual_seed(100 * step + rank)
        hidden, grad_output = torch.randn(2, TOKENS, HIDDEN, generator=generator)
        grad_output[-1] = 0
        return cls(hidden, grad_output)

    @classmethod
    def of_all(cls, ranks: range, step: int) -> "Inputs":
        each = [cls.of(rank, step) for rank in ranks]
        return cls(torch.cat([one.hidden for one in each]), torch.cat([one.grad_output for one in each]))


def new_layer(split: ColumnSplit | None = None, *, seed: int = 0) -> MemoryLayer:
    torch.manual_seed(seed)
    pool = ValuePool(NUM_SLOTS, VALUE_DIM, split)
    layer = MemoryLayer(pool, **LAYER)
    for module in (pool, layer):
        module.reset_parameters()
    return layer


def gradients_of(layer: MemoryLayer, inputs: Inputs) -> dict[str, Tensor]:
    """The output, and all gradients except the table's; the gradients of its rows stay in the
    pool's list."""
    layer.zero_grad()
    hidden = inputs.hidden.clone().requires_grad_(True)
    output = layer(hidden)
    output.backward(inputs.grad_output)
    parameters = {
        name: parameter.grad.clone() for name, parameter in layer.named_parameters() if not name.startswith("pool.")
    }
    return {"output": output.detach(), "hidden": hidden.grad, **parameters}


def lopsided(columns: slice) -> RowGradient:
    """A gradient of all rows that is zero outside the first columns in every second row, and zero
    everywhere in the last row."""
    rows = torch.ones(NUM_SLOTS, VALUE_DIM)
    rows[::2, 4:] = 0
    rows[-1] = 0
    return RowGradient(torch.arange(NUM_SLOTS), rows[:, columns].contiguous())


def trained(layer: MemoryLayer, ranks: range, own: int | None, states: Path, name: str) -> dict[str, object]:
    """The results of a few steps of the table alone, each on the inputs of these ranks, or on this
    rank's own share.

    The final state is saved under the given name.
    """
    optimizer = LazyAdam([layer.pool], betas=(0.9, 0.95), epsilon=EPSILON)
    steps = []
    for step in range(NUM_STEPS):
        inputs = Inputs.of_all(ranks, step) if own is None else Inputs.of(own, step)
        found = gradients_of(layer, inputs)
        (row_gradient,) = layer.pool.gradient_target.parts
        optimizer.compact()
        norm = optimizer.merge()
        optimizer.step(learning_rate=RATE, gradient_scale=0.5)
        table = [matrix.clone() for matrix in optimizer._tables[0]]
        steps.append({"found": found, "row gradient": tuple(row_gradient[:2]), "norm": norm, "table": table})
    optimizer.save(states / name)
    dist.barrier()
    in_first_group = own is None or own < layer.pool.split.num_parts
    layer.pool.gradient_target = RowGradients([lopsided(layer.pool.columns)] if in_first_group else [])
    optimizer.merge()
    optimizer.step(learning_rate=RATE, gradient_scale=0.5)
    return {"columns": layer.pool.columns, "steps": steps, "after a lopsided step": list(optimizer._tables[0])}


def loaded(split: ColumnSplit | None, state: Path) -> list[Tensor]:
    """Table and moments of a fresh layer after loading, followed by the number of steps."""
    optimizer = LazyAdam([new_layer(split, seed=9).pool], betas=(0.9, 0.95), epsilon=EPSILON)
    optimizer.load(state)
    return [*optimizer._tables[0], torch.tensor(optimizer.num_steps)]


def of_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    minute = timedelta(minutes=1)  # so that a fault is an error instead of a hang
    results = {}
    for number, (world_size, parts) in enumerate(SPLITS):
        if rank >= world_size:
            continue
        store = f"file://{folder}/store_{number}"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size, timeout=minute)
        split = split_over_ranks(parts)
        results[world_size, parts] = trained(
            new_layer(split), range(world_size), rank, Path(folder), f"{parts} on {world_size}"
        )
        results[world_size, parts]["loaded"] = {
            name: loaded(split, Path(folder, name)) for name in READ_BY[world_size, parts]
        }
        if number == 0:
            results["refused"] = [refusal(lambda: split_over_ranks(3)), refusal(dense_backward(split))]
        dist.destroy_process_group()
    torch.save(results, f"{folder}/rank_{rank}")


def refusal(call) -> str:
    try:
        return f"not refused: {call()}"
    except ValueError as error:
        return str(error)


def dense_backward(split: ColumnSplit):
    return lambda: new_layer(split)(torch.zeros(TOKENS, HIDDEN))


@pytest.fixture(scope="module")
def states(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("states")
    for name in SAVED:
        (folder / name).mkdir()
    return folder


@pytest.fixture(scope="module")
def ranks(states, whole) -> list[dict]:
    folder = states
    run_ranks(of_rank, str(folder), number=4)
    return [torch.load(folder / f"rank_{rank}", weights_only=False) for rank in range(4)]


@pytest.fixture(scope="module")
def whole(states, one_rank) -> dict[int, dict]:
    """One process with the tokens of 2 and of 4 ranks."""
    return {
        world_size: trained(new_layer(), range(world_size), None, states, f"whole, {world_size}")
        for world_size in (2, 4)
    }


def rows_of(rank: int) -> slice:
    return slice(rank * TOKENS, (rank + 1) * TOKENS)


@every_split
def test_each_rank_gets_whole_rows_for_its_own_tokens_to_the_bit(ranks, whole, split):
    expected = whole[split[0]]["steps"][0]["found"]["output"]
    for rank in range(split[0]):
        torch.testing.assert_close(ranks[rank][split]["steps"][0]["found"]["output"], expected[rows_of(rank)])
    layer = new_layer()
    slots, weights = layer.search(Inputs.of(0, 0).hidden)
    read = layer.pool(slots, weights)
    narrow = [ValuePool(NUM_SLOTS, VALUE_DIM // split[1]) for _ in range(split[1])]
    for part, pool in enumerate(narrow):
        pool.weight.data = layer.pool.weight.data.chunk(split[1], dim=1)[part].contiguous()
    assert torch.equal(torch.cat([pool(slots, weights) for pool in narrow], dim=1), read)


@every_split
def test_gradients_of_all_but_the_table_are_those_of_the_whole_read(ranks, whole, split):
    """Each rank's own gradients are its own; those of parameters are shares that add up."""
    for step in range(NUM_STEPS):
        expected = whole[split[0]]["steps"][step]["found"]
        found = [ranks[rank][split]["steps"][step]["found"] for rank in range(split[0])]
        assert expected["half_keys"].abs().max() > 1e-4  # the gradient through the weights is tested
        for name, tensor in expected.items():
            joined = torch.cat if name in ("output", "hidden") else lambda tensors: torch.stack(tensors).sum(dim=0)
            torch.testing.assert_close(joined([one[name] for one in found]), tensor, rtol=1e-4, atol=1e-5)


@every_split
def test_the_gradient_of_a_ranks_columns_is_that_of_its_groups_tokens(ranks, split):
    world_size, parts = split
    for rank in range(world_size):
        group = range(rank // parts * parts, (rank // parts + 1) * parts)
        layer, inputs = new_layer(), Inputs.of_all(group, 0)
        layer.pool.gradient_target = RowGradients()
        gradients_of(layer, inputs)
        (expected,) = layer.pool.gradient_target.parts
        dense = torch.zeros(NUM_SLOTS, VALUE_DIM).index_copy_(0, expected.slots, expected.rows)
        slots, rows = ranks[rank][split]["steps"][0]["row gradient"]
        columns = ranks[rank][split]["columns"]
        assert (columns.start, columns.stop - columns.start) == (rank % parts * VALUE_DIM // parts, VALUE_DIM // parts)
        assert slots.tolist() == sorted(set(slots.tolist())) and set(expected.slots.tolist()) <= set(slots.tolist())
        found = torch.zeros(NUM_SLOTS, VALUE_DIM // parts).index_copy_(0, slots, rows)
        torch.testing.assert_close(found, dense[:, columns])


@every_split
def test_steps_equal_those_of_the_whole_table_and_the_norm_is_counted_once(ranks, whole, split):
    world_size, _ = split
    for step in range(NUM_STEPS):
        expected = whole[world_size]["steps"][step]
        for rank in range(world_size):
            found, columns = ranks[rank][split]["steps"][step], ranks[rank][split]["columns"]
            assert float(found["norm"]) == pytest.approx(float(expected["norm"]), rel=1e-5)
            assert torch.equal(found["norm"], ranks[0][split]["steps"][step]["norm"])  # all clip by the same bits
            for matrix, plain in zip(found["table"], expected["table"], strict=True):
                torch.testing.assert_close(matrix, plain[:, columns], rtol=1e-4, atol=1e-6)


@every_split
def test_only_rows_that_the_whole_table_would_move_move(ranks, whole, split):
    """For example, rows that only the last token reads, which has no gradient."""
    before = new_layer().pool.weight
    for step in range(NUM_STEPS):
        after = whole[split[0]]["steps"][step]["table"][0]
        moved = (after != before).any(dim=1)
        assert 0 < moved.sum() < NUM_SLOTS
        for rank in range(split[0]):
            of_rank, columns = ranks[rank][split], ranks[rank][split]["columns"]
            earlier = of_rank["steps"][step - 1]["table"][0] if step else new_layer().pool.weight[:, columns]
            assert torch.equal((of_rank["steps"][step]["table"][0] != earlier).any(dim=1), moved)
        before = after


@every_split
def test_a_row_moves_in_all_columns_if_it_has_a_gradient_in_any(ranks, whole, split):
    """As in one table, in which moments keep moving a number whose own gradient is zero."""
    expected = whole[split[0]]["after a lopsided step"]
    before = whole[split[0]]["steps"][-1]["table"]
    assert torch.equal(before[0][-1], expected[0][-1])
    assert (before[0][::2, 4:] != expected[0][::2, 4:])[:-1].any(dim=1).sum() > 5
    for rank in range(split[0]):
        for matrix, plain in zip(ranks[rank][split]["after a lopsided step"], expected, strict=True):
            torch.testing.assert_close(matrix, plain[:, ranks[rank][split]["columns"]], rtol=1e-4, atol=1e-6)


def test_ranks_that_hold_the_same_columns_stay_equal_to_the_bit(ranks):
    split = (4, 2)
    for step in range(NUM_STEPS):
        for rank in (0, 1):
            one, other = (ranks[holder][split]["steps"][step]["table"] for holder in (rank, rank + 2))
            assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))


def test_one_step_is_the_same_on_both_splits_of_four_ranks(ranks):
    """Two routes to the same table: 4 parts, or 2 parts merged over 2 groups."""
    quarters = torch.cat([ranks[rank][4, 4]["steps"][0]["table"][0] for rank in range(4)], dim=1)
    halves = torch.cat([ranks[rank][4, 2]["steps"][0]["table"][0] for rank in range(2)], dim=1)
    torch.testing.assert_close(quarters, halves)


def saved_tables(states: Path, name: str) -> list[Tensor]:
    """The whole tables, assembled from the files of all ranks."""
    whole = torch.full((3, NUM_SLOTS, VALUE_DIM), float("nan"))
    for path in (states / name).iterdir():
        file = load_file(path)
        first_row, end_row, first_column, end_column = file["0.place"].tolist()
        for table, part in zip(whole, ("values", "first_moments", "second_moments"), strict=True):
            here = table[first_row:end_row, first_column:end_column]
            assert here.isnan().all()  # each number is written once
            here.copy_(file[f"0.{part}"])
    assert not whole.isnan().any()
    return list(whole)


@pytest.mark.parametrize("split, name", [(split, name) for split, names in READ_BY.items() for name in names], ids=str)
def test_a_state_is_read_at_another_split_to_the_bit(ranks, states, split, name):
    saved = saved_tables(states, name)
    for rank in range(split[0]):
        *tables, num_steps = ranks[rank][split]["loaded"][name]
        columns = ranks[rank][split]["columns"]
        assert num_steps == NUM_STEPS
        assert all(torch.equal(table, whole[:, columns]) for table, whole in zip(tables, saved, strict=True))


@pytest.mark.parametrize("name", ["2 on 2", "4 on 4", "2 on 4"])
def test_a_state_of_split_tables_is_read_whole(ranks, states, monkeypatch, name):
    monkeypatch.setattr(column_split, "CHUNK_BYTES", 4 * VALUE_DIM * 20)  # several chunks of 16 rows
    *tables, num_steps = loaded(None, states / name)
    assert num_steps == NUM_STEPS
    assert all(torch.equal(*pair) for pair in zip(tables, saved_tables(states, name), strict=True))


def test_a_state_with_a_missing_rank_file_is_refused(ranks, states, tmp_path):
    for path in (states / "4 on 4").iterdir():
        if not path.stem.endswith("_3"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=r"numbers for value pool 0, .* must hold what every rank saved"):
        loaded(None, tmp_path)


@pytest.mark.parametrize("parts", [1, 2, 3, 8])
@pytest.mark.parametrize("num_slots, value_dim", [(81, 24), (16, 24), (5, 24), (1000, 48)])
def test_fresh_values_are_the_same_however_the_table_is_split(monkeypatch, parts, num_slots, value_dim):
    monkeypatch.setattr(column_split, "CHUNK_BYTES", 4 * value_dim * 40)  # chunks of 32 rows

    def fresh(split: ColumnSplit | None) -> tuple[Tensor, Tensor]:
        torch.manual_seed(3)
        pool = ValuePool(num_slots, value_dim, split)
        pool.reset_parameters()
        return pool.weight.detach(), torch.rand(4)

    whole, after = fresh(None)
    of_parts = [fresh(ColumnSplit(num_parts=parts, part=part)) for part in range(parts)]
    assert torch.equal(torch.cat([weight for weight, _ in of_parts], dim=1), whole)
    assert all(torch.equal(drawn, after) for _, drawn in of_parts)  # so the rest of the model is the same too


@pytest.mark.parametrize("num_slots", [1, 15, 16, 100, 1000])
def test_chunks_cover_all_rows_once_in_order(monkeypatch, num_slots):
    monkeypatch.setattr(column_split, "CHUNK_BYTES", 4 * 10 * 50)
    chunks = list(row_chunks(num_slots, 10))
    assert [row for chunk in chunks for row in range(chunk.start, chunk.stop)] == list(range(num_slots))
    assert (
        all((chunk.stop - chunk.start) == 48 for chunk in chunks[:-1]) and chunks[-1].stop - chunks[-1].start < 2 * 48
    )


def test_columns_that_cannot_be_divided_evenly_are_refused():
    with pytest.raises(
        ValueError, match=r"value_dim is 24, which is not a multiple of pretraining.pool_split \(5\).*change"
    ):
        ValuePool(NUM_SLOTS, VALUE_DIM, ColumnSplit(num_parts=5, part=0))


def test_ranks_that_cannot_be_grouped_and_a_table_that_is_a_parameter_are_refused(ranks):
    for rank in ranks[:2]:
        groups, dense = rank["refused"]
        assert "pretraining.pool_split is 3, and the number of workers (cluster.num_workers), 2, is not" in groups
        assert "pretraining.pool_split is 2, and the table is a parameter" in dense and '"lazy_adam"' in dense


def test_mutant_that_uses_only_its_own_norm_is_detected(ranks):
    """The parts' norms differ, so that the norm of one part cannot pass for the total."""
    steps = [ranks[rank][4, 4]["steps"][0] for rank in range(4)]
    own = [float(step["row gradient"][1].norm()) for step in steps]
    assert max(own) < 0.9 * float(steps[0]["norm"])
    assert sum(norm**2 for norm in own) ** 0.5 == pytest.approx(float(steps[0]["norm"]), rel=1e-5)
