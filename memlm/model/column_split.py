"""Value tables whose columns are split over the ranks of a group. Each rank holds some columns of
all rows, and reads them for the tokens of the whole group.

slots, weights of a rank's tokens --all_gather--> those of the group --read own columns-->
columns of the group's tokens
    --all_to_all--> whole rows of the rank's own tokens

Backward is the mirror image: the gradient of whole rows is exchanged for the gradient of the own
columns of the group's tokens. The gradient of the table's rows stays on the rank that holds the
columns. Each rank computes a part of the weights' gradient, and the token's owner adds up the
parts. So the table, its moments and its gradient never leave their rank, and each token sends one
row instead of all rows that it reads.
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
"""Size of the blocks in which whole rows are created or moved, where a whole table would not
fit."""


@dataclass(frozen=True, kw_only=True)
class ColumnSplit:
    """The columns of each table that this rank holds: part number `part` of `num_parts` equal
    parts."""

    num_parts: int
    part: int
    readers: dist.ProcessGroup | None = None
    """The ranks that together hold the table, in the order of their parts; None where nothing is
    read, as on the meta device."""
    holders: dist.ProcessGroup | None = None
    """The ranks that hold the same part, one from each group of readers."""

    def columns(self, value_dim: int) -> slice:
        width = self.width(value_dim)
        return slice(self.part * width, (self.part + 1) * width)

    def width(self, value_dim: int) -> int:
        """Number of columns per rank. Raises ValueError if they cannot be divided evenly."""
        if value_dim % self.num_parts:
            raise ValueError(
                f"model.memory.value_dim is {value_dim}, which is not a multiple of pretraining.pool_split ({self.num_parts}); "
                "all ranks hold equally many columns, so change one of them"
            )
        return value_dim // self.num_parts

    def any(self, found: Bool[Tensor, " rows"]) -> Bool[Tensor, " rows"]:
        """Logical or of `found` over all parts. All readers must have the same rows."""
        anywhere = found.to(torch.uint8)
        dist.all_reduce(anywhere, dist.ReduceOp.MAX, group=self.readers)
        return anywhere.bool()

    def total(self, number: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The sum over the parts. Every rank adds them in the same order, so all get the same
        bits."""
        return self._gathered(number[None]).sum()

    def read(
        self,
        values: Float[Tensor, "num_slots width"],
        slots: Int[Tensor, "tokens reads"],
        weights: Float[Tensor, "tokens reads"],
        gradients: list[RowGradient] | None,
    ) -> Float[Tensor, "tokens value_dim"]:
        """The read of the whole table with RowGradients. Every reader must call it, with the same
        number of tokens.

        If `gradients` is None, no gradient of the table is computed. Raises ValueError if the
        table is a parameter, because a split table has no dense gradient.
        """
        require_read(values, slots, weights)
        if values.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                f"pretraining.pool_split is {self.num_parts}, and the table is a parameter; a split table is trained by its row gradients, "
                'so set pretraining.pool_optimizer to "lazy_adam"'
            )
        return _SplitRead.apply(values, slots, weights, gradients, self)

    def _gathered(self, mine: Tensor) -> Tensor:
        """The tensors of all readers, concatenated along the first dimension."""
        all_parts = mine.new_empty(self.num_parts * mine.shape[0], *mine.shape[1:])
        dist.all_gather_into_tensor(all_parts, mine.contiguous(), group=self.readers)
        return all_parts

    def _exchanged(self, to_each: Float[Tensor, "parts tokens width"]) -> Float[Tensor, "parts tokens width"]:
        """The parts that each reader holds for this rank, in exchange for this rank's parts for
        them."""
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
        # Unlike an unsplit read, this does not leave out tokens without a gradient: only a token's
        # owner knows whether it has one, and all readers must find the same rows. LazyAdam leaves
        # out the zero rows.
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
    """This rank's share of tables split over each `num_parts` neighbouring ranks; None if
    num_parts is 1. Every rank must call it.

    Neighbouring ranks are on one node wherever the node has enough of them. Raises ValueError if
    the ranks cannot be grouped evenly.
    """
    world_size, rank = dist.get_world_size(), dist.get_rank()
    if world_size % num_parts:
        raise ValueError(
            f"pretraining.pool_split is {num_parts}, and the number of workers (cluster.num_workers), {world_size}, is not a multiple of it; "
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
    """All rows in chunks of about CHUNK_BYTES of whole fp32 rows: multiples of 16 rows, except for
    the last chunk, which also takes the remainder."""
    rows = max(16, CHUNK_BYTES // (4 * value_dim) // 16 * 16)
    num_chunks = max(1, num_slots // rows)
    for number in range(num_chunks):
        yield slice(number * rows, num_slots if number == num_chunks - 1 else (number + 1) * rows)
