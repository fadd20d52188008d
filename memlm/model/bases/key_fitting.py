"""Queries and half-keys of a memory layer that fit what it is given, so that every slot is used
from the first token.

query: principal components of the hidden states, whitened, centred by the bias, rotated at random
half-keys: spherical k-means of the halves of the queries
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from memlm.model.memory import MemoryLayer

ROUNDS = 6
BEST_SUB_SCORE = 8.0
"""Sub-score of a half-key and the half of a normalised query in its own direction."""
MIN_VARIANCE = 1e-6
"""Components with less variance, as a share of the first one's, are rounding errors, and left
out."""
POINTS_AT_ONCE = 8192
MIN_TOKENS, TOKENS_PER_HALF_KEY = 16_384, 48


class FittingError(ValueError):
    """There is too little text to fit keys to."""


def num_tokens_to_fit(num_half_keys: int) -> int:
    """Tokens of background text that are enough for that many half-keys."""
    return max(MIN_TOKENS, TOKENS_PER_HALF_KEY * num_half_keys)


@torch.no_grad()
def fit_keys(layer: MemoryLayer, hidden: Float[Tensor, "tokens hidden"], *, seed: int) -> None:
    """Set the layer's query and half-keys. `hidden` is what the layer is given for the tokens of
    background text.

    The same states and seed give the same keys. Computed on the CPU. Raises FittingError for fewer
    tokens than half-keys.
    """
    num_heads, _, num_half_keys, half_dim = layer.half_keys.shape
    if len(hidden) < num_half_keys:
        raise FittingError(
            f"the background text has {len(hidden)} tokens, fewer than the {num_half_keys} half-keys to fit to it; "
            f"give more text, {num_tokens_to_fit(num_half_keys):,} tokens at best, or take fewer slots"
        )
    hidden, generator = hidden.cpu().double(), torch.Generator().manual_seed(seed)
    weight, bias = _whitening(hidden, num_heads * layer.key_dim, generator)
    halves = F.linear(hidden, weight, bias).float().view(len(hidden), num_heads, 2, half_dim)
    scale = BEST_SUB_SCORE / half_dim**0.5  # half a normalised query is sqrt(half_dim) long
    for head in range(num_heads):
        for half in range(2):
            centers = spherical_k_means(halves[:, head, half], num_half_keys, generator)
            layer.half_keys[head, half].copy_(scale * centers)
    layer.query.weight.copy_(weight)
    layer.query.bias.copy_(bias)


def _whitening(
    hidden: Float[Tensor, "tokens hidden"], num_outputs: int, generator: torch.Generator
) -> tuple[Float[Tensor, "outputs hidden"], Float[Tensor, " outputs"]]:
    """Weight and bias of the map to the first num_outputs principal components, or to all there
    are, whitened and rotated."""
    mean = hidden.mean(dim=0)
    centred = hidden - mean
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(hidden))  # in ascending order
    kept = variances[-num_outputs:] > MIN_VARIANCE * variances[-1]
    variances, directions = variances[-num_outputs:][kept], directions[:, -num_outputs:][:, kept]
    whitened = (directions / variances.sqrt()).T
    weight = _rotation(num_outputs, len(whitened), generator) @ whitened
    return weight, -weight @ mean


def _rotation(num_rows: int, width: int, generator: torch.Generator) -> Float[Tensor, "rows width"]:
    """Random orthonormal rows. Where more rows than `width` are asked for, each further `width` of
    them are a rotation of their own."""
    parts = []
    for _ in range(0, num_rows, width):
        drawn, triangle = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))
        parts.append(drawn * triangle.diagonal().sign())  # without the signs, QR's choice is not uniform
    return torch.cat(parts)[:num_rows]


def spherical_k_means(
    points: Float[Tensor, "points dim"], num_centers: int, generator: torch.Generator, *, rounds: int = ROUNDS
) -> Float[Tensor, "centers dim"]:
    """Centers of length 1, each the direction of the sum of the points that are closest to it in
    angle. A center without points moves to one of those that are farthest from theirs."""
    points = F.normalize(points, dim=1)
    centers = points[torch.randperm(len(points), generator=generator)[:num_centers]]
    for _ in range(rounds):
        found = [(part @ centers.T).max(dim=1) for part in points.split(POINTS_AT_ONCE)]
        closeness, nearest = (torch.cat(each) for each in zip(*found, strict=True))
        sums = torch.zeros_like(centers).index_add_(0, nearest, points)
        alone = nearest.bincount(minlength=num_centers) == 0
        sums[alone] = points[closeness.topk(int(alone.sum()), largest=False).indices]
        centers = F.normalize(sums, dim=1)
    return centers
