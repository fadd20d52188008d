"""Shapes and tensors that the contenders of a row share, drawn from seeds so that each process
makes the same ones."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCK_ROWS = 1 << 14
"""Number of random rows in a table; the other rows repeat them, because drawing 4 GiB of numbers
would take longer than the timing."""


@dataclass(frozen=True, kw_only=True)
class LayerShape:
    """Shape of the memory layer in the kernel rows, as in the published measurements of peers."""

    num_half_keys: int
    num_tokens: int = 2048
    width: int = 256
    top_k: int = 32
    num_heads: int = 4
    key_dim: int = 256
    value_dim: int = 256

    @property
    def num_slots(self) -> int:
        return self.num_half_keys**2

    @property
    def num_reads(self) -> int:
        return self.num_heads * self.top_k

    @property
    def table_bytes(self) -> int:
        """Bytes of the values in fp32."""
        return 4 * self.num_slots * self.value_dim

    def json(self) -> dict[str, Any]:
        return asdict(self)


def seeded(seed: int) -> torch.Generator:
    """Random numbers drawn on the CPU, so that a GPU gets the same ones."""
    return torch.Generator().manual_seed(seed)


def value_table(num_slots: int, value_dim: int, device: torch.device) -> Float[Tensor, "num_slots value_dim"]:
    """Random values in fp32 with the initial standard deviation of the pool."""
    block = torch.randn(min(BLOCK_ROWS, num_slots), value_dim, generator=seeded(1)) * value_dim**-0.5
    table = torch.empty(num_slots, value_dim, device=device)
    for start in range(0, num_slots, len(block)):
        table[start : start + len(block)] = block[: num_slots - start]
    return table


def hidden_states(shape: LayerShape, device: torch.device, *, seed: int = 2) -> Float[Tensor, "tokens width"]:
    return torch.randn(shape.num_tokens, shape.width, generator=seeded(seed)).to(device)


def output_gradient(num_tokens: int, width: int, device: torch.device) -> Float[Tensor, "tokens width"]:
    return torch.randn(num_tokens, width, generator=seeded(3)).to(device)


def uniform_reads(
    num_tokens: int, num_reads: int, num_slots: int, device: torch.device, *, seed: int = 4
) -> Int[Tensor, "tokens reads"]:
    return torch.randint(num_slots, (num_tokens, num_reads), generator=seeded(seed)).to(device)


def spread_reads(
    num_tokens: int, num_reads: int, num_slots: int, distinct: int, device: torch.device, *, seed: int = 4
) -> Int[Tensor, "tokens reads"]:
    """Reads of at most `distinct` slots, spread evenly over the pool and in the same order for all
    sizes of the pool."""
    if not 1 <= distinct <= num_slots:
        raise ValueError(f"distinct is {distinct}, and the pool has {num_slots} slots; it must be from 1 to that many")
    return uniform_reads(num_tokens, num_reads, distinct, device, seed=seed) * (num_slots // distinct)


POPULARITY = 0.8
"""Exponent of Zipf's law for half-keys."""


def popular_reads(shape: LayerShape, num_tokens: int, *, seed: int) -> Int[Tensor, "tokens reads"]:
    """Reads as of text: each head reads products of a few half-keys, of which some are popular, so
    that tokens share slots and slots are read together. On the CPU."""
    generator, halves = seeded(seed), []
    pairs = [(i, j) for i in range(shape.top_k) for j in range(shape.top_k) if (i + 1) * (j + 1) <= shape.top_k]
    pairs = sorted(pairs, key=lambda pair: (pair[0] + 1) * (pair[1] + 1))[: shape.top_k]
    cumulative = torch.arange(1, shape.num_half_keys + 1).double().pow(-POPULARITY).cumsum(0)
    for _ in range(2):
        drawn = torch.rand(num_tokens, shape.num_heads, shape.top_k, generator=generator, dtype=torch.float64)
        halves.append(torch.searchsorted(cumulative, drawn * cumulative[-1]))
    first, second = torch.tensor(pairs).T
    # Heads have half-keys of their own, so popular ones differ.
    own = torch.stack([torch.randperm(shape.num_half_keys, generator=seeded(head)) for head in range(shape.num_heads)])
    heads = torch.arange(shape.num_heads)[None, :, None]
    return (own[heads, halves[0][..., first]] * shape.num_half_keys + own[heads, halves[1][..., second]]).flatten(1)


def read_weights(
    num_tokens: int, num_heads: int, top_k: int, device: torch.device, *, seed: int = 5
) -> Float[Tensor, "tokens reads"]:
    """Random weights of reads, which sum to one over each head."""
    scores = torch.randn(num_tokens, num_heads, top_k, generator=seeded(seed))
    return scores.softmax(dim=-1).flatten(1).to(device)


def layer_weights(shape: LayerShape, device: torch.device) -> dict[str, Tensor]:
    """Weights of a layer without its table, named as in `MemoryLayer`'s state and scaled as in its
    initialisation."""
    generator = seeded(6)

    def normal(*size: int, std: float) -> Tensor:
        return (torch.randn(size, generator=generator) * std).to(device)

    queries = shape.num_heads * shape.key_dim
    return {
        "query.weight": normal(queries, shape.width, std=math.sqrt(2 / (queries + shape.width))),
        "query.bias": normal(queries, std=0.02),
        "half_keys": normal(
            shape.num_heads, 2, shape.num_half_keys, shape.key_dim // 2, std=(3 * shape.key_dim) ** -0.5
        ),
        "gate.weight": normal(shape.value_dim, shape.width, std=shape.width**-0.5),
        "gate.bias": normal(shape.value_dim, std=0.02),
        "output.weight": normal(shape.width, shape.value_dim, std=shape.width**-0.5),
        "output.bias": normal(shape.width, std=0.02),
    }


def compared_slots(num_slots: int, device: torch.device) -> Int[Tensor, " compared"]:
    """Number of table rows that are compared, since a whole table would be a file of several
    GiB."""
    return torch.arange(0, num_slots, max(1, num_slots // 8192), device=device)
