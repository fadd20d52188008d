"""Product-key search in Triton, and its gradient."""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from memlm.model.kernels import reference
from memlm.model.kernels.triton_lookup_sums import check_number_of_lookups, runs_of_all_rows, sum_lookups
from memlm.model.kernels.triton_read import read

MAX_HALF_KEYS = 4096
"""Largest number of sub-scores of one half that fit the registers of one program, which is enough
for 16,777,216 slots."""
MAX_TOP_K = 128
"""Largest number of sorted scores that fit them, both for each half and for the pairs."""
LOWEST = tl.constexpr(-(2**31))
ALL_BUT_SIGN = tl.constexpr(0x7FFFFFFF)


def search(
    sub_scores: Float[Tensor, "heads 2 tokens num_half_keys"], top_k: int
) -> tuple[Int[Tensor, "tokens heads {top_k}"], Float[Tensor, "tokens heads {top_k}"]]:
    """The top_k slots and scores. One program per token and head reads its sub-scores once and
    writes top_k slots.

    Between the two nothing leaves the registers, while torch.topk over distinct integers would
    take several passes over twice the bytes of the sub-scores. Sizes that do not fit the registers
    use the reference implementation, with the same result to the bit.
    """
    num_heads, _, num_tokens, num_half_keys = sub_scores.shape
    if num_half_keys > MAX_HALF_KEYS or top_k > MAX_TOP_K:
        return reference.search(sub_scores, top_k)
    slots = torch.empty(num_tokens, num_heads, top_k, dtype=torch.int64, device=sub_scores.device)
    scores = torch.empty(num_tokens, num_heads, top_k, dtype=torch.float32, device=sub_scores.device)
    candidate_ranks = reference.candidate_ranks(top_k, sub_scores.device, torch.int32)
    num_candidates = candidate_ranks.shape[1]
    ranks = max(2, triton.next_power_of_2(top_k))  # tl.topk needs at least two
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
    """Gradients of the search, computed as a weighted read of half-keys: a half-query reads top_k
    of them, weighted by the gradients of the scores.

    A dense gradient of the sub-scores would have to be scattered with float atomics, since the
    pairs found share half-keys. Then it would be multiplied by two matrices of which all but top_k
    of num_half_keys columns are zero: for 1,024 half-keys and k = 32, 32 times the arithmetic. The
    rows read here are few enough to stay in the L2 cache (8 MB of half-keys in the paper's model).
    """
    _, num_heads, top_k = slots.shape
    num_half_keys, half_dim = half_keys.shape[2:]
    halves = torch.stack([slots // num_half_keys, slots % num_half_keys], dim=2)
    tables = torch.arange(num_heads * 2, device=slots.device).view(num_heads, 2, 1)
    lookups = (halves + tables * num_half_keys).view(-1, top_k)
    check_number_of_lookups(lookups)
    weights = grad_scores.unsqueeze(2).expand_as(halves).reshape(-1, top_k)
    table = half_keys.reshape(-1, half_dim)
    grad_queries = read(table, lookups, weights).view(queries.shape)
    runs = runs_of_all_rows(lookups.flatten().int(), num_rows=len(table))
    grad_half_keys, _ = sum_lookups(queries.reshape(-1, half_dim), weights, runs)
    return grad_queries, grad_half_keys.view_as(half_keys)


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
    """One program handles one token and one head. Ranks, half-keys and candidates are padded to
    powers of two."""
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
    outputs = program.to(tl.int64) * top_k + ranks
    tl.store(slots + outputs, tl.gather(pair_slots, _place(best, CANDIDATES), 0).to(tl.int64), mask=ranks < top_k)
    tl.store(scores + outputs, _score(best), mask=ranks < top_k)


@triton.jit
def _sortable(scores: tl.tensor, is_score: tl.tensor, SIZE: tl.constexpr) -> tl.tensor:
    """Distinct integers that sort like the scores: the score's bits in sortable form as high bits,
    the position counted from the end as low bits."""
    bits = tl.where(scores == 0.0, 0.0, scores).to(tl.int32, bitcast=True)  # -0.0 equals 0.0 but has different bits
    ordered = tl.where(is_score, tl.where(bits < 0, bits ^ ALL_BUT_SIGN, bits), LOWEST)
    return (ordered.to(tl.int64) << 32) | (SIZE - 1 - tl.arange(0, SIZE)).to(tl.int64)


@triton.jit
def _score(sortable: tl.tensor) -> tl.tensor:
    ordered = (sortable >> 32).to(tl.int32)
    return tl.where(ordered < 0, ordered ^ ALL_BUT_SIGN, ordered).to(tl.float32, bitcast=True)


@triton.jit
def _place(sortable: tl.tensor, SIZE: tl.constexpr) -> tl.tensor:
    return SIZE - 1 - (sortable & (SIZE - 1)).to(tl.int32)
