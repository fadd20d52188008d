"""The modules of a decoder that adapters act on, found by where they are: in a layer's attention,
its feed-forward network, or its memory."""

from dataclasses import dataclass

from torch import nn
from transformers.pytorch_utils import Conv1D

from memlm.model.memory import MemoryLayer

KEYS_AND_VALUES = ("k_proj", "v_proj", "qkv_proj", "query_key_value", "c_attn")
"""Matrices of attention that give keys or values, by their names in every supported family; in
some, one matrix gives queries too."""
LAST_OF_FEED_FORWARD = ("down_proj", "dense_4h_to_h", "c_proj", "fc2")


@dataclass(frozen=True, kw_only=True)
class TargetModules:
    """Names of matrices, each as its path within a layer."""

    attention: tuple[str, ...]
    feed_forward: tuple[str, ...]
    memory: tuple[str, ...]
    """The matrices of memory layers, without half-keys and values, which are tables."""

    @property
    def keys_and_values(self) -> tuple[str, ...]:
        return tuple(path for path in self.attention if path.rpartition(".")[2] in KEYS_AND_VALUES)

    @property
    def last_of_feed_forward(self) -> tuple[str, ...]:
        return tuple(path for path in self.feed_forward if path.rpartition(".")[2] in LAST_OF_FEED_FORWARD)


def target_modules(model: nn.Module) -> TargetModules:
    """The names in all layers together, each once."""
    found: dict[str, dict[str, None]] = {name: {} for name in ("attention", "feed_forward", "memory")}
    for layer in decoder_layers(model):
        memories = [f"{path}." for path, module in layer.named_modules() if isinstance(module, MemoryLayer)]
        for path, module in layer.named_modules():
            if not isinstance(module, nn.Linear | Conv1D):
                continue
            if path.startswith(tuple(memories)):
                found["memory"][path] = None
            else:
                found["feed_forward" if path.startswith(f"{FEED_FORWARD}.") else "attention"][path] = None
    return TargetModules(**{kind: tuple(paths) for kind, paths in found.items()})


FEED_FORWARD = "mlp"
"""Name of a layer's feed-forward network, or of the memory layer in its place."""


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    return model.model.layers  # type: ignore[union-attr,return-value]
