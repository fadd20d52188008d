"""Lazy Adam on the rows that were read, against Adam's formula row by row, in one process and on
two gloo ranks."""

from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor

from memlm.model.kernels import RowGradient
from memlm.model.memory import ValuePool
from memlm.model.weighted_read import RowGradients
from memlm.training import row_sparse
from memlm.training.row_sparse import LazyAdam
from tests.support.ranks import run_ranks
from tests.support.tiny import TWO_SEPARATE, TWO_SHARED, tiny_model

BETAS, EPSILON, RATE = (0.9, 0.95), 1e-8, 0.05
SIZES = ((40, 6), (23, 5))
"""Slots and width of each pool."""


def make_pools(seed: int = 0) -> list[ValuePool]:
    generator = torch.Generator().manual_seed(seed)
    pools = [ValuePool(*size) for size in SIZES]
    for pool in pools:
        torch.nn.init.normal_(pool.weight, generator=generator)
    return pools


def lazy_adam(pools: list[ValuePool]) -> LazyAdam:
    return LazyAdam(pools, betas=BETAS, epsilon=EPSILON)


def random_gradient(seed: int, size: tuple[int, int], num_rows: int) -> RowGradient:
    generator = torch.Generator().manual_seed(seed)
    slots = torch.randperm(size[0], generator=generator)[:num_rows].sort().values
    return RowGradient(slots, torch.randn(num_rows, size[1], generator=generator))


def gradients_of(step: int, num_parts: int = 3) -> list[list[RowGradient]]:
    """The gradients that each part (a micro-batch, or a rank) leaves in each pool at a step. The
    last part reads nothing of the second pool."""
    return [
        [
            random_gradient(
                100 * step + 10 * part + number, size, 0 if number and part == num_parts - 1 else 4 + 3 * part
            )
            for number, size in enumerate(SIZES)
        ]
        for part in range(num_parts)
    ]


def leave(pools: list[ValuePool], gradients: list[RowGradient]) -> None:
    """Leave gradients in the pools, as one backward would."""
    for pool, gradient in zip(pools, gradients, strict=True):
        assert isinstance(pool.gradient_target, RowGradients)
        pool.gradient_target.parts.append(gradient)


def run_lazily(optimizer: LazyAdam, steps: range, scale: float = 0.5) -> list[float]:
    norms = []
    for step in steps:
        for part in gradients_of(step):
            leave(optimizer.pools, part)
            optimizer.compact()
        norms.append(float(optimizer.merge()))
        optimizer.step(learning_rate=RATE, gradient_scale=scale)
    return norms


def dense_gradient(step: int, number: int) -> Tensor:
    total = torch.zeros(SIZES[number], dtype=torch.float64)
    for part in gradients_of(step):
        for slot, row in zip(part[number].slots.tolist(), part[number].rows, strict=True):
            total[slot] += row
    return total


def run_plainly(steps: range, scale: float = 0.5) -> tuple[list[list[Tensor]], list[float], set[tuple[int, int]]]:
    """Adam's formula (Kingma & Ba 2015, algorithm 1) in fp64, for the rows that have a gradient
    and no others."""
    tables = [
        [pool.weight.detach().double(), *torch.zeros(2, *pool.weight.shape, dtype=torch.float64)]
        for pool in make_pools()
    ]
    norms, moved = [], set()
    for step in steps:
        squares = 0.0
        for number, (values, first, second) in enumerate(tables):
            gradient = dense_gradient(step, number)
            squares += float(gradient.square().sum())
            for row in gradient.any(dim=1).nonzero().flatten().tolist():
                moved.add((number, row))
                scaled, t = gradient[row] * scale, step + 1
                first[row] = BETAS[0] * first[row] + (1 - BETAS[0]) * scaled
                second[row] = BETAS[1] * second[row] + (1 - BETAS[1]) * scaled**2
                corrected = (second[row] / (1 - BETAS[1] ** t)).sqrt() + EPSILON
                values[row] -= RATE * first[row] / (1 - BETAS[0] ** t) / corrected
        norms.append(squares**0.5)
    return tables, norms, moved


def saved(optimizer: LazyAdam, folder: Path) -> dict[str, Tensor]:
    folder.mkdir(exist_ok=True)
    optimizer.save(folder)
    (path,) = folder.iterdir()
    return load_file(path)


NAMES = ("values", "first_moments", "second_moments")


def test_steps_are_adam_on_the_rows_that_have_a_gradient(one_rank, tmp_path):
    optimizer = lazy_adam(make_pools())
    norms = run_lazily(optimizer, range(5))
    tables, plain_norms, _ = run_plainly(range(5))
    assert norms == pytest.approx(plain_norms, rel=1e-6)
    state = saved(optimizer, tmp_path / "state")
    for number, table in enumerate(tables):
        for name, expected in zip(NAMES, table, strict=True):
            torch.testing.assert_close(state[f"{number}.{name}"], expected.float(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(optimizer.pools[number].weight, table[0].float(), rtol=1e-5, atol=1e-6)


def test_rows_without_a_gradient_and_their_moments_keep_their_bits(one_rank, tmp_path):
    optimizer = lazy_adam(make_pools())
    run_lazily(optimizer, range(4))
    _, _, moved_before = run_plainly(range(4))
    before = saved(optimizer, tmp_path / "before")
    run_lazily(optimizer, range(4, 5))
    after = saved(optimizer, tmp_path / "after")
    still_with_moments = 0
    for number in range(len(SIZES)):
        moved = dense_gradient(4, number).any(dim=1)
        assert 0 < moved.sum() < len(moved)
        for name in NAMES:
            one, other = before[f"{number}.{name}"], after[f"{number}.{name}"]
            assert torch.equal(one[~moved], other[~moved])
            assert (one[moved] != other[moved]).any(dim=1).all()
        still_with_moments += sum((number, row) in moved_before for row in (~moved).nonzero().flatten().tolist())
    assert still_with_moments > 3  # what would move if it were not lazy


def test_a_row_that_only_pads_read_does_not_move_on_its_momentum(one_rank, tmp_path):
    pools = make_pools()
    optimizer = lazy_adam(pools)
    run_lazily(optimizer, range(3))
    before = saved(optimizer, tmp_path / "before")
    slots = torch.arange(10)
    rows = torch.zeros(10, SIZES[0][1])
    rows[7] = 1.0
    for pool, gradient in zip(pools, (RowGradient(slots, rows), random_gradient(9, SIZES[1], 3)), strict=True):
        pool.gradient_target = RowGradients([gradient])
    optimizer.merge()
    optimizer.step(learning_rate=RATE, gradient_scale=1.0)
    after = saved(optimizer, tmp_path / "after")
    for name in NAMES:
        changed = (before[f"0.{name}"] != after[f"0.{name}"]).any(dim=1).nonzero().flatten().tolist()
        assert changed == [7]


def test_a_nan_in_the_gradient_shows_in_the_norm(one_rank):
    pools = make_pools()
    optimizer = lazy_adam(pools)
    rows = torch.ones(2, SIZES[0][1])
    rows[1, 3] = float("nan")
    leave(pools, [RowGradient(torch.tensor([2, 5]), rows), random_gradient(0, SIZES[1], 2)])
    assert torch.isnan(optimizer.merge())


def test_a_skipped_step_leaves_no_trace(one_rank, tmp_path):
    optimizer = lazy_adam(make_pools())
    run_lazily(optimizer, range(2))
    before = saved(optimizer, tmp_path / "before")
    for part in gradients_of(7):
        leave(optimizer.pools, part)
    optimizer.merge()
    optimizer.skip_step()
    assert all(torch.equal(before[name], tensor) for name, tensor in saved(optimizer, tmp_path / "after").items())
    run_lazily(optimizer, range(2, 5))
    tables, _, _ = run_plainly(range(5))
    torch.testing.assert_close(optimizer.pools[0].weight, tables[0][0].float(), rtol=1e-5, atol=1e-6)


def test_many_micro_batches_hold_no_more_rows_than_twice_those_read(one_rank):
    pools = make_pools()
    optimizer = lazy_adam(pools)
    held, total = [], torch.zeros(SIZES[0])
    for seed in range(50):
        gradient = random_gradient(seed, SIZES[0], 12)
        total[gradient.slots] += gradient.rows
        leave(pools, [gradient, random_gradient(seed, SIZES[1], 1)])
        optimizer.compact()
        held.append(sum(len(part.slots) for part in pools[0].gradient_target.parts))
    assert max(held) < 2 * SIZES[0][0]
    optimizer.merge()
    merged = optimizer._gradients[0]
    torch.testing.assert_close(merged.rows, total[merged.slots])


def test_a_pool_is_no_parameter_while_it_is_trained_lazily(one_rank):
    model = tiny_model(TWO_SEPARATE)
    names, stored = list(dict(model.named_parameters())), list(model.state_dict())
    weights = [pool.weight.detach().clone() for pool in model.model.value_pools]
    optimizer = lazy_adam(list(model.model.value_pools))
    rest = [name for name in names if "value_pools" not in name]
    assert list(dict(model.named_parameters())) == rest and not any(
        "value_pools" in name for name in model.state_dict()
    )
    with optimizer.as_parameters():
        assert sorted(dict(model.named_parameters())) == sorted(names) and list(model.state_dict()) == stored
        assert all(pool.gradient_target is None and pool.weight.requires_grad for pool in optimizer.pools)
    assert list(dict(model.named_parameters())) == rest
    for pool, weight in zip(optimizer.pools, weights, strict=True):
        assert pool.gradient_target.parts == [] and torch.equal(pool.weight, weight)


def test_a_pool_that_layers_share_is_moved_once(one_rank):
    model = tiny_model(TWO_SHARED)
    optimizer = lazy_adam(list(model.model.value_pools))
    tokens = torch.arange(12).view(2, 6)
    model(input_ids=tokens, use_cache=False).logits.square().sum().backward()
    assert len(optimizer.pools) == 1 and len(optimizer.pools[0].gradient_target.parts) == 2  # one of each layer
    norm = optimizer.merge()
    dense = tiny_model(TWO_SHARED)
    dense(input_ids=tokens, use_cache=False).logits.square().sum().backward()
    torch.testing.assert_close(norm, dense.model.value_pools[0].weight.grad.norm())


def test_after_saving_and_loading_it_continues_bit_for_bit(one_rank, tmp_path):
    undisturbed = lazy_adam(make_pools())
    run_lazily(undisturbed, range(5))
    first = lazy_adam(make_pools())
    run_lazily(first, range(3))
    saved(first, tmp_path / "state")
    second = lazy_adam(make_pools(seed=9))
    second.load(tmp_path / "state")
    run_lazily(second, range(3, 5))
    expected, found = saved(undisturbed, tmp_path / "one"), saved(second, tmp_path / "other")
    assert int(found["num_steps"]) == 5
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert torch.equal(second.pools[0].weight, found["0.values"])  # the model's own table was loaded into


def of_two_ranks(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    minute = timedelta(minutes=1)  # rather an error than a hang
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=minute)
    result = {}
    for name, limit in (("whole", 1 << 28), ("in ranges", 100)):
        row_sparse.EXCHANGED_BYTES = limit
        optimizer = lazy_adam(make_pools(seed=rank))
        started = [pool.weight.clone() for pool in optimizer.pools]
        norms = []
        for step in range(5):
            parts = gradients_of(step)
            for part in (parts[:1], parts[1:])[rank]:
                leave(optimizer.pools, part)
                optimizer.compact()
            norms.append(float(optimizer.merge()))
            optimizer.step(learning_rate=RATE, gradient_scale=0.5)
        optimizer.save(Path(folder, name))
        dist.barrier()
        other = lazy_adam(make_pools(seed=8))
        other.load(Path(folder, name))
        result[name] = {
            "started": started,
            "norms": norms,
            "tables": [[matrix.clone() for matrix in table] for table in optimizer._tables],
            "loaded": [[matrix.clone() for matrix in table] for table in other._tables],
        }
    result["numbers received"] = numbers_received(rank)
    torch.save(result, f"{folder}/rank_{rank}")
    dist.destroy_process_group()


def numbers_received(rank: int) -> int:
    """Numbers that a rank receives in a merge of 3 rows of a large table on each of two ranks."""
    row_sparse.EXCHANGED_BYTES = 1 << 28
    pool = ValuePool(100_000, 4)
    optimizer = lazy_adam([pool])
    pool.gradient_target = RowGradients([RowGradient(torch.tensor([1, 50 + rank, 99_999]), torch.ones(3, 4))])
    received, gather = 0, dist.all_gather

    def counting(tensors: list[Tensor], tensor: Tensor, group: object = None) -> None:
        nonlocal received
        gather(tensors, tensor, group=group)
        received += sum(part.numel() for part in tensors)

    dist.all_gather = counting
    optimizer.merge()
    dist.all_gather = gather
    return received


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> tuple[Path, list[dict]]:
    folder = tmp_path_factory.mktemp("ranks")
    for name in ("whole", "in ranges"):
        (folder / name).mkdir()
    run_ranks(of_two_ranks, str(folder), number=2)
    return folder, [torch.load(folder / f"rank_{rank}") for rank in range(2)]


@pytest.mark.parametrize("exchange", ["whole", "in ranges"])
def test_two_ranks_equal_one_process(ranks, exchange):
    tables, norms, _ = run_plainly(range(5))
    for rank in ranks[1]:
        assert rank[exchange]["norms"] == pytest.approx(norms, rel=1e-6)
        for found, expected in zip(rank[exchange]["tables"], tables, strict=True):
            for matrix, plain in zip(found, expected, strict=True):
                torch.testing.assert_close(matrix, plain.float(), rtol=1e-5, atol=1e-6)


def all_equal(one: list[list[Tensor]], other: list[list[Tensor]]) -> bool:
    pairs = [pair for tables in zip(one, other, strict=True) for pair in zip(*tables, strict=True)]
    return len(pairs) == 6 and all(torch.equal(*pair) for pair in pairs)


def test_ranks_agree_to_the_bit_however_the_rows_were_exchanged(ranks):
    first, second = ranks[1]
    assert first["whole"]["norms"] == second["whole"]["norms"] == first["in ranges"]["norms"]
    assert all_equal(first["whole"]["tables"], second["whole"]["tables"])
    assert all_equal(first["whole"]["tables"], first["in ranges"]["tables"])


def test_both_ranks_start_from_the_first_ranks_values(ranks):
    expected = [pool.weight for pool in make_pools(seed=0)]
    for rank in ranks[1]:
        assert all(torch.equal(*pair) for pair in zip(rank["whole"]["started"], expected, strict=True))


def test_ranks_save_each_row_once_and_load_all(ranks):
    folder, results = ranks
    files = [load_file(path) for path in sorted((folder / "whole").iterdir())]
    assert len(files) == 2
    for number, table in enumerate(results[0]["whole"]["tables"]):
        for name, matrix in zip(NAMES, table, strict=True):
            assert torch.equal(torch.cat([file[f"{number}.{name}"] for file in files]), matrix)
    for rank in results:
        assert all_equal(rank["whole"]["loaded"], rank["whole"]["tables"])


def test_ranks_exchange_rows_and_no_table(ranks):
    """2 ranks' numbers of rows, begins of 2 ranges, 3 slots and 3 rows of 4."""
    assert [rank["numbers received"] for rank in ranks[1]] == [2 * (1 + 2 + 3 + 3 * 4)] * 2
