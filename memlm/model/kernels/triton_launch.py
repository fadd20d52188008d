"""How a row is cut into blocks of columns, one to a program of a Triton kernel, and how many
warps a program gets."""

import triton

MAX_COLUMNS = 1024
"""Of a block; a wider row is shared by several programs."""


def columns_per_block(value_dim: int) -> int:
    """The power of two at which the fewest lanes stand idle, and of equal ones the widest."""
    widest = min(MAX_COLUMNS, triton.next_power_of_2(value_dim))
    return min(
        (columns for columns in (widest, 512, 256) if columns <= widest),
        key=lambda columns: triton.cdiv(value_dim, columns) * columns,
    )


def num_warps(columns: int, element_size: int) -> int:
    """So many that each thread loads 16 bytes of a row, the widest load there is."""
    return min(8, max(1, columns * element_size // (16 * 32)))
