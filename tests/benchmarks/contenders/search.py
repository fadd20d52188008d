"""The product-key search alone: ours, and the k * k search that every published layer uses."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from memlm.model.product_keys import product_key_search
from tests.benchmarks.contender import Clock, Contender
from tests.benchmarks.inputs import LayerShape, layer_weights, seeded


def square_search(
    queries: Float[Tensor, "tokens heads key_dim"],
    half_keys: Float[Tensor, "heads 2 num_half_keys key_dim//2"],
    top_k: int,
) -> tuple[Int[Tensor, "tokens heads {top_k}"], Float[Tensor, "tokens heads {top_k}"]]:
    """The best top_k of all top_k * top_k pairs of the best half-keys, as it is usually written."""
    num_tokens, num_heads, key_dim = queries.shape
    halves = queries.view(num_tokens, num_heads, 2, key_dim // 2).permute(1, 2, 0, 3)
    sub_scores = halves @ half_keys.transpose(-1, -2)
    best, best_keys = sub_scores.topk(top_k, dim=-1)
    pairs = (best[:, 0, :, :, None] + best[:, 1, :, None, :]).flatten(-2)
    slots = (best_keys[:, 0, :, :, None] * half_keys.shape[2] + best_keys[:, 1, :, None, :]).flatten(-2)
    scores, chosen = pairs.topk(top_k, dim=-1)
    return slots.gather(-1, chosen).transpose(0, 1), scores.transpose(0, 1)


class _Search(Contender):
    search = staticmethod(product_key_search)

    def __init__(self, *, device: torch.device, **shape: int) -> None:
        self.shape = LayerShape(**shape)
        self.half_keys = layer_weights(self.shape, device)["half_keys"]
        size = self.shape.num_tokens, self.shape.num_heads, self.shape.key_dim
        self.queries = torch.randn(size, generator=seeded(7)).to(device)

    @torch.no_grad()
    def repeat(self, clock: Clock) -> None:
        with clock:
            self.search(self.queries, self.half_keys, self.shape.top_k)

    @torch.no_grad()
    def outputs(self) -> dict[str, Tensor]:
        slots, scores = self.search(self.queries, self.half_keys, self.shape.top_k)
        return {"slots": slots, "scores": scores, "queries": self.queries, "half_keys": self.half_keys}


class PrunedSearch(_Search):
    """Our search."""


class SquareSearch(_Search):
    search = staticmethod(square_search)


def same_up_to_ties(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], *, tolerance: float = 1e-4) -> list[str]:
    """List of differences unless the scores are equal at every rank, and our slots are distinct and
    have those scores. Then they are a valid top k, whichever of equal slots they name."""
    wrong = []
    scale = float(theirs["scores"].double().square().mean().sqrt())
    if not torch.allclose(ours["scores"], theirs["scores"], rtol=0, atol=tolerance * scale):
        wrong.append(
            f"scores differ from the k * k search's by up to {float((ours['scores'] - theirs['scores']).abs().max()):.3g}"
        )
    slots, half_keys = ours["slots"], ours["half_keys"].double()
    num_half_keys = half_keys.shape[2]
    first, second = ours["queries"].double().chunk(2, dim=-1)
    left = torch.einsum("thd,hnd->thn", first, half_keys[:, 0]).gather(-1, slots // num_half_keys)
    right = torch.einsum("thd,hnd->thn", second, half_keys[:, 1]).gather(-1, slots % num_half_keys)
    if not torch.allclose(left + right, ours["scores"].double(), rtol=0, atol=tolerance * scale):
        wrong.append("slots do not have the scores that are given with them")
    if bool((slots.sort(dim=-1).values.diff(dim=-1) == 0).any()):
        wrong.append("a slot is named twice for one query")
    return wrong
