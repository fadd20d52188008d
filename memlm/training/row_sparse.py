"""How are value tables trained at the cost of the rows that a batch reads? Adam that is lazy: what has no gradient does not move.

    backward of each micro-batch -> pool.row_gradients -> merged over micro-batches -> merged over ranks -> Adam on these rows

Each rank holds the tables and both moments whole and takes the same step on them, to the bit. DeepSpeed must not see the tables, or
it would keep a dense gradient and moments of its own and, in ZeRO-3, share out the table: so they stop being parameters here.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from memlm.model.kernels import AdamStep, RowGradient, kernels_for
from memlm.model.memory import ValuePool

EXCHANGED_BYTES = 1 << 28
"""What a rank receives at once of all ranks' rows. Whole, the rows of many ranks together could be many times the table."""


class _Table(NamedTuple):
    """What is kept for one pool: three matrices of its size, the moments in fp32."""

    values: Float[Tensor, "num_slots value_dim"]
    first_moments: Float[Tensor, "num_slots value_dim"]
    second_moments: Float[Tensor, "num_slots value_dim"]


class LazyAdam:
    """Adam on the rows that have a gradient; all others, and their moments, stay what they are to the bit.

    A row keeps its moments while it is not read, and one number of steps corrects the bias of all rows. There is no weight decay,
    which would move every row. torch.distributed must be initialised, and every rank must call each method.
    """

    def __init__(self, pools: Sequence[ValuePool], *, betas: tuple[float, float], epsilon: float) -> None:
        """Takes the pools' values over, as rank 0 has them."""
        self.pools, self.betas, self.epsilon = list(pools), betas, epsilon
        self.num_steps = 0
        self._gradients: list[RowGradient] = []
        for pool in self.pools:
            _keep_as_buffer(pool)
            pool.row_gradients = []
            dist.broadcast(pool.weight, src=0)
        self._tables = [_Table(pool.weight, *_moments_of(pool.weight)) for pool in self.pools]

    def compact(self) -> None:
        """After each backward: keeps what several micro-batches left behind within about twice the rows that it is about."""
        for pool in self.pools:
            parts = _collected(pool)
            # Only when the later parts outweigh the merged one: else the rows of the first would be added anew for each.
            if len(parts) > 1 and sum(len(part.slots) for part in parts[1:]) >= len(parts[0].slots):
                parts[:] = [kernels_for(pool.weight).merge_rows(parts)]

    def merge(self) -> Float[Tensor, ""]:
        """Add up what all micro-batches and all ranks collected, for `step` to use; returns the norm over all pools."""
        self._gradients, squares = [], torch.zeros((), dtype=torch.float64)
        for pool in self.pools:
            merged = _merge_over_ranks(_take_gradient(pool), pool.num_slots)
            of_rows = merged.squared_norms
            if of_rows is None:
                of_rows = kernels_for(pool.weight).squared_norms(merged.rows)
            # What only pads or the last token of a block read has a gradient of nought: it was not trained on and must not move
            # on its momentum. (A gradient that is not a number has a norm that is not nought.)
            trained = of_rows != 0
            if not trained.all():
                merged = RowGradient(merged.slots[trained], merged.rows[trained])
            self._gradients.append(merged)
            squares = squares.to(of_rows.device) + of_rows.sum()
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
        """Within the context the pools are as they were built: their values are parameters, and their gradients dense."""
        for pool in self.pools:
            values, pool.row_gradients = pool.weight, None
            del pool.weight
            pool.weight = nn.Parameter(values)
        try:
            yield
        finally:
            for pool in self.pools:
                _keep_as_buffer(pool)
                pool.row_gradients = []

    def save(self, directory: Path) -> None:
        """Values, moments and the number of steps: each rank writes its share of the rows, so that together they write all once."""
        if not self.pools:
            return
        rank = dist.get_rank()
        tensors = {"num_steps": torch.tensor(self.num_steps)}
        for number, table in enumerate(self._tables):
            rows = _rows_of_rank(rank, dist.get_world_size(), len(table.values))
            tensors |= {f"{number}.{name}": matrix[rows] for name, matrix in table._asdict().items()}
        save_file(tensors, directory / _file_of(rank))

    def load(self, directory: Path) -> None:
        """From a directory that holds what each of any number of ranks saved."""
        num_ranks = len(list(directory.glob(_file_of("*"))))
        for rank in range(num_ranks) if self.pools else ():
            with safe_open(directory / _file_of(rank), framework="pt") as file:
                self.num_steps = int(file.get_tensor("num_steps"))
                for number, table in enumerate(self._tables):
                    rows = _rows_of_rank(rank, num_ranks, len(table.values))
                    for name, matrix in table._asdict().items():
                        matrix[rows] = file.get_tensor(f"{number}.{name}").to(matrix.device)


def _keep_as_buffer(pool: ValuePool) -> None:
    values = pool.weight.detach()
    del pool.weight
    # Out of the state dict, too: else DeepSpeed would save the table, in ZeRO-3 once for each rank.
    pool.register_buffer("weight", values, persistent=False)


def _moments_of(values: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(values, dtype=torch.float32), torch.zeros_like(values, dtype=torch.float32)


def _collected(pool: ValuePool) -> list[RowGradient]:
    assert pool.row_gradients is not None, "the pool's gradients were taken over by someone else"
    return pool.row_gradients


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


def _merge_over_ranks(mine: RowGradient, num_slots: int) -> RowGradient:
    """The sum over ranks, added in their order on each of them, so all have the same bits. Exchanges the rows with their slots.

    In one range of slots after another where all ranks' rows are more than EXCHANGED_BYTES.
    """
    if dist.get_world_size() == 1:
        return mine
    lengths = _all_gather(torch.tensor([len(mine.slots)], device=mine.slots.device))
    gathered_bytes = int(torch.cat(lengths).max()) * dist.get_world_size() * mine.rows.shape[1] * 4
    num_ranges = max(1, -(-gathered_bytes // EXCHANGED_BYTES))
    bounds = torch.arange(num_ranges + 1, device=mine.slots.device) * num_slots // num_ranges
    begins = torch.stack(_all_gather(torch.searchsorted(mine.slots, bounds))).tolist()
    kernels, own, merged = kernels_for(mine.rows), begins[dist.get_rank()], []
    for number in range(num_ranges):
        part = slice(own[number], own[number + 1])
        sizes = [begin[number + 1] - begin[number] for begin in begins]
        merged.append(kernels.merge_rows(_exchange(RowGradient(mine.slots[part], mine.rows[part]), sizes)))
    if num_ranges == 1:
        return merged[0]
    return RowGradient(torch.cat([part.slots for part in merged]), torch.cat([part.rows for part in merged]))


def _exchange(mine: RowGradient, lengths: list[int]) -> list[RowGradient]:
    """Every rank's part, of the given lengths, in the order of the ranks."""
    longest = max(lengths)
    # Collectives take one length from all ranks; what fills up the shorter parts is cut off again, unread.
    slots = mine.slots.new_empty(longest)
    rows = mine.rows.new_empty(longest, mine.rows.shape[1])
    slots[: len(mine.slots)], rows[: len(mine.slots)] = mine.slots, mine.rows
    return [
        RowGradient(slots_of_rank[:length], rows_of_rank[:length])
        for slots_of_rank, rows_of_rank, length in zip(_all_gather(slots), _all_gather(rows), lengths, strict=True)
    ]


def _all_gather(mine: Int[Tensor, "*n"] | Float[Tensor, "*n"]) -> list[Tensor]:
    gathered = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, mine)
    return gathered


def _file_of(rank: int | str) -> str:
    return f"value_pools_{rank}.safetensors"


def _rows_of_rank(rank: int, num_ranks: int, num_slots: int) -> slice:
    """The rows of a table whose saving is a rank's share of the work."""
    return slice(rank * num_slots // num_ranks, (rank + 1) * num_slots // num_ranks)
