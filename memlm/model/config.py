"""Size and shape of the model. Imports neither torch nor transformers, so that command lines are
checked quickly."""

import re
from dataclasses import dataclass
from typing import Literal

from memlm.identity import execution_only, names_result

Placement = Literal["replace", "parallel"]
Architecture = Literal["memory", "dense"]
ARCHITECTURES: tuple[Architecture, ...] = ("memory", "dense")
"""The memory model, or its dense twin: the same with a feed-forward network in every layer."""


RUNS, SEED = "{runs}", "{seed}"
"""Placeholders in model.base for the storage folder and for pretraining.seed."""
DENSE_TWIN = re.compile(r"\{runs\}/([^/]+)/checkpoint-dense")
"""A base that is the dense twin of another run."""


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """The memory layer (Lin et al. 2025, section 3; Berges et al. 2024, section 3)."""

    layers: tuple[int, ...] = names_result((12,))
    """Decoder layers, counted from 0, that have a memory layer."""
    num_half_keys: int = names_result(1024)
    """Half-keys in each of a head's two halves; a pool has num_half_keys ** 2 slots."""
    top_k: int = names_result(32)
    """Number of slots read per head and token."""
    num_heads: int = names_result(4)
    key_dim: int = names_result(512)
    """Width of a query; each half-key is half as wide."""
    value_dim: int = names_result(1024)
    share_values: bool = names_result(True)
    """With several memory layers: one pool for all of them, or one each."""
    query_norm: bool = names_result(False)
    """RMS-normalise queries; without it, small pools collapse onto a few slots."""
    placement: Placement = names_result("replace", when=lambda config: config.placement != "replace")
    """Whether a memory layer replaces the feed-forward network, as in the paper, or is added to it.
    An added one starts as nothing: its values are zero."""

    def __post_init__(self) -> None:
        for name in ("num_half_keys", "top_k", "num_heads", "key_dim", "value_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.memory.{name} is {getattr(self, name)}; it must be at least 1")
        if self.key_dim % 2:
            raise ValueError(
                f"model.memory.key_dim is {self.key_dim}; it must be even, since a query is cut into two halves"
            )
        if self.top_k > self.num_half_keys:
            raise ValueError(
                f"model.memory.top_k is {self.top_k}, more than model.memory.num_half_keys ({self.num_half_keys}); "
                "the exact search keeps top_k half-keys of each half, so lower top_k or raise num_half_keys"
            )
        if len(set(self.layers)) != len(self.layers) or list(self.layers) != sorted(self.layers):
            raise ValueError(f"model.memory.layers is {self.layers}; name each layer once, in ascending order")

    @property
    def num_slots(self) -> int:
        return self.num_half_keys**2

    @property
    def num_pools(self) -> int:
        return min(1, len(self.layers)) if self.share_values else len(self.layers)


def _is_pretrained(model: "ModelConfig") -> bool:
    """A base has its own shape, and gives the shape's fields no effect but on plans."""
    return not model.base


def _has_base(model: "ModelConfig") -> bool:
    return bool(model.base)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A decoder of Llama's shape, or somebody else's model. The dense twin is the same without
    memory layers: every layer keeps its feed-forward network."""

    num_layers: int = names_result(22, when=_is_pretrained)
    hidden_size: int = names_result(2048, when=_is_pretrained)
    num_attention_heads: int = names_result(16, when=_is_pretrained)
    intermediate_size: int = names_result(5632, when=_is_pretrained)
    max_positions: int = names_result(2048, when=_is_pretrained)
    rope_theta: float = names_result(500_000.0, when=_is_pretrained)
    initializer_range: float = names_result(0.02, when=_is_pretrained)
    tie_embeddings: bool = names_result(False, when=_is_pretrained)
    memory: MemoryConfig = names_result(MemoryConfig(), only=("memory",))
    base: str = names_result("", when=_has_base)
    """A causal language model, which gets the memory: a folder, a GGUF file, either of them in an
    installed Python package as {package}/file, owner/name@commit on the hub, or the dense twin of
    another run as {runs}/RUN/checkpoint-dense, where {seed} in RUN stands for pretraining.seed;
    empty to pretrain a model. The base itself is the dense twin, and the corpus uses its tokenizer.
    The fields of the shape then serve plans alone."""
    key_tokens: int = names_result(0, only=("memory",), when=_has_base)
    """Tokens of the corpus that the keys of a base's memory are fitted to; 0 for 16,384, or for 48
    per half-key if those are more."""

    num_probes: int = execution_only(20)
    """Facts that a base's memory learns, to measure whether it answers them in other words, and
    forgets again; 0 for none."""

    def __post_init__(self) -> None:
        if self.base.startswith(RUNS) and not DENSE_TWIN.fullmatch(self.base):
            raise ValueError(
                f"model.base is {self.base!r}; the base that another run made is its dense twin, so write it as {RUNS}/RUN/checkpoint-dense"
            )
        if self.key_tokens < 0:
            raise ValueError(
                f"model.key_tokens is {self.key_tokens}; it must not be negative (0 for what fits the memory)"
            )
        if self.num_probes < 0:
            raise ValueError(f"model.num_probes is {self.num_probes}; it must not be negative (0 for none)")
        for name in ("num_layers", "hidden_size", "num_attention_heads", "intermediate_size", "max_positions"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("rope_theta", "initializer_range"):
            if not getattr(self, name) > 0:
                raise ValueError(f"model.{name} is {getattr(self, name)}; it must be above 0")
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"model.hidden_size is {self.hidden_size}; it must be a multiple of twice model.num_attention_heads "
                f"({self.num_attention_heads}), since a head's width is turned in pairs; change one of them"
            )
        outside = [layer for layer in self.memory.layers if not 0 <= layer < self.num_layers]
        if outside and not self.base:
            raise ValueError(
                f"model.memory.layers names {outside}, but the model has layers 0 to {self.num_layers - 1}"
            )
