"""How is a table used that no rank holds whole? Each rank of a group holds some columns of all
rows, and reads them for the tokens of all.

slots, weights of a rank's tokens --all_gather--> those of the group --read own columns-->
columns of the group's tokens
    --all_to_all--> whole rows of the rank's own tokens

Backward is the mirror image: the gradient of whole rows is exchanged for that of the own columns
of the group's tokens. What the table's rows get of it stays where the columns are; of the
weights each rank has a part, which the owner of the token adds up. So the table, its moments and
its gradient never leave their rank, and what travels per token is one row, not the rows that it
reads.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from memlm.model.kernels import RowGradient, kernels_for
from memlm.model.weighted_read import require_read

CHUNK_BYTES = 1 << 26
"""Of whole rows that are made or moved at once, where a whole table would not fit."""


@dataclass(frozen=True, kw_only=True)
class ColumnSplit:
    """Which columns of each table this rank holds: part number `part` of `num_parts` equal ones."""

    num_parts: int
    part: int
    readers: dist.ProcessGroup | None = None
    """The ranks that hold the table between them, in the order of their parts; None where
    nothing is read, as on the meta device."""
    holders: dist.ProcessGroup | None = None
    """The ranks that hold the same part, one of each group of readers."""

    def columns(self, value_dim: int) -> slice:
        width = self.width(value_dim)
        return slice(self.part * width, (self.part + 1) * width)

    def width(self, value_dim: int) -> int:
        """Columns that one rank holds. Raises ValueError if they cannot be shared out evenly."""
        if value_dim % self.num_parts:
            raise ValueError(
                f"model.memory.value_dim is {value_dim}, which is not a multiple of pretraining.pool_split ({self.num_parts}); "
                "each rank holds as many columns, so change one of them"
            )
        return value_dim // self.num_parts

    def any(self, found: Bool[Tensor, " rows"]) -> Bool[Tensor, " rows"]:
        """What is found in the columns of any part. All readers must have the same rows."""
        anywhere = found.to(torch.uint8)
        dist.all_reduce(anywhere, dist.ReduceOp.MAX, group=self.readers)
        return anywhere.bool()

    def total(self, number: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The sum over the parts, in their order on each rank, so all have the same bits."""
        return self._gathered(number[None]).sum()

    def read(
        self,
        values: Float[Tensor, "num_slots width"],
        slots: Int[Tensor, "tokens reads"],
        weights: Float[Tensor, "tokens reads"],
        gradients: list[RowGradient] | None,
    ) -> Float[Tensor, "tokens value_dim"]:
        """As `weighted_read_into` of the whole table. Every reader must call it, with as many
        tokens.

        Without a list there is no gradient for the table. Raises ValueError for a table that is
        a parameter: its dense gradient does not exist.
        """
        require_read(values, slots, weights)
        if values.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                f"pretraining.pool_split is {self.num_parts}, and the table is a parameter; a split table is trained by its row gradients, "
                'so set pretraining.pool_optimizer to "lazy_adam"'
            )
        return _SplitRead.apply(values, slots, weights, gradients, self)

    def _gathered(self, mine: Tensor) -> Tensor:
        """Those of all readers, one under the other."""
        everyones = mine.new_empty(self.num_parts * mine.shape[0], *mine.shape[1:])
        dist.all_gather_into_tensor(everyones, mine.contiguous(), group=self.readers)
        return everyones

    def _exchanged(self, to_each: Float[Tensor, "parts tokens width"]) -> Float[Tensor, "parts tokens width"]:
        """What each reader has for this rank, from what this one has for each."""
        from_each = torch.empty_like(to_each, memory_format=torch.contiguous_format)
        dist.all_to_all_single(from_each, to_each.contiguous(), group=self.readers)
        return from_each


class _SplitRead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        slots: Tensor,
        weights: Tensor,
        gradients: list[RowGradient] | None,
        split: ColumnSplit,
    ) -> Tensor:
        all_slots, all_weights = split._gathered(slots), split._gathered(weights)
        ctx.save_for_backward(values, all_slots, all_weights)
        ctx.gradients, ctx.split = gradients, split
        columns_of_all = kernels_for(values).read(values, all_slots, all_weights)
        columns_of_mine = split._exchanged(columns_of_all.view(split.num_parts, len(slots), -1))
        return columns_of_mine.transpose(0, 1).flatten(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        values, all_slots, all_weights = ctx.saved_tensors
        split: ColumnSplit = ctx.split
        # Tokens without a gradient are not left out here, as an unsplit read does: whether one
        # has any is known to its owner alone, and all readers must find the same rows. LazyAdam
        # leaves out the rows that are nought.
        by_part = grad_output.float().unflatten(1, (split.num_parts, -1)).transpose(0, 1)
        gradient, through_weights = kernels_for(values).read_backward(
            split._exchanged(by_part).flatten(0, 1),
            values,
            all_slots,
            all_weights,
            rows=ctx.gradients is not None,
            weight_gradient=True,
        )
        assert through_weights is not None
        if gradient is not None:
            ctx.gradients.append(gradient)
        of_parts = split._exchanged(through_weights.unflatten(0, (split.num_parts, -1)))
        return None, None, of_parts.sum(dim=0), None, None


def split_over_ranks(num_parts: int) -> ColumnSplit | None:
    """This rank's share of tables split over each `num_parts` neighbouring ranks; None for a
    split in one. Every rank must call it.

    Neighbours, because they are on one node wherever that has so many. Raises ValueError if the
    ranks cannot be grouped evenly.
    """
    world_size, rank = dist.get_world_size(), dist.get_rank()
    if world_size % num_parts:
        raise ValueError(
            f"pretraining.pool_split is {num_parts}, and there are {world_size} workers (cluster.num_workers), which is not a multiple of it; "
            "change one of them"
        )
    if num_parts == 1:
        return None
    readers, _ = dist.new_subgroups_by_enumeration(
        [list(range(first, first + num_parts)) for first in range(0, world_size, num_parts)]
    )
    holders, _ = dist.new_subgroups_by_enumeration(
        [list(range(part, world_size, num_parts)) for part in range(num_parts)]
    )
    return ColumnSplit(num_parts=num_parts, part=rank % num_parts, readers=readers, holders=holders)


def row_chunks(num_slots: int, value_dim: int) -> Iterator[slice]:
    """All rows, in chunks of about CHUNK_BYTES of whole rows in fp32: multiples of 16, and the
    last one longer by what is over."""
    rows = max(16, CHUNK_BYTES // (4 * value_dim) // 16 * 16)
    num_chunks = max(1, num_slots // rows)
    for number in range(num_chunks):
        yield slice(number * rows, num_slots if number == num_chunks - 1 else (number + 1) * rows)
