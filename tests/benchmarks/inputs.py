"""What contenders of one row have in common: shapes and tensors, drawn from seeds so that each
process can make the same ones."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCK_ROWS = 1 << 14
"""Rows of a table that are drawn; the rest repeats them, since drawing 4 GiB of numbers would
take longer than the timing."""


@dataclass(frozen=True, kw_only=True)
class LayerShape:
    """The memory layer of the kernel rows: that of the published measurements of peers."""

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
        """Of the values in fp32."""
        return 4 * self.num_slots * self.value_dim

    def json(self) -> dict[str, Any]:
        return asdict(self)


def seeded(seed: int) -> torch.Generator:
    """On the CPU, so that a GPU sees the same numbers."""
    return torch.Generator().manual_seed(seed)


def value_table(num_slots: int, value_dim: int, device: torch.device) -> Float[Tensor, "num_slots value_dim"]:
    """fp32, of the standard deviation that the pool starts from."""
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
    """Reads of `distinct` slots at most, the same ones in their order whatever the size of the
    pool, spread evenly over it."""
    if not 1 <= distinct <= num_slots:
        raise ValueError(f"distinct is {distinct}, and the pool has {num_slots} slots; it must be from 1 to that many")
    return uniform_reads(num_tokens, num_reads, distinct, device, seed=seed) * (num_slots // distinct)


def read_weights(
    num_tokens: int, num_heads: int, top_k: int, device: torch.device, *, seed: int = 5
) -> Float[Tensor, "tokens reads"]:
    """As softmax over each head gives them."""
    scores = torch.randn(num_tokens, num_heads, top_k, generator=seeded(seed))
    return scores.softmax(dim=-1).flatten(1).to(device)


def layer_weights(shape: LayerShape, device: torch.device) -> dict[str, Tensor]:
    """The weights of a layer but its table, under the names of `MemoryLayer`'s state; the scales
    of its own initialisation."""
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
    """Rows of a table that are compared: a whole table would be a file of GiB."""
    return torch.arange(0, num_slots, max(1, num_slots // 8192), device=device)
