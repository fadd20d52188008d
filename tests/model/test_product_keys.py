import pytest
import torch

from memlm.model.kernels.reference import candidate_pairs
from memlm.model.product_keys import product_key_search
from tests.support.tiny import all_scores


@pytest.mark.parametrize(
    ("num_half_keys", "top_k", "num_heads", "key_dim"),
    [(1, 1, 1, 2), (5, 5, 1, 2), (7, 3, 2, 6), (13, 13, 3, 10), (33, 8, 4, 14), (31, 17, 2, 4), (64, 32, 4, 16)],
)
def test_the_pruned_search_equals_scoring_every_slot(num_half_keys, top_k, num_heads, key_dim):
    generator = torch.Generator().manual_seed(num_half_keys)
    queries = torch.randn(11, num_heads, key_dim, generator=generator)
    half_keys = torch.randn(num_heads, 2, num_half_keys, key_dim // 2, generator=generator)
    slots, scores = product_key_search(queries, half_keys, top_k)
    plain = all_scores(queries, half_keys)
    expected_scores, expected_slots = plain.topk(top_k)
    assert slots.shape == scores.shape == (11, num_heads, top_k)
    torch.testing.assert_close(scores, expected_scores)
    torch.testing.assert_close(scores, plain.gather(-1, slots))
    # Best first; where two scores are equal to rounding, either order is right.
    assert torch.equal(slots.sort().values, expected_slots.sort().values)


def test_no_slot_is_found_twice_where_all_scores_tie():
    slots, _ = product_key_search(torch.zeros(2, 1, 4), torch.randn(1, 2, 6, 2), 6)
    assert all(len(set(row.tolist())) == 6 for row in slots.flatten(0, 1))


@pytest.mark.parametrize(("top_k", "num_pairs"), [(1, 1), (2, 3), (3, 5), (8, 20), (32, 119)])
def test_number_of_candidate_pairs(top_k, num_pairs):
    first, second = candidate_pairs(top_k, torch.device("cpu"))
    assert len(first) == len(second) == num_pairs
    assert len(set(zip(first.tolist(), second.tolist(), strict=True))) == num_pairs


def test_every_candidate_pair_is_needed():
    """For each pair there are sub-scores that put it among the top k, so fewer candidates would
    miss slots."""
    top_k = 8
    for i, j in zip(*(ranks.tolist() for ranks in candidate_pairs(top_k, torch.device("cpu"))), strict=True):
        left, right = [1.0] * (i + 1) + [0.0] * (top_k - 1 - i), [1.0] * (j + 1) + [0.0] * (top_k - 1 - j)
        sums = torch.tensor([[a + b for b in right] for a in left])
        assert sums[i, j] == 2 and int((sums == 2).sum()) <= top_k


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_sub_scores_are_fp32_under_autocast_and_in_bf16(dtype):
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(20, 2, 8, generator=generator).to(dtype)
    half_keys = torch.randn(2, 2, 40, 4, generator=generator).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        slots, scores = product_key_search(queries, half_keys, 4)
    expected_slots, expected_scores = product_key_search(queries.float(), half_keys.float(), 4)
    assert scores.dtype == torch.float32
    assert torch.equal(slots, expected_slots) and torch.equal(scores, expected_scores)


def test_in_bf16_scores_would_tie():
    """The reason for fp32, and evidence that the test above can fail."""
    generator = torch.Generator().manual_seed(0)
    queries, half_keys = torch.randn(20, 2, 8, generator=generator), torch.randn(2, 2, 40, 4, generator=generator)
    rounded = all_scores(queries.bfloat16(), half_keys.bfloat16()).topk(5).values
    assert (rounded[..., 3] == rounded[..., 4]).any()
    exact = all_scores(queries.bfloat16().float(), half_keys.bfloat16().float()).topk(5).values
    assert not (exact[..., 3] == exact[..., 4]).any()


@pytest.mark.parametrize("top_k", [0, 7])
def test_more_slots_than_half_keys_are_refused(top_k):
    with pytest.raises(ValueError, match=f"top_k is {top_k}, and there are 6 half-keys"):
        product_key_search(torch.zeros(2, 1, 4), torch.zeros(1, 2, 6, 2), top_k)


def test_queries_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"the queries must be \[tokens, 1, 4\]"):
        product_key_search(torch.zeros(2, 1, 6), torch.zeros(1, 2, 6, 2), 3)
