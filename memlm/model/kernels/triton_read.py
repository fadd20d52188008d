"""The read in Triton, and its gradients.

A read loads each row and adds it up. The backward pass sorts the lookups by row, loads each row
once and computes from it the gradients of the row and of all its weights
(`triton_lookup_sums.py`). If the rows' gradient is not wanted, no sort is needed.

A slot outside the table is never followed. It contributes NaN to the output and to the gradient of
its weight, so that it shows in the loss; the gradient of the rows leaves it out.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from memlm.model.kernels.interface import RowGradient
from memlm.model.kernels.triton_launch import columns_per_block, num_warps
from memlm.model.kernels.triton_lookup_sums import (
    check_number_of_lookups,
    runs_of_accessed_rows,
    runs_of_all_rows,
    sum_lookups,
)

ROWS_IN_FLIGHT = 8
"""Rows that a program loads at once: 16 KB in bf16 at width 1,024."""


def read(
    values: Float[Tensor, "num_slots value_dim"],
    slots: Int[Tensor, "tokens reads"],
    weights: Float[Tensor, "tokens reads"],
) -> Float[Tensor, "tokens value_dim"]:
    """A token that reads a slot outside the table gets NaN in all columns."""
    num_tokens, num_reads = slots.shape
    num_slots, value_dim = values.shape
    output = values.new_empty(num_tokens, value_dim)
    columns = columns_per_block(value_dim)
    if num_tokens:
        with torch.cuda.device_of(values):
            _read_kernel[(num_tokens, triton.cdiv(value_dim, columns))](
                values,
                *values.stride(),
                slots,
                *slots.stride(),
                weights,
                *weights.stride(),
                output,
                num_slots,
                num_reads,
                value_dim,
                ROWS=ROWS_IN_FLIGHT,
                COLUMNS=columns,
                num_warps=num_warps(columns, values.element_size()),
            )
    return output


def read_backward(
    grad_output: Float[Tensor, "tokens value_dim"],
    values: Float[Tensor, "num_slots value_dim"],
    slots: Int[Tensor, "tokens reads"],
    weights: Float[Tensor, "tokens reads"],
    *,
    rows: bool,
    weight_gradient: bool,
) -> tuple[RowGradient | None, Float[Tensor, "tokens reads"] | None]:
    """The gradients of rows and weights. If the rows' gradient is wanted, waits for the device
    once, to learn how many rows were read.

    Raises ValueError for more than MAX_LOOKUPS lookups, if the rows' gradient is wanted.
    """
    if not rows:
        return None, _weight_gradient(grad_output, values, slots) if weight_gradient else None
    check_number_of_lookups(slots)
    accessed, runs = runs_of_accessed_rows(slots, num_slots=len(values))
    row_gradient, through_weights = sum_lookups(
        grad_output, weights, runs, values=values if weight_gradient else None, row_slots=accessed
    )
    return RowGradient(accessed, row_gradient), through_weights


def read_backward_of_rows(
    grad_output: Float[Tensor, "tokens value_dim"],
    slots: Int[Tensor, "tokens reads"],
    weights: Float[Tensor, "tokens reads"],
    row_slots: Int[Tensor, " rows"],
) -> Float[Tensor, "rows value_dim"]:
    """The gradient of the given rows. Sorts all lookups, those of other rows to the end: filtering
    first would make the host wait for their number.

    Raises ValueError for more than MAX_LOOKUPS lookups.
    """
    check_number_of_lookups(slots)
    num_rows = len(row_slots)
    if not num_rows or not slots.numel():
        return grad_output.new_zeros(num_rows, grad_output.shape[1])
    flat = slots.reshape(-1)
    rows = torch.searchsorted(row_slots.contiguous(), flat, out_int32=True)
    found = row_slots[rows.clamp(max=num_rows - 1)] == flat
    runs = runs_of_all_rows(torch.where(found, rows, num_rows).int(), num_rows)
    gradient, _ = sum_lookups(grad_output, weights, runs)
    return gradient


def _weight_gradient(
    grad_output: Float[Tensor, "tokens value_dim"],
    values: Float[Tensor, "num_slots value_dim"],
    slots: Int[Tensor, "tokens reads"],
) -> Float[Tensor, "tokens reads"]:
    """The weights' gradient, token by token without a sort: repeated rows come from the cache."""
    num_tokens, num_reads = slots.shape
    num_slots, value_dim = values.shape
    through_weights = grad_output.new_empty(num_tokens, num_reads, dtype=torch.float32)
    columns = columns_per_block(value_dim)
    if slots.numel():
        with torch.cuda.device_of(values):
            _weight_gradient_kernel[(num_tokens, triton.cdiv(num_reads, ROWS_IN_FLIGHT))](
                grad_output,
                *grad_output.stride(),
                values,
                *values.stride(),
                slots,
                *slots.stride(),
                through_weights,
                num_slots,
                num_reads,
                value_dim,
                ROWS=ROWS_IN_FLIGHT,
                COLUMNS=columns,
                num_warps=num_warps(columns, values.element_size()),
            )
    return through_weights


@triton.jit
def _read_kernel(
    values: tl.tensor,
    values_slot_stride: tl.tensor,
    values_column_stride: tl.tensor,
    slots: tl.tensor,
    slots_token_stride: tl.tensor,
    slots_read_stride: tl.tensor,
    weights: tl.tensor,
    weights_token_stride: tl.tensor,
    weights_read_stride: tl.tensor,
    output: tl.tensor,
    num_slots: tl.tensor,
    num_reads: tl.tensor,
    value_dim: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """One program handles one token and one block of columns."""
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    in_row = columns < value_dim
    total = tl.zeros([COLUMNS], tl.float32)
    for first in range(0, num_reads, ROWS):
        reads = first + tl.arange(0, ROWS).to(tl.int64)
        is_read = reads < num_reads
        slot = tl.load(slots + token * slots_token_stride + reads * slots_read_stride, mask=is_read, other=0)
        weight = tl.load(
            weights + token * weights_token_stride + reads * weights_read_stride, mask=is_read, other=0.0
        ).to(tl.float32)
        exists = (slot >= 0) & (slot < num_slots)
        weight = tl.where(is_read & ~exists, float("nan"), weight)
        row = tl.load(
            values + slot[:, None] * values_slot_stride + columns[None, :] * values_column_stride,
            mask=(is_read & exists)[:, None] & in_row[None, :],
            other=0.0,
        ).to(tl.float32)
        total += tl.sum(row * weight[:, None], axis=0)
    tl.store(output + token * value_dim + columns, total.to(output.dtype.element_ty), mask=in_row)


@triton.jit
def _weight_gradient_kernel(
    grad_output: tl.tensor,
    grad_output_token_stride: tl.tensor,
    grad_output_column_stride: tl.tensor,
    values: tl.tensor,
    values_slot_stride: tl.tensor,
    values_column_stride: tl.tensor,
    slots: tl.tensor,
    slots_token_stride: tl.tensor,
    slots_read_stride: tl.tensor,
    through_weights: tl.tensor,
    num_slots: tl.tensor,
    num_reads: tl.tensor,
    value_dim: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """One program handles a few reads of one token, all columns."""
    token = tl.program_id(0).to(tl.int64)
    reads = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    is_read = reads < num_reads
    slot = tl.load(slots + token * slots_token_stride + reads * slots_read_stride, mask=is_read, other=0)
    exists = (slot >= 0) & (slot < num_slots)
    dots = tl.zeros([ROWS], tl.float32)
    for first in range(0, value_dim, COLUMNS):
        columns = first + tl.arange(0, COLUMNS).to(tl.int64)
        in_row = columns < value_dim
        grad = tl.load(
            grad_output + token * grad_output_token_stride + columns * grad_output_column_stride,
            mask=in_row,
            other=0.0,
        ).to(tl.float32)
        row = tl.load(
            values + slot[:, None] * values_slot_stride + columns[None, :] * values_column_stride,
            mask=(is_read & exists)[:, None] & in_row[None, :],
            other=0.0,
        ).to(tl.float32)
        dots += tl.sum(row * grad[None, :], axis=1)
    tl.store(through_weights + token * num_reads + reads, tl.where(exists, dots, float("nan")), mask=is_read)
