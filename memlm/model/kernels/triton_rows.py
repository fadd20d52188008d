"""Merging of row gradients in Triton, and their application by Adam."""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from memlm.model.kernels.interface import AdamStep, RowGradient
from memlm.model.kernels.triton_launch import columns_per_block, num_warps


def merge_rows(parts: list[RowGradient]) -> RowGradient:
    """The sum of several gradients. Rows are added in place, by address: concatenating the parts
    first would move each row twice more."""
    if len(parts) == 1:
        return parts[0]
    slots, order = torch.cat([part.slots for part in parts]).sort(stable=True)
    begins_run = torch.ones_like(slots, dtype=torch.bool)
    begins_run[1:] = slots[1:] != slots[:-1]
    starts = begins_run.nonzero().squeeze(1)
    value_dim = parts[0].rows.shape[1]
    merged = RowGradient(slots[starts], parts[0].rows.new_empty(len(starts), value_dim))
    tables = [part.rows if part.rows.stride(1) == 1 else part.rows.contiguous() for part in parts]
    addresses = torch.cat(
        [torch.arange(len(rows), device=slots.device) * (rows.stride(0) * 4) + rows.data_ptr() for rows in tables]
    )[order]
    aligned = all(rows.data_ptr() % 16 == 0 and rows.stride(0) % 4 == 0 for rows in tables)
    columns = columns_per_block(value_dim)
    if len(starts):
        with torch.cuda.device_of(slots):
            _merge_kernel[(len(starts), triton.cdiv(value_dim, columns))](
                addresses,
                torch.cat([starts, starts.new_full((1,), len(slots))]),
                merged.rows,
                value_dim,
                ALIGNMENT=16 if aligned else 4,
                COLUMNS=columns,
                num_warps=num_warps(columns, 4),
            )
    return merged


def lazy_adam_step(
    values: Float[Tensor, "num_slots value_dim"],
    first_moments: Float[Tensor, "num_slots value_dim"],
    second_moments: Float[Tensor, "num_slots value_dim"],
    gradient: RowGradient,
    step: AdamStep,
) -> None:
    """Adam in one pass over the gradient's rows. A slot outside the table is skipped."""
    num_slots, value_dim = values.shape
    columns = columns_per_block(value_dim)
    if len(gradient.slots):
        with torch.cuda.device_of(values):
            _adam_kernel[(len(gradient.slots), triton.cdiv(value_dim, columns))](
                values,
                *values.stride(),
                first_moments,
                *first_moments.stride(),
                second_moments,
                *second_moments.stride(),
                gradient.slots,
                *gradient.slots.stride(),
                gradient.rows,
                *gradient.rows.stride(),
                num_slots,
                value_dim,
                step.gradient_scale,
                1 - step.beta1,
                step.beta2,
                1 - step.beta2,
                step.learning_rate / (1 - step.beta1**step.number),
                (1 - step.beta2**step.number) ** 0.5,
                step.epsilon,
                COLUMNS=columns,
                num_warps=num_warps(columns, 4),
            )


@triton.jit
def _merge_kernel(
    addresses: tl.tensor,
    starts: tl.tensor,
    rows: tl.tensor,
    value_dim: tl.tensor,
    ALIGNMENT: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """One program handles one merged row and one block of columns. Addresses are those of fp32
    rows, in bytes, and divisible by ALIGNMENT."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    in_row = columns < value_dim
    total = tl.zeros([COLUMNS], tl.float32)
    for place in range(tl.load(starts + row), tl.load(starts + row + 1)):
        address = tl.multiple_of(tl.load(addresses + place).to(tl.pointer_type(tl.float32)), ALIGNMENT)
        total += tl.load(address + columns, mask=in_row, other=0.0)
    tl.store(rows + row * value_dim + columns, total, mask=in_row)


@triton.jit
def _adam_kernel(
    values: tl.tensor,
    values_slot_stride: tl.tensor,
    values_column_stride: tl.tensor,
    first_moments: tl.tensor,
    first_moments_slot_stride: tl.tensor,
    first_moments_column_stride: tl.tensor,
    second_moments: tl.tensor,
    second_moments_slot_stride: tl.tensor,
    second_moments_column_stride: tl.tensor,
    slots: tl.tensor,
    slots_stride: tl.tensor,
    rows: tl.tensor,
    rows_row_stride: tl.tensor,
    rows_column_stride: tl.tensor,
    num_slots: tl.tensor,
    value_dim: tl.tensor,
    gradient_scale: tl.tensor,
    first_rate: tl.tensor,
    second_decay: tl.tensor,
    second_rate: tl.tensor,
    step_size: tl.tensor,
    root_correction: tl.tensor,
    epsilon: tl.tensor,
    COLUMNS: tl.constexpr,
) -> None:
    """One program handles one row and one block of columns. The rates are 1 - beta; step_size and
    root_correction include the bias corrections."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    slot = tl.load(slots + row * slots_stride)
    touched = (columns < value_dim) & (slot >= 0) & (slot < num_slots)
    value_at = values + slot * values_slot_stride + columns * values_column_stride
    first_at = first_moments + slot * first_moments_slot_stride + columns * first_moments_column_stride
    second_at = second_moments + slot * second_moments_slot_stride + columns * second_moments_column_stride
    grad = tl.load(rows + row * rows_row_stride + columns * rows_column_stride, mask=touched, other=0.0)
    value = tl.load(value_at, mask=touched, other=0.0)
    first = tl.load(first_at, mask=touched, other=0.0)
    second = tl.load(second_at, mask=touched, other=0.0)
    grad *= gradient_scale
    first += first_rate * (grad - first)
    second = second_decay * second + second_rate * grad * grad
    moved = value.to(tl.float32) - step_size * first / (tl.sqrt_rn(second) / root_correction + epsilon)
    tl.store(value_at, moved.to(value.dtype), mask=touched)
    tl.store(first_at, first, mask=touched)
    tl.store(second_at, second, mask=touched)
