"""Lazy Adam for value tables, at the cost of the rows that a batch reads: rows without a gradient
do not move.

    backward of each micro-batch -> pool.gradient_target -> merged over micro-batches -> merged
    over ranks -> Adam on these rows

Each rank holds the tables and both moments whole and takes the same step on them, to the bit. If
tables are split, it holds its columns of all three and merges gradients only with the ranks that
hold the same columns. DeepSpeed must not see the tables, or it would keep a dense gradient and
moments of its own and, in ZeRO-3, share out the table: so they stop being parameters here.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from memlm.model.column_split import row_chunks
from memlm.model.kernels import AdamStep, RowGradient, kernels_for
from memlm.model.memory import ValuePool
from memlm.model.weighted_read import RowGradients
from memlm.training.config import EXCHANGED_BYTES

SAVED = "value_pools"


class _Table(NamedTuple):
    """One pool's values and moments: three matrices of the size of its weight, the moments in
    fp32."""

    values: Float[Tensor, "num_slots width"]
    first_moments: Float[Tensor, "num_slots width"]
    second_moments: Float[Tensor, "num_slots width"]


class LazyAdam:
    """Adam on the rows that have a gradient; all others, and their moments, stay what they are
    to the bit.

    A row keeps its moments while it is not read, and one number of steps corrects the bias of
    all rows. There is no weight decay, which would move every row. torch.distributed must be
    initialised, and every rank must call each method.
    """

    def __init__(self, pools: Sequence[ValuePool], *, betas: tuple[float, float], epsilon: float) -> None:
        """Take over the pools' values from the first rank that holds the same columns."""
        self.pools, self.betas, self.epsilon = list(pools), betas, epsilon
        self.num_steps = 0
        self._gradients: list[RowGradient] = []
        for pool in self.pools:
            _keep_as_buffer(pool)
            pool.gradient_target = RowGradients()
            dist.broadcast(pool.weight, group=_holders(pool), group_src=0)
        self._tables = [_Table(pool.weight, *_moments_of(pool.weight)) for pool in self.pools]

    def compact(self) -> None:
        """Call after each backward. Merges the gradients of several micro-batches, so that they
        take at most about twice the rows that were read."""
        for pool in self.pools:
            parts = _collected(pool)
            # Only when the later parts are larger than the merged one; otherwise the rows of the
            # first would be added again for each.
            if len(parts) > 1 and sum(len(part.slots) for part in parts[1:]) >= len(parts[0].slots):
                parts[:] = [kernels_for(pool.weight).merge_rows(parts)]

    def merge(self) -> Float[Tensor, ""]:
        """Add up what all micro-batches and all ranks collected, for `step` to use; returns the
        norm over all pools."""
        self._gradients, squares = [], torch.zeros((), dtype=torch.float64)
        for pool in self.pools:
            merged = _merge_over_ranks(_take_gradient(pool), pool.num_slots, _holders(pool))
            of_rows = merged.squared_norms
            if of_rows is None:
                of_rows = kernels_for(pool.weight).squared_norms(merged.rows)
            # Rows that only pads or the last token of a block read have a zero gradient: they were
            # not trained on and must not move by their momentum. (A NaN gradient has a nonzero
            # norm.)
            trained = of_rows != 0
            if pool.split is not None:
                trained = pool.split.any(trained)
            if not trained.all():
                merged = RowGradient(merged.slots[trained], merged.rows[trained])
            self._gradients.append(merged)
            squares_of_pool = of_rows.sum() if pool.split is None else pool.split.total(of_rows.sum())
            squares = squares.to(of_rows.device) + squares_of_pool
        return squares.sqrt().float()

    def step(self, *, learning_rate: float, gradient_scale: float) -> None:
        """Move the rows of the merged gradient, multiplied by gradient_scale first."""
        self.num_steps += 1
        adam = AdamStep(self.num_steps, learning_rate, *self.betas, self.epsilon, gradient_scale)
        for table, gradient in zip(self._tables, self._gradients, strict=True):
            kernels_for(table.values).lazy_adam_step(*table, gradient, adam)
        self._gradients = []

    def skip_step(self) -> None:
        """Forget the merged gradient."""
        self._gradients = []

    @contextmanager
    def as_parameters(self) -> Iterator[None]:
        """Within the context, turn the values of the pools back into parameters with dense
        gradients. Not for split pools."""
        assert not self.is_split, "the columns of one rank are not the pool"
        with ExitStack() as dense:
            for pool in self.pools:
                dense.enter_context(pool.sending_gradients_to(None))
                values = pool.weight
                del pool.weight
                pool.weight = nn.Parameter(values)
            try:
                yield
            finally:
                for pool in self.pools:
                    _keep_as_buffer(pool)

    def matrices(self) -> Iterator[tuple[int, Float[Tensor, "num_slots width"]]]:
        """This rank's values and moments of each pool, by the pool's number."""
        for number, table in enumerate(self._tables):
            for matrix in table:
                yield number, matrix

    @property
    def is_split(self) -> bool:
        return any(pool.split is not None for pool in self.pools)

    def save(self, directory: Path) -> None:
        """Save values, moments and the number of steps. Each rank writes a share of the rows of its
        columns, so that all together are written once."""
        if not self.pools:
            return
        tensors = {"num_steps": torch.tensor(self.num_steps)}
        for number, (pool, table) in enumerate(zip(self.pools, self._tables, strict=True)):
            rows = _share_of_rows(pool)
            place = [rows.start, rows.stop, pool.columns.start, pool.columns.stop]
            tensors[f"{number}.place"] = torch.tensor(place)
            tensors |= {f"{number}.{name}": matrix[rows] for name, matrix in table._asdict().items()}
        save_file(tensors, directory / f"{SAVED}_{dist.get_rank()}.safetensors")

    def load(self, directory: Path) -> None:
        """Load from a directory that holds the files of every rank of a run, with any number of
        ranks and any split of the tables.

        Raises ValueError if some of it is missing.
        """
        numbers_read = [0] * len(self.pools)
        for path in sorted(directory.glob(f"{SAVED}_*.safetensors")) if self.pools else ():
            with safe_open(path, framework="pt") as file:
                self.num_steps = int(file.get_tensor("num_steps"))
                for number, (pool, table) in enumerate(zip(self.pools, self._tables, strict=True)):
                    for name, matrix in table._asdict().items():
                        place = file.get_tensor(f"{number}.place").tolist()
                        numbers_read[number] += _read_into(matrix, pool, file.get_slice(f"{number}.{name}"), *place)
        for number, table in enumerate(self._tables):
            if numbers_read[number] != sum(matrix.numel() for matrix in table):
                raise ValueError(
                    f"{directory} holds {numbers_read[number]} numbers for value pool {number}, but the pool and its moments have "
                    f"{sum(matrix.numel() for matrix in table)} here; it must hold what every rank saved, of pools of the same size"
                )


def _read_into(
    matrix: Tensor, pool: ValuePool, saved: Any, first_row: int, end_row: int, first_column: int, end_column: int
) -> int:
    """Read the pool's columns from a saved part of its table, a chunk of rows at a time. Returns
    the number of values read."""
    start, stop = max(first_column, pool.columns.start), min(end_column, pool.columns.stop)
    if start >= stop or first_row >= end_row:
        return 0
    for rows in row_chunks(end_row - first_row, pool.value_dim):
        here = matrix[
            first_row + rows.start : first_row + rows.stop, start - pool.columns.start : stop - pool.columns.start
        ]
        here.copy_(saved[rows, start - first_column : stop - first_column])
    return (end_row - first_row) * (stop - start)


def _holders(pool: ValuePool) -> dist.ProcessGroup | None:
    """The ranks that hold the same columns; None for all."""
    return None if pool.split is None else pool.split.holders


def _keep_as_buffer(pool: ValuePool) -> None:
    values = pool.weight.detach()
    del pool.weight
    # Not in the state dict either, or DeepSpeed would save the table, in ZeRO-3 once for each rank.
    pool.register_buffer("weight", values, persistent=False)


def _moments_of(values: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(values, dtype=torch.float32), torch.zeros_like(values, dtype=torch.float32)


def _collected(pool: ValuePool) -> list[RowGradient]:
    assert isinstance(pool.gradient_target, RowGradients), "the pool's gradients were taken over by someone else"
    return pool.gradient_target.parts


def _take_gradient(pool: ValuePool) -> RowGradient:
    """The rank's own gradient, of all its micro-batches."""
    values, collected = pool.weight, _collected(pool)
    parts = collected.copy()
    collected.clear()
    if not parts:
        return RowGradient(
            torch.empty(0, dtype=torch.int64, device=values.device),
            torch.empty(0, values.shape[1], device=values.device),
        )
    return kernels_for(values).merge_rows(parts)


def _merge_over_ranks(mine: RowGradient, num_slots: int, group: dist.ProcessGroup | None) -> RowGradient:
    """The sum over the group's ranks, added in their order on each of them, so all have the same
    bits. Exchanges the rows with their slots.

    If all ranks' rows take more than EXCHANGED_BYTES, one range of slots is exchanged after
    another.
    """
    if dist.get_world_size(group) == 1:
        return mine
    lengths = _all_gather(torch.tensor([len(mine.slots)], device=mine.slots.device), group)
    gathered_bytes = int(torch.cat(lengths).max()) * dist.get_world_size(group) * mine.rows.shape[1] * 4
    num_ranges = max(1, -(-gathered_bytes // EXCHANGED_BYTES))
    bounds = torch.arange(num_ranges + 1, device=mine.slots.device) * num_slots // num_ranges
    begins = torch.stack(_all_gather(torch.searchsorted(mine.slots, bounds), group)).tolist()
    kernels, own, merged = kernels_for(mine.rows), begins[dist.get_rank(group)], []
    for number in range(num_ranges):
        part = slice(own[number], own[number + 1])
        sizes = [begin[number + 1] - begin[number] for begin in begins]
        merged.append(kernels.merge_rows(_exchange(RowGradient(mine.slots[part], mine.rows[part]), sizes, group)))
    if num_ranges == 1:
        return merged[0]
    return RowGradient(torch.cat([part.slots for part in merged]), torch.cat([part.rows for part in merged]))


def _exchange(mine: RowGradient, lengths: list[int], group: dist.ProcessGroup | None) -> list[RowGradient]:
    """Every rank's part, of the given lengths, in the order of the ranks."""
    longest = max(lengths)
    # Collectives need one length from all ranks; the padding of shorter parts is cut off again.
    slots = mine.slots.new_empty(longest)
    rows = mine.rows.new_empty(longest, mine.rows.shape[1])
    slots[: len(mine.slots)], rows[: len(mine.slots)] = mine.slots, mine.rows
    return [
        RowGradient(slots_of_rank[:length], rows_of_rank[:length])
        for slots_of_rank, rows_of_rank, length in zip(
            _all_gather(slots, group), _all_gather(rows, group), lengths, strict=True
        )
    ]


def _all_gather(mine: Int[Tensor, "*n"] | Float[Tensor, "*n"], group: dist.ProcessGroup | None) -> list[Tensor]:
    gathered = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(gathered, mine, group=group)
    return gathered


def _share_of_rows(pool: ValuePool) -> slice:
    """The rows whose saving is this rank's share of the work, among those that hold the same
    columns."""
    rank, num_ranks = dist.get_rank(_holders(pool)), dist.get_world_size(_holders(pool))
    return slice(rank * pool.num_slots // num_ranks, (rank + 1) * pool.num_slots // num_ranks)
