"""The kernels in plain torch, for any device. They run where nothing faster is available, and the
faster ones are tested against them."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from memlm.model.kernels.interface import AdamStep, RowGradient

GATHERED_BYTES = 1 << 26
"""Size of the rows gathered at once where gathering is necessary, so that memory use does not grow
with the number of tokens."""


def candidate_pairs(top_k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The pairs of ranks (i, j) that can be among the top k, in lexicographic order: 119 of 1,024
    for k = 32."""
    first, second = candidate_ranks(top_k, device, torch.int64)
    return first, second


def candidate_ranks(top_k: int, device: torch.device, dtype: torch.dtype) -> Int[Tensor, "2 candidates"]:
    """The candidate pairs as one tensor, cached for the next call unless it belongs to a trace,
    outside of which it has no meaning."""
    known = _candidate_ranks.get((top_k, device, dtype))
    if known is not None:
        return known
    pairs = [(i, j) for i in range(top_k) for j in range(top_k) if (i + 1) * (j + 1) <= top_k]
    with torch.inference_mode(False):
        ranks = torch.tensor(pairs, device=device, dtype=dtype).T.contiguous()
    if type(ranks) is Tensor and not torch.compiler.is_compiling():
        _candidate_ranks[top_k, device, dtype] = ranks
    return ranks


_candidate_ranks: dict[tuple[int, torch.device, torch.dtype], Tensor] = {}


def search(
    sub_scores: Float[Tensor, "heads 2 tokens num_half_keys"], top_k: int
) -> tuple[Int[Tensor, "tokens heads {top_k}"], Float[Tensor, "tokens heads {top_k}"]]:
    num_half_keys = sub_scores.shape[-1]
    best, best_keys = _largest(sub_scores, top_k)
    first, second = candidate_pairs(top_k, sub_scores.device)
    scores, chosen = _largest(best[:, 0][..., first] + best[:, 1][..., second], top_k)
    slots = best_keys[:, 0].gather(-1, first[chosen]) * num_half_keys + best_keys[:, 1].gather(-1, second[chosen])
    return slots.transpose(0, 1).contiguous(), scores.transpose(0, 1).contiguous()


def _largest(scores: Float[Tensor, "*batch n"], k: int) -> tuple[Float[Tensor, "*batch k"], Int[Tensor, "*batch k"]]:
    """The k largest scores, best first. Of equal scores the earlier one is chosen, which
    torch.topk does not guarantee.

    It is therefore given distinct integers: the score's bits in sortable form as high bits, and
    the position counted from the end as low bits.
    """
    scores = scores + 0.0  # -0.0 equals 0.0 but has different bits
    bits = scores.view(torch.int32).long()
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    places = torch.arange(scores.shape[-1] - 1, -1, -1, device=scores.device)
    chosen = scores.shape[-1] - 1 - ((ordered << 32) | places).topk(k, dim=-1).values.bitwise_and(0xFFFFFFFF)
    return scores.gather(-1, chosen), chosen


def search_backward(
    grad_scores: Float[Tensor, "tokens heads top_k"],
    slots: Int[Tensor, "tokens heads top_k"],
    queries: Float[Tensor, "tokens heads key_dim"],
    half_keys: Float[Tensor, "heads 2 num_half_keys key_dim//2"],
) -> tuple[Float[Tensor, "tokens heads key_dim"], Float[Tensor, "heads 2 num_half_keys key_dim//2"]]:
    num_tokens, num_heads, _ = slots.shape
    num_half_keys = half_keys.shape[2]
    grad_sub_scores = grad_scores.new_zeros(num_tokens, num_heads, 2, num_half_keys)
    grad_sub_scores[:, :, 0].scatter_add_(2, slots // num_half_keys, grad_scores)
    grad_sub_scores[:, :, 1].scatter_add_(2, slots % num_half_keys, grad_scores)
    halves = queries.view(num_tokens, num_heads, 2, half_keys.shape[3])
    grad_queries = torch.einsum("thsn,hsnd->thsd", grad_sub_scores, half_keys).reshape_as(queries)
    return grad_queries, torch.einsum("thsn,thsd->hsnd", grad_sub_scores, halves)


def read(
    values: Float[Tensor, "num_slots value_dim"],
    slots: Int[Tensor, "tokens reads"],
    weights: Float[Tensor, "tokens reads"],
) -> Float[Tensor, "tokens value_dim"]:
    if slots.numel() == 0:
        return values.new_zeros(len(slots), values.shape[1])
    # On other devices the check would make the host wait, and in a trace there are no values.
    if slots.device.type == "cpu" and not torch.compiler.is_compiling():
        lowest, highest = slots.aminmax()
        if lowest < 0 or highest >= len(values):
            slot = int(lowest if lowest < 0 else highest)
            raise IndexError(f"slot {slot} lies outside the table of {len(values)} slots; slots are counted from 0")
    if values.dtype == torch.float32:
        return F.embedding_bag(slots, values, per_sample_weights=weights, mode="sum")
    # embedding_bag would round the weights to the table's type.
    return torch.cat(
        [
            torch.einsum("trd,tr->td", values[part].float(), part_weights).to(values.dtype)
            for part, part_weights in _in_parts(values, slots, weights)
        ]
    )


def read_backward(
    grad_output: Float[Tensor, "tokens value_dim"],
    values: Float[Tensor, "num_slots value_dim"],
    slots: Int[Tensor, "tokens reads"],
    weights: Float[Tensor, "tokens reads"],
    *,
    rows: bool,
    weight_gradient: bool,
) -> tuple[RowGradient | None, Float[Tensor, "tokens reads"] | None]:
    gradient = None
    if rows:
        accessed = slots.unique()
        gradient = RowGradient(accessed, read_backward_of_rows(grad_output, slots, weights, accessed))
    if not weight_gradient:
        return gradient, None
    parts = _in_parts(values, slots, grad_output)
    through_weights = [torch.einsum("trd,td->tr", values[part].float(), grad) for part, grad in parts]
    return gradient, torch.cat(through_weights) if through_weights else torch.zeros_like(weights)


def read_backward_of_rows(
    grad_output: Float[Tensor, "tokens value_dim"],
    slots: Int[Tensor, "tokens reads"],
    weights: Float[Tensor, "tokens reads"],
    row_slots: Int[Tensor, " rows"],
) -> Float[Tensor, "rows value_dim"]:
    # The gradient of a row is the sum of weight * grad over its lookups, which is itself a
    # weighted bag, over tokens.
    flat = slots.reshape(-1)
    if not len(flat) or not len(row_slots):
        return grad_output.new_zeros(len(row_slots), grad_output.shape[1])
    rows = torch.searchsorted(row_slots, flat).clamp_(max=len(row_slots) - 1)
    lookups = (row_slots[rows] == flat).nonzero().squeeze(1)
    rows, order = rows[lookups].sort(stable=True)
    lookups = lookups[order]
    return F.embedding_bag(
        lookups // slots.shape[1],
        grad_output,
        offsets=torch.searchsorted(rows, torch.arange(len(row_slots), device=rows.device)),
        per_sample_weights=weights.reshape(-1)[lookups],
        mode="sum",
    )


def merge_rows(parts: list[RowGradient]) -> RowGradient:
    if len(parts) == 1:
        return parts[0]
    slots, order = torch.cat([part.slots for part in parts]).sort(stable=True)
    merged, counts = slots.unique_consecutive(return_counts=True)
    if not len(merged):
        return parts[0]
    rows = torch.cat([part.rows for part in parts])
    return RowGradient(merged, F.embedding_bag(order, rows, offsets=counts.cumsum(0) - counts, mode="sum"))


def squared_norms(rows: Float[Tensor, "rows value_dim"]) -> Float[Tensor, " rows"]:
    return torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).square()


def count(slots: Int[Tensor, " accesses"]) -> tuple[Int[Tensor, " accessed"], Int[Tensor, " accessed"]]:
    return slots.unique(return_counts=True)


def second_moment(
    rows: Int[Tensor, " entries"],
    weights: Float[Tensor, " entries"],
    starts: Int[Tensor, " bounds"],
    num_rows: int,
) -> Float[Tensor, "columns columns"]:
    # Every entry is paired with all entries of its row, some entries at a time.
    num_columns = len(starts) - 1
    columns = torch.repeat_interleave(starts.diff())
    rows, order = rows.long().sort(stable=True)
    columns, weights = columns[order], weights[order].double()
    per_row = torch.bincount(rows, minlength=num_rows)
    first, partners = (per_row.cumsum(0) - per_row)[rows], per_row[rows]
    moment = weights.new_zeros(num_columns * num_columns)
    for part in _with_few_partners(partners):
        entry = torch.repeat_interleave(torch.arange(part.start, part.stop, device=rows.device), partners[part])
        begun = (partners[part].cumsum(0) - partners[part]).repeat_interleave(partners[part])
        partner = first[entry] + torch.arange(len(entry), device=rows.device) - begun
        moment.index_add_(0, columns[entry] * num_columns + columns[partner], weights[entry] * weights[partner])
    return moment.view(num_columns, num_columns)


def _with_few_partners(partners: Int[Tensor, " entries"]) -> Iterator[slice]:
    """Consecutive parts of the entries whose pairs fit into GATHERED_BYTES."""
    part_of_entry = partners.cumsum(0) // (GATHERED_BYTES // 8)
    start = 0
    for length in part_of_entry.unique_consecutive(return_counts=True)[1].tolist():
        yield slice(start, start + length)
        start += length


def lazy_adam_step(
    values: Float[Tensor, "num_slots value_dim"],
    first_moments: Float[Tensor, "num_slots value_dim"],
    second_moments: Float[Tensor, "num_slots value_dim"],
    gradient: RowGradient,
    step: AdamStep,
) -> None:
    slots, rows = gradient.slots, gradient.rows * step.gradient_scale
    first = first_moments[slots].lerp_(rows, 1 - step.beta1)
    second = second_moments[slots].mul_(step.beta2).addcmul_(rows, rows, value=1 - step.beta2)
    first_moments[slots], second_moments[slots] = first, second
    denominator = second.sqrt_().div_((1 - step.beta2**step.number) ** 0.5).add_(step.epsilon)
    moved = (
        values[slots].float().addcdiv_(first, denominator, value=-step.learning_rate / (1 - step.beta1**step.number))
    )
    values[slots] = moved.to(values.dtype)


def _in_parts(
    values: Float[Tensor, "num_slots value_dim"], slots: Int[Tensor, "tokens reads"], other: Float[Tensor, "tokens n"]
) -> list[tuple[Tensor, Tensor]]:
    tokens = max(1, GATHERED_BYTES // (4 * max(1, slots.shape[1] * values.shape[1])))
    return list(zip(slots.split(tokens), other.split(tokens), strict=True)) if len(slots) else []
