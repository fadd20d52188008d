"""Which slots does a query read? Exact top-k over the product of two sets of half-keys (Lample et al. 2019, section 3).

The keys of the pool are all pairs (c, c') of half-keys, so slot = i * num_half_keys + j and its score is the sum of two
sub-scores. The best k pairs lie among the k best of each half, and of those k * k only where (i + 1) * (j + 1) <= k:
pair (i, j) of two descending lists is beaten or equalled by the (i + 1) * (j + 1) - 1 pairs above and left of it.
"""

import functools

import torch
from jaxtyping import Float, Int
from torch import Tensor


@functools.lru_cache(maxsize=32)
def candidate_pairs(top_k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The ranks (i, j) that can be among the top k: 119 of 1,024 for k = 32."""
    pairs = [(i, j) for i in range(top_k) for j in range(top_k) if (i + 1) * (j + 1) <= top_k]
    ranks = torch.tensor(pairs, device=device).T
    return ranks[0], ranks[1]


def product_key_search(
    queries: Float[Tensor, "tokens heads key_dim"],
    half_keys: Float[Tensor, "heads 2 num_half_keys key_dim//2"],
    top_k: int,
) -> tuple[Int[Tensor, "tokens heads {top_k}"], Float[Tensor, "tokens heads {top_k}"]]:
    """The top_k slots of each query and head with their scores, best first.

    Sub-scores are fp32 whatever the autocast: in bf16 most rows tie at the k-th score and the choice becomes arbitrary.
    """
    num_tokens, num_heads, key_dim = queries.shape
    num_half_keys = half_keys.shape[2]
    with torch.autocast(queries.device.type, enabled=False):
        halves = queries.float().view(num_tokens, num_heads, 2, key_dim // 2).permute(1, 2, 0, 3)
        sub_scores = halves @ half_keys.float().transpose(-1, -2)
    best, best_keys = sub_scores.topk(top_k, dim=-1)
    first, second = candidate_pairs(top_k, queries.device)
    sums = best[:, 0][..., first] + best[:, 1][..., second]
    scores, chosen = sums.topk(top_k, dim=-1)
    slots = best_keys[:, 0].gather(-1, first[chosen]) * num_half_keys + best_keys[:, 1].gather(-1, second[chosen])
    return slots.transpose(0, 1), scores.transpose(0, 1)
