"""Check that a value table fits in memory before it is created, because the system kills a process
that exceeds its memory without a message."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memlm.free_memory import available_memory
from memlm.model.config import MemoryConfig
from memlm.units import format_size

if TYPE_CHECKING:
    import torch

BYTES_PER_VALUE = 4
"""Tables and moments are in fp32."""
BYTES_PER_SLOT = 8
"""Slots are numbered in int64."""


@dataclass(frozen=True, kw_only=True)
class PoolBytes:
    """Memory that one rank needs for all pools while LazyAdam trains them, in bytes."""

    values: int
    moments: int
    gradient: int
    """Upper bound of one step's merged gradient, rows and slots: one row for each slot that the
    global batch can read."""
    accesses: int
    """Slots and weights read by the rank's tokens in one micro-batch, kept for backward."""

    def __str__(self) -> str:
        return (
            f"{format_size(self.values)} of values, {format_size(self.moments)} of moments, "
            f"at most {format_size(self.gradient)} of gradient rows and {format_size(self.accesses)} of accesses"
        )


def pool_bytes(memory: MemoryConfig, *, pool_split: int, batch_tokens: int, micro_batch_tokens: int) -> PoolBytes:
    """Memory of one rank when `pool_split` ranks share the pools' columns (pretraining.pool_split).

    `batch_tokens` is the number of tokens of a step, over all ranks and micro-batches;
    `micro_batch_tokens` the number that one rank processes at once. While the gradients of
    micro-batches are merged, up to three times `gradient` is in use: twice for the parts and once
    for their sum.
    """
    columns = memory.num_pools * memory.num_slots * memory.value_dim * BYTES_PER_VALUE // pool_split
    reads = memory.num_heads * memory.top_k * len(memory.layers)
    rows = min(memory.num_pools * memory.num_slots, batch_tokens * reads)
    width = memory.value_dim // pool_split
    return PoolBytes(
        values=columns,
        moments=2 * columns,
        gradient=rows * (width * BYTES_PER_VALUE + BYTES_PER_SLOT),
        accesses=micro_batch_tokens * pool_split * reads * (BYTES_PER_SLOT + BYTES_PER_VALUE),
    )


def require_room_for_values(
    *,
    num_half_keys: int,
    value_dim: int,
    num_pools: int,
    copies: int = 1,
    copies_are: str = "values",
    pool_split: int = 1,
    device: "torch.device | None" = None,
) -> None:
    """Raise ValueError if `copies` of the pools do not fit into the memory that is free now.

    `copies_are` describes the copies in the message, such as "values and two moments". If pools
    are split, each copy has this rank's share of the columns.
    """
    width = value_dim // pool_split
    needed = num_pools * num_half_keys**2 * width * BYTES_PER_VALUE * copies
    available = available_memory(device)
    if needed <= available:
        return
    fitting = math.isqrt(max(0, available) // (num_pools * width * BYTES_PER_VALUE * copies))
    split = "" if pool_split == 1 else f" / {pool_split} (pretraining.pool_split)"
    pools = "" if num_pools == 1 else f"{num_pools} pools x "
    raise ValueError(
        f"model.memory.num_half_keys is {num_half_keys}: {pools}{num_half_keys}^2 slots x {value_dim} (model.memory.value_dim){split} x "
        f"{BYTES_PER_VALUE} bytes x {copies} ({copies_are}) = {format_size(needed)}, and {format_size(available)} of memory are free"
        f"{'' if device is None or device.type == 'cpu' else f' on {device}'}; "
        f"lower model.memory.num_half_keys to at most {fitting}, or model.memory.value_dim, or take a larger machine, or split the table over more ranks (pretraining.pool_split)"
    )
