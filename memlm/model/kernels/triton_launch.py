"""The division of a row into blocks of columns, one per program of a Triton kernel, and the number
of warps per program."""

import triton

MAX_COLUMNS = 1024
"""Largest width of a block; a wider row is shared by several programs."""


def columns_per_block(value_dim: int) -> int:
    """The power of two that leaves the fewest lanes idle; of equally good ones, the widest."""
    widest = min(MAX_COLUMNS, triton.next_power_of_2(value_dim))
    return min(
        (columns for columns in (widest, 512, 256) if columns <= widest),
        key=lambda columns: triton.cdiv(value_dim, columns) * columns,
    )


def num_warps(columns: int, element_size: int) -> int:
    """The number of warps with which each thread loads 16 bytes of a row, the widest load
    possible."""
    return min(8, max(1, columns * element_size // (16 * 32)))
