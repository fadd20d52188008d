"""The kernels for GPUs, in Triton.

Bytes moved decide everything here, so each row of a table crosses the memory bus once per pass: a read loads it and adds it up; the
backward pass sorts the lookups by row, loads each row once and serves the gradients of the row and of all its weights from it.

The sum over a row's lookups is cut where the sorted lookups cross a multiple of CHUNK. The piece at a row's start is written by the
row's own program; each later piece fills a chunk from its left edge, so a chunk has at most one, kept as a partial row and
added in order by a second kernel. A row that everything reads is thus worked on by many programs, and one that is read
once costs one program. Every sum has one owner and a fixed order: no float atomics, same bits each time.

A slot outside the table is never followed. Its contribution is NaN, to the output and to the gradient of its weight, so that it is
seen in the loss; the gradient of the rows leaves it out.
"""

import functools
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from memlm.model.kernels import reference
from memlm.model.kernels.interface import AdamStep, RowGradient
from memlm.model.kernels.reference import candidate_pairs, count

__all__ = [
    "count",
    "lazy_adam_step",
    "merge_rows",
    "read",
    "read_backward",
    "read_backward_of_rows",
    "search",
    "search_backward",
]

CHUNK = 128
"""Sorted lookups in a chunk: the most that one program adds up, 64 trips to memory one after the other."""
ROWS_IN_FLIGHT = 8
"""Rows that a reading program has under way at once: 16 KB in bf16 at width 1,024."""
GRADIENTS_IN_FLIGHT = 2
"""The same in the backward pass, where most rows of a large table have one or two lookups, and wider tiles would stand empty and
take registers that more programs could use."""
MAX_COLUMNS = 1024
MAX_HALF_KEYS = 4096
"""Sub-scores of one half that fit the registers of a program of the search, for 16,777,216 slots."""
MAX_TOP_K = 128
MAX_LOOKUPS = 2**31 - 2 * CHUNK
"""So that the number after a chunk's last fits 32 bits."""

NAN = tl.constexpr(float("nan"))
LOWEST = tl.constexpr(-(2**31))
ALL_BUT_SIGN = tl.constexpr(0x7FFFFFFF)


def search(
    sub_scores: Float[Tensor, "heads 2 tokens num_half_keys"], top_k: int
) -> tuple[Int[Tensor, "tokens heads {top_k}"], Float[Tensor, "tokens heads {top_k}"]]:
    """One program per token and head, which reads its sub-scores once and writes top_k slots.

    Between the two nothing leaves the registers, where torch.topk over unique integers would take several passes over twice
    the bytes of the sub-scores. Beyond what registers hold it is the reference's, with the same result to the bit.
    """
    num_heads, _, num_tokens, num_half_keys = sub_scores.shape
    if num_half_keys > MAX_HALF_KEYS or top_k > MAX_TOP_K:
        return reference.search(sub_scores, top_k)
    slots = torch.empty(num_tokens, num_heads, top_k, dtype=torch.int64, device=sub_scores.device)
    scores = torch.empty(num_tokens, num_heads, top_k, dtype=torch.float32, device=sub_scores.device)
    candidate_ranks = _candidate_ranks(top_k, sub_scores.device)
    num_candidates = candidate_ranks.shape[1]
    ranks = max(2, triton.next_power_of_2(top_k))  # tl.topk knows no fewer
    width = max(triton.next_power_of_2(num_half_keys), ranks)
    if num_tokens and num_heads:
        with torch.cuda.device_of(sub_scores):
            _search_kernel[(num_tokens * num_heads,)](
                sub_scores,
                *sub_scores.stride(),
                candidate_ranks,
                slots,
                scores,
                num_heads,
                num_half_keys,
                top_k,
                num_candidates,
                RANKS=ranks,
                HALF_KEYS=width,
                CANDIDATES=max(2, triton.next_power_of_2(num_candidates)),
                num_warps=min(8, max(1, width // 256)),
            )
    return slots, scores


def search_backward(
    grad_scores: Float[Tensor, "tokens heads top_k"],
    slots: Int[Tensor, "tokens heads top_k"],
    queries: Float[Tensor, "tokens heads key_dim"],
    half_keys: Float[Tensor, "heads 2 num_half_keys key_dim//2"],
) -> tuple[Float[Tensor, "tokens heads key_dim"], Float[Tensor, "heads 2 num_half_keys key_dim//2"]]:
    """The search seen as a weighted read of half-keys: a half-query reads top_k of them, weighted by the gradients of the scores.

    A dense gradient of the sub-scores would have to be scattered with float atomics, since the pairs found share half-keys, and then be
    multiplied twice by matrices of which all but top_k of num_half_keys columns are zero: at 1,024 half-keys and k 32 that
    is 32 times the arithmetic. The rows read here are few enough to stay in the L2 cache (8 MB of half-keys in the paper's model).
    """
    _, num_heads, top_k = slots.shape
    num_half_keys, half_dim = half_keys.shape[2:]
    halves = torch.stack([slots // num_half_keys, slots % num_half_keys], dim=2)
    tables = torch.arange(num_heads * 2, device=slots.device).view(num_heads, 2, 1)
    lookups = (halves + tables * num_half_keys).view(-1, top_k)
    weights = grad_scores.unsqueeze(2).expand_as(halves).reshape(-1, top_k)
    table = half_keys.reshape(-1, half_dim)
    grad_queries = read(table, lookups, weights).view(queries.shape)
    runs = _runs_of_all(lookups.flatten().int(), num_rows=len(table))
    grad_half_keys, _ = _sum_lookups(queries.reshape(-1, half_dim), weights, runs)
    return grad_queries, grad_half_keys.view_as(half_keys)


def read(
    values: Float[Tensor, "num_slots value_dim"],
    slots: Int[Tensor, "tokens reads"],
    weights: Float[Tensor, "tokens reads"],
) -> Float[Tensor, "tokens value_dim"]:
    """A token that reads a slot outside the table gets NaN in all columns."""
    num_tokens, num_reads = slots.shape
    num_slots, value_dim = values.shape
    output = values.new_empty(num_tokens, value_dim)
    columns = _block_of_columns(value_dim)
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
                num_warps=_warps(columns, values.element_size()),
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
    """The device is waited for once, to learn how many rows were read, and only if their gradient is wanted.

    Raises ValueError for more than MAX_LOOKUPS lookups.
    """
    if not rows:
        return None, _weight_gradient(grad_output, values, slots) if weight_gradient else None
    _check_number_of_lookups(slots)
    num_slots = len(values)
    flat = slots.reshape(-1)
    keys = torch.where((flat >= 0) & (flat < num_slots), flat, num_slots)
    # Half as many bits are half as many passes of the radix sort.
    keys, lookups = (keys.int() if num_slots < 2**31 else keys).sort(stable=True)
    begins_run = keys < num_slots
    begins_run[1:] &= keys[1:] != keys[:-1]
    starts = begins_run.nonzero().squeeze(1)
    accessed = keys[starts].long()
    end = torch.searchsorted(keys, keys.new_full((1,), num_slots))
    runs = _Runs(lookups, torch.cat([starts, end]).int())
    row_gradient, through_weights = _sum_lookups(
        grad_output, weights, runs, values=values if weight_gradient else None, row_slots=accessed
    )
    return RowGradient(accessed, row_gradient), through_weights


def read_backward_of_rows(
    grad_output: Float[Tensor, "tokens value_dim"],
    slots: Int[Tensor, "tokens reads"],
    weights: Float[Tensor, "tokens reads"],
    row_slots: Int[Tensor, " rows"],
) -> Float[Tensor, "rows value_dim"]:
    """Sorts all lookups, those of other rows to the end: picking the few first would make the host wait for their number.

    Raises ValueError for more than MAX_LOOKUPS lookups.
    """
    _check_number_of_lookups(slots)
    num_rows = len(row_slots)
    if not num_rows or not slots.numel():
        return grad_output.new_zeros(num_rows, grad_output.shape[1])
    flat = slots.reshape(-1)
    rows = torch.searchsorted(row_slots.contiguous(), flat, out_int32=True)
    found = row_slots[rows.clamp(max=num_rows - 1)] == flat
    runs = _runs_of_all(torch.where(found, rows, num_rows).int(), num_rows)
    gradient, _ = _sum_lookups(grad_output, weights, runs)
    return gradient


def merge_rows(parts: list[RowGradient]) -> RowGradient:
    """Rows are added where they lie, by address: joining the parts first would move each of them twice more."""
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
    columns = _block_of_columns(value_dim)
    if len(starts):
        with torch.cuda.device_of(slots):
            _merge_kernel[(len(starts), triton.cdiv(value_dim, columns))](
                addresses,
                torch.cat([starts, starts.new_full((1,), len(slots))]),
                merged.rows,
                value_dim,
                ALIGNMENT=16 if aligned else 4,
                COLUMNS=columns,
                num_warps=_warps(columns, 4),
            )
    return merged


def lazy_adam_step(
    values: Float[Tensor, "num_slots value_dim"],
    first_moments: Float[Tensor, "num_slots value_dim"],
    second_moments: Float[Tensor, "num_slots value_dim"],
    gradient: RowGradient,
    step: AdamStep,
) -> None:
    """One pass over the gradient's rows. A slot outside the table is passed over."""
    num_slots, value_dim = values.shape
    columns = _block_of_columns(value_dim)
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
                num_warps=_warps(columns, 4),
            )


@functools.lru_cache(maxsize=32)
def _candidate_ranks(top_k: int, device: torch.device) -> Int[Tensor, "2 candidates"]:
    return torch.stack(candidate_pairs(top_k, device)).int()


class _Runs(NamedTuple):
    """Lookups sorted so that those of a row stand together."""

    lookups: Int[Tensor, " lookups"]
    """token * reads + read of each."""
    starts: Int[Tensor, " rows+1"]
    """Where each row's lookups start, int32; the last entry ends the last row's. What comes after it belongs to no row."""


def _runs_of_all(rows: Int[Tensor, " lookups"], num_rows: int) -> _Runs:
    """The runs of rows 0 to num_rows - 1, of which some may be empty; lookups with a higher number belong to no row."""
    rows, lookups = rows.sort(stable=True)
    bounds = torch.arange(num_rows + 1, dtype=rows.dtype, device=rows.device)
    return _Runs(lookups, torch.searchsorted(rows, bounds, out_int32=True))


def _sum_lookups(
    grad_output: Float[Tensor, "tokens value_dim"],
    weights: Float[Tensor, "tokens reads"],
    runs: _Runs,
    *,
    values: Float[Tensor, "num_slots value_dim"] | None = None,
    row_slots: Int[Tensor, " rows"] | None = None,
) -> tuple[Float[Tensor, "rows value_dim"], Float[Tensor, "tokens reads"] | None]:
    """The sum of weight * grad_output over the lookups of each row; with values also the gradients of the weights.

    The weight of a lookup that belongs to no row has the gradient NaN.
    """
    value_dim, num_lookups, num_rows = grad_output.shape[1], len(runs.lookups), len(runs.starts) - 1
    columns = _block_of_columns(value_dim)
    blocks = triton.cdiv(value_dim, columns)
    rows = grad_output.new_empty(num_rows, value_dim, dtype=torch.float32)
    through_weights = None
    if values is not None:
        # A dot product over several blocks of columns is added up afterwards, in their order.
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
                LOOKUPS=GRADIENTS_IN_FLIGHT,
                COLUMNS=columns,
                num_warps=_warps(columns, 2 if values is not None and values.dtype == torch.bfloat16 else 4),
            )
            if len(row_of_chunk):
                # Narrow blocks: a row that everything reads has many partial rows, and few rows are like that.
                _add_partial_rows_kernel[(len(row_of_chunk), triton.cdiv(value_dim, 64))](
                    runs.starts, row_of_chunk, rows, partial_rows, value_dim, CHUNK=CHUNK, PARTS=32, COLUMNS=64
                )
    if through_weights is None:
        return rows, None
    return rows, through_weights[0] if blocks == 1 else through_weights.sum(dim=0)


def _rows_entering_chunks(runs: _Runs) -> Int[Tensor, " chunks"]:
    """For each chunk the row whose lookups began in an earlier one and go on in it; -1 where there is none."""
    edges = torch.arange(0, len(runs.lookups), CHUNK, dtype=torch.int32, device=runs.starts.device)
    rows = torch.searchsorted(runs.starts, edges, right=True, out_int32=True) - 1
    enters = (rows < len(runs.starts) - 1) & (runs.starts[rows] < edges)
    return torch.where(enters, rows, -1)


def _weight_gradient(
    grad_output: Float[Tensor, "tokens value_dim"],
    values: Float[Tensor, "num_slots value_dim"],
    slots: Int[Tensor, "tokens reads"],
) -> Float[Tensor, "tokens reads"]:
    """Token by token, without a sort: with no row to own, what repeats comes from the cache."""
    num_tokens, num_reads = slots.shape
    num_slots, value_dim = values.shape
    through_weights = grad_output.new_empty(num_tokens, num_reads, dtype=torch.float32)
    columns = _block_of_columns(value_dim)
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
                num_warps=_warps(columns, values.element_size()),
            )
    return through_weights


def _block_of_columns(value_dim: int) -> int:
    """The power of two at which the fewest lanes stand idle, and of equal ones the widest."""
    widest = min(MAX_COLUMNS, triton.next_power_of_2(value_dim))
    return min(
        (columns for columns in (widest, 512, 256) if columns <= widest),
        key=lambda columns: triton.cdiv(value_dim, columns) * columns,
    )


def _warps(columns: int, element_size: int) -> int:
    """So many that each thread loads 16 bytes of a row, the widest load there is."""
    return min(8, max(1, columns * element_size // (16 * 32)))


def _check_number_of_lookups(slots: Int[Tensor, "tokens reads"]) -> None:
    if slots.numel() > MAX_LOOKUPS:
        raise ValueError(
            f"slots holds {slots.numel()} lookups, and the sorted backward pass numbers them in 32 bits; "
            f"it must be at most {MAX_LOOKUPS}. Use micro-batches of fewer tokens"
        )


# All kernels below get tensors as pointers, each followed by its strides unless they are fixed; a shape is in elements.
# Offsets that grow with a table or a batch are int64: 1,048,576 slots of 1,024 columns have 2**30 elements, and more slots more.


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
    """One program: one token, one block of columns."""
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
        weight = tl.where(is_read & ~exists, NAN, weight)
        row = tl.load(
            values + slot[:, None] * values_slot_stride + columns[None, :] * values_column_stride,
            mask=(is_read & exists)[:, None] & in_row[None, :],
            other=0.0,
        ).to(tl.float32)
        total += tl.sum(row * weight[:, None], axis=0)
    tl.store(output + token * value_dim + columns, total.to(output.dtype.element_ty), mask=in_row)


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
    """One program: one piece of one row's lookups, one block of columns. The first num_rows programs own the rows' first pieces."""
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
            # 32 bits: a division of 64 bits would cost as much as the loads.
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
    """One program: one block of columns of a row that has partial rows, if the first of them is this program's chunk."""
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
    """One program: a few reads of one token, all columns."""
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
    tl.store(through_weights + token * num_reads + reads, tl.where(exists, dots, NAN), mask=is_read)


@triton.jit
def _merge_kernel(
    addresses: tl.tensor,
    starts: tl.tensor,
    rows: tl.tensor,
    value_dim: tl.tensor,
    ALIGNMENT: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """One program: one merged row, one block of columns. Addresses are of fp32 rows, in bytes, and divisible by ALIGNMENT."""
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
    """One program: one row, one block of columns. Rates are 1 - beta; the corrections for the start are in the last numbers."""
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


@triton.jit
def _search_kernel(
    sub_scores: tl.tensor,
    head_stride: tl.tensor,
    half_stride: tl.tensor,
    token_stride: tl.tensor,
    half_key_stride: tl.tensor,
    candidate_ranks: tl.tensor,
    slots: tl.tensor,
    scores: tl.tensor,
    num_heads: tl.tensor,
    num_half_keys: tl.tensor,
    top_k: tl.tensor,
    num_candidates: tl.tensor,
    RANKS: tl.constexpr,
    HALF_KEYS: tl.constexpr,
    CANDIDATES: tl.constexpr,
) -> None:
    """One program: one token, one head. Ranks, half-keys and candidates are padded to powers of two."""
    program = tl.program_id(0)
    token, head = (program // num_heads).to(tl.int64), (program % num_heads).to(tl.int64)
    half_keys = tl.arange(0, HALF_KEYS)
    is_key = half_keys < num_half_keys
    first_at = sub_scores + head * head_stride + token * token_stride + half_keys.to(tl.int64) * half_key_stride
    first_best = tl.topk(_sortable(tl.load(first_at, mask=is_key, other=0.0), is_key, HALF_KEYS), RANKS)
    second_best = tl.topk(_sortable(tl.load(first_at + half_stride, mask=is_key, other=0.0), is_key, HALF_KEYS), RANKS)
    candidates = tl.arange(0, CANDIDATES)
    is_candidate = candidates < num_candidates
    ranks_at = candidate_ranks + candidates
    first = tl.gather(first_best, tl.load(ranks_at, mask=is_candidate, other=0), 0)
    second = tl.gather(second_best, tl.load(ranks_at + num_candidates, mask=is_candidate, other=0), 0)
    pair_slots = _place(first, HALF_KEYS) * num_half_keys + _place(second, HALF_KEYS)
    best = tl.topk(_sortable(_score(first) + _score(second), is_candidate, CANDIDATES), RANKS)
    ranks = tl.arange(0, RANKS)
    found = program.to(tl.int64) * top_k + ranks
    tl.store(slots + found, tl.gather(pair_slots, _place(best, CANDIDATES), 0).to(tl.int64), mask=ranks < top_k)
    tl.store(scores + found, _score(best), mask=ranks < top_k)


@triton.jit
def _sortable(scores: tl.tensor, is_score: tl.tensor, SIZE: tl.constexpr) -> tl.tensor:
    """Integers of which no two are equal: the score's bits in the scores' order above, the place from behind below."""
    bits = tl.where(scores == 0.0, 0.0, scores).to(tl.int32, bitcast=True)  # -0.0 and 0.0 are equal, their bits are not
    ordered = tl.where(is_score, tl.where(bits < 0, bits ^ ALL_BUT_SIGN, bits), LOWEST)
    return (ordered.to(tl.int64) << 32) | (SIZE - 1 - tl.arange(0, SIZE)).to(tl.int64)


@triton.jit
def _score(sortable: tl.tensor) -> tl.tensor:
    ordered = (sortable >> 32).to(tl.int32)
    return tl.where(ordered < 0, ordered ^ ALL_BUT_SIGN, ordered).to(tl.float32, bitcast=True)


@triton.jit
def _place(sortable: tl.tensor, SIZE: tl.constexpr) -> tl.tensor:
    return SIZE - 1 - (sortable & (SIZE - 1)).to(tl.int32)
