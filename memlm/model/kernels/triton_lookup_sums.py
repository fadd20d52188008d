"""Sums over the lookups of each row: weight * grad_output, the gradient of a row of a table.

The lookups are sorted by row. The sum over a row's lookups is cut wherever they cross a multiple
of CHUNK. The row's own program writes the first piece. Each later piece begins at the left edge of
a chunk, so a chunk has at most one of them; it is kept as a partial row and added in order by a
second kernel. Thus many programs work on a row that every token reads, and a row that is read once
takes one program.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from memlm.model.kernels.triton_launch import columns_per_block, num_warps

CHUNK = 128
"""Sorted lookups per chunk: the most that one program adds up, in 64 successive loads from
memory."""
LOOKUPS_IN_FLIGHT = 2
"""Lookups that a program loads at once. Most rows of a large table have one or two: wider tiles
would be mostly empty and take registers that more programs could use."""
PARTIAL_ROWS_IN_FLIGHT = 32
COLUMNS_OF_PARTIAL_ROWS = 64
"""Narrow blocks: a row that every token reads has many partial rows, but there are few such
rows."""
MAX_LOOKUPS = 2**31 - 2 * CHUNK
"""The number after a chunk's last lookup must fit 32 bits."""


class Runs(NamedTuple):
    """Lookups sorted so that those of one row are adjacent."""

    lookups: Int[Tensor, " lookups"]
    """token * reads + read of each lookup."""
    starts: Int[Tensor, " rows+1"]
    """Start of each row's lookups, int32; the last entry is the end of the last row's. Lookups
    after it belong to no row."""


def runs_of_accessed_rows(slots: Int[Tensor, "tokens reads"], num_slots: int) -> tuple[Int[Tensor, " rows"], Runs]:
    """The slots that occur, in ascending order, and the runs of their rows. A slot outside the
    table belongs to no row.

    Waits for the device once, to learn the number of rows.
    """
    flat = slots.reshape(-1)
    keys = torch.where((flat >= 0) & (flat < num_slots), flat, num_slots)
    # Half the bits need half the passes of the radix sort.
    keys, lookups = (keys.int() if num_slots < 2**31 else keys).sort(stable=True)
    begins_run = keys < num_slots
    begins_run[1:] &= keys[1:] != keys[:-1]
    starts = begins_run.nonzero().squeeze(1)
    end = torch.searchsorted(keys, keys.new_full((1,), num_slots))
    return keys[starts].long(), Runs(lookups, torch.cat([starts, end]).int())


def runs_of_all_rows(row_of_lookup: Int[Tensor, " lookups"], num_rows: int) -> Runs:
    """The runs of rows 0 to num_rows - 1, some of which may be empty. Lookups with a higher row
    number belong to no row."""
    rows, lookups = row_of_lookup.sort(stable=True)
    bounds = torch.arange(num_rows + 1, dtype=rows.dtype, device=rows.device)
    return Runs(lookups, torch.searchsorted(rows, bounds, out_int32=True))


def check_number_of_lookups(slots: Int[Tensor, "tokens reads"]) -> None:
    if slots.numel() > MAX_LOOKUPS:
        raise ValueError(
            f"slots holds {slots.numel()} lookups, and the sorted backward pass numbers them in 32 bits; "
            f"it must be at most {MAX_LOOKUPS}. Use micro-batches of fewer tokens"
        )


def sum_lookups(
    grad_output: Float[Tensor, "tokens value_dim"],
    weights: Float[Tensor, "tokens reads"],
    runs: Runs,
    *,
    values: Float[Tensor, "num_slots value_dim"] | None = None,
    row_slots: Int[Tensor, " rows"] | None = None,
) -> tuple[Float[Tensor, "rows value_dim"], Float[Tensor, "tokens reads"] | None]:
    """The sum of weight * grad_output over the lookups of each row, in fp32.

    Given the table of the rows, and the slot of each row in it, also returns the gradients of the
    weights; NaN where a lookup belongs to no row.
    """
    value_dim, num_lookups, num_rows = grad_output.shape[1], len(runs.lookups), len(runs.starts) - 1
    columns = columns_per_block(value_dim)
    blocks = triton.cdiv(value_dim, columns)
    rows = grad_output.new_empty(num_rows, value_dim, dtype=torch.float32)
    through_weights = None
    if values is not None:
        # A dot product over several blocks of columns is added up afterwards, in block order.
        through_weights = weights.new_full((blocks, *weights.shape), float("nan"), dtype=torch.float32)
    if num_rows:
        row_of_chunk = _rows_entering_chunks(runs)
        partial_rows = rows.new_empty(len(row_of_chunk), value_dim)
        with torch.cuda.device_of(grad_output):
            _sum_lookups_kernel[(num_rows + len(row_of_chunk), blocks)](
                grad_output,
                *grad_output.stride(),
                weights,
                *weights.stride(),
                runs.lookups,
                runs.starts,
                row_of_chunk,
                rows,
                partial_rows,
                values,
                *(values.stride() if values is not None else (0, 0)),
                row_slots,
                through_weights,
                num_rows,
                weights.shape[1],
                num_lookups,
                value_dim,
                WEIGHT_GRADIENT=values is not None,
                CHUNK=CHUNK,
                LOOKUPS=LOOKUPS_IN_FLIGHT,
                COLUMNS=columns,
                num_warps=num_warps(columns, 4 if values is None else values.element_size()),
            )
            if len(row_of_chunk):
                _add_partial_rows_kernel[(len(row_of_chunk), triton.cdiv(value_dim, COLUMNS_OF_PARTIAL_ROWS))](
                    runs.starts,
                    row_of_chunk,
                    rows,
                    partial_rows,
                    value_dim,
                    CHUNK=CHUNK,
                    PARTS=PARTIAL_ROWS_IN_FLIGHT,
                    COLUMNS=COLUMNS_OF_PARTIAL_ROWS,
                )
    if through_weights is None:
        return rows, None
    return rows, through_weights[0] if blocks == 1 else through_weights.sum(dim=0)


def _rows_entering_chunks(runs: Runs) -> Int[Tensor, " chunks"]:
    """For each chunk, the row whose lookups began in an earlier chunk and continue in it; -1 if
    there is none."""
    edges = torch.arange(0, len(runs.lookups), CHUNK, dtype=torch.int32, device=runs.starts.device)
    rows = torch.searchsorted(runs.starts, edges, right=True, out_int32=True) - 1
    enters = (rows < len(runs.starts) - 1) & (runs.starts[rows] < edges)
    return torch.where(enters, rows, -1)


@triton.jit(do_not_specialize=["num_rows", "num_lookups"])  # they change with every batch
def _sum_lookups_kernel(
    grad_output: tl.tensor,
    grad_output_token_stride: tl.tensor,
    grad_output_column_stride: tl.tensor,
    weights: tl.tensor,
    weights_token_stride: tl.tensor,
    weights_read_stride: tl.tensor,
    lookups: tl.tensor,
    starts: tl.tensor,
    row_of_chunk: tl.tensor,
    rows: tl.tensor,
    partial_rows: tl.tensor,
    values: tl.tensor,
    values_slot_stride: tl.tensor,
    values_column_stride: tl.tensor,
    row_slots: tl.tensor,
    through_weights: tl.tensor,
    num_rows: tl.tensor,
    num_reads: tl.tensor,
    num_lookups: tl.tensor,
    value_dim: tl.tensor,
    WEIGHT_GRADIENT: tl.constexpr,
    CHUNK: tl.constexpr,
    LOOKUPS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """One program handles one piece of one row's lookups and one block of columns. The first
    num_rows programs own the rows' first pieces."""
    program = tl.program_id(0)
    columns = tl.program_id(1).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    in_row = columns < value_dim
    chunk = program - num_rows
    if chunk < 0:
        row = program
        begin = tl.load(starts + row)
        result = rows + row.to(tl.int64) * value_dim
    else:
        row = tl.load(row_of_chunk + chunk)
        begin = chunk * CHUNK
        result = partial_rows + chunk.to(tl.int64) * value_dim
    if row >= 0:
        end = tl.minimum(tl.load(starts + row + 1), (begin // CHUNK + 1) * CHUNK)
        if WEIGHT_GRADIENT:
            slot = tl.load(row_slots + row)
            value = tl.load(
                values + slot * values_slot_stride + columns * values_column_stride, mask=in_row, other=0.0
            ).to(tl.float32)
        total = tl.zeros([COLUMNS], tl.float32)
        for first in range(begin, end, LOOKUPS):
            places = first + tl.arange(0, LOOKUPS)
            inside = places < end
            # 32 bits, because a 64-bit division would cost as much as the loads.
            lookup = tl.load(lookups + places, mask=inside, other=0).to(tl.int32)
            token = lookup // num_reads
            read = (lookup - token * num_reads).to(tl.int64)
            token = token.to(tl.int64)
            weight = tl.load(
                weights + token * weights_token_stride + read * weights_read_stride, mask=inside, other=0.0
            ).to(tl.float32)
            grad = tl.load(
                grad_output + token[:, None] * grad_output_token_stride + columns[None, :] * grad_output_column_stride,
                mask=inside[:, None] & in_row[None, :],
                other=0.0,
            ).to(tl.float32)
            total += tl.sum(grad * weight[:, None], axis=0)
            if WEIGHT_GRADIENT:
                block = through_weights + tl.program_id(1).to(tl.int64) * num_lookups
                tl.store(block + lookup, tl.sum(grad * value[None, :], axis=1), mask=inside)
        tl.store(result + columns, total, mask=in_row)


@triton.jit
def _add_partial_rows_kernel(
    starts: tl.tensor,
    row_of_chunk: tl.tensor,
    rows: tl.tensor,
    partial_rows: tl.tensor,
    value_dim: tl.tensor,
    CHUNK: tl.constexpr,
    PARTS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """One program handles one block of columns of a row with partial rows, if the first of them is
    this program's chunk."""
    chunk = tl.program_id(0)
    columns = tl.program_id(1).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    in_row = columns < value_dim
    row = tl.load(row_of_chunk + chunk)
    start = tl.load(starts + row, mask=row >= 0, other=chunk * CHUNK)
    if start // CHUNK + 1 == chunk:
        end = (tl.load(starts + row + 1) - 1) // CHUNK + 1
        result = rows + row.to(tl.int64) * value_dim + columns
        total = tl.load(result, mask=in_row, other=0.0)
        for first in range(chunk, end, PARTS):
            parts = first + tl.arange(0, PARTS).to(tl.int64)
            partial = tl.load(
                partial_rows + parts[:, None] * value_dim + columns[None, :],
                mask=(parts < end)[:, None] & in_row[None, :],
                other=0.0,
            )
            total += tl.sum(partial, axis=0)
        tl.store(result, total, mask=in_row)
