"""Keys and values that stand before every text that a model reads: of solved examples, computed
once and not with every question, or learned (prefix tuning, cartridges).

    prefix = prefix_of(model, tokens)
    with behind(model, prefix):
        model(input_ids=...)        # as if each row began with these tokens; logits of the rest
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import DynamicCache


class Prefix(NamedTuple):
    """The keys and values of each layer, [1, heads, length, head_dim] each."""

    keys_values: tuple[tuple[Tensor, Tensor], ...]

    @property
    def length(self) -> int:
        """In tokens."""
        return self.keys_values[0][0].shape[2]

    def detached(self) -> "Prefix":
        """A copy that does not move with what it was computed from."""
        return Prefix(tuple((keys.detach().clone(), values.detach().clone()) for keys, values in self.keys_values))


@torch.no_grad()
def prefix_of(model: nn.Module, tokens: Int[Tensor, " length"]) -> Prefix:
    """The prefix that stands for tokens. Raises ValueError for more of them than the model's
    sliding windows hold."""
    cache = DynamicCache(config=model.config)
    model(input_ids=tokens[None], past_key_values=cache, use_cache=True, logits_to_keep=1)
    return prefix_in(cache)


def prefix_in(cache: Any) -> Prefix:
    """The prefix that a cache of one row holds. Raises ValueError if a layer has dropped part of
    it."""
    found = Prefix(tuple((layer.keys, layer.values) for layer in cache.layers))
    lengths = {keys.shape[2] for keys, _ in found.keys_values}
    if lengths != {cache.get_seq_length()}:
        raise ValueError(
            f"a prefix has {cache.get_seq_length()} tokens, and a layer of the model looks back on {min(lengths)} alone; make it shorter"
        )
    return found


def put_behind(model: nn.Module, prefix: Prefix | Callable[[], Prefix]) -> RemovableHandle:
    """Let the model read every text behind the prefix, until the handle is removed. A function is
    called in every forward pass, and gradients flow into what it returns.

    The last prefix that was put counts. A cache that is not empty belongs to a text that has begun
    behind one, and stays as it is.
    """
    return model.register_forward_pre_hook(_Behind(prefix), prepend=True, with_kwargs=True)


@contextmanager
def behind(model: nn.Module, prefix: Prefix | None) -> Iterator[None]:
    """Read behind a prefix within the context; None changes nothing."""
    if prefix is None:
        yield
        return
    handle = put_behind(model, prefix)
    try:
        yield
    finally:
        handle.remove()


def prefix_before(model: nn.Module) -> Prefix | None:
    """The prefix that the model reads behind; None if it reads behind none."""
    found = [hook for hook in model._forward_pre_hooks.values() if isinstance(hook, _Behind)]
    return found[0].prefix if found else None


def save_prefix(prefix: Prefix, path: Path) -> None:
    """Write a safetensors file with the tensors <layer>.keys and <layer>.values."""
    tensors: dict[str, Tensor] = {}
    for number, (keys, values) in enumerate(prefix.keys_values):
        tensors |= {f"{number}.keys": keys.contiguous(), f"{number}.values": values.contiguous()}
    save_file(tensors, path)


def load_prefix(path: Path) -> Prefix:
    """The prefix that save_prefix wrote."""
    tensors = load_file(path)
    layers = range(len(tensors) // 2)
    return Prefix(tuple((tensors[f"{number}.keys"], tensors[f"{number}.values"]) for number in layers))


class _Behind:
    """A model's hook that fills the empty cache of every forward pass with a prefix."""

    def __init__(self, prefix: Prefix | Callable[[], Prefix]) -> None:
        self._prefix = prefix

    @property
    def prefix(self) -> Prefix:
        return self._prefix if isinstance(self._prefix, Prefix) else self._prefix()

    def __call__(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        cache = kwargs.get("past_key_values")
        if cache is not None and cache.get_seq_length():
            return args, kwargs
        assert not args and kwargs.get("attention_mask") is None, "rows behind a prefix are named and have no mask"
        prefix, inputs = self.prefix, kwargs["input_ids"]
        cache = DynamicCache(config=model.config) if cache is None else cache
        for number, pair in enumerate(prefix.keys_values):
            keys, values = (tensor.to(inputs.device).expand(len(inputs), -1, -1, -1) for tensor in pair)
            cache.update(keys, values, number)
        added: dict[str, Any] = {"past_key_values": cache}
        if (positions := kwargs.get("position_ids")) is not None:
            added["position_ids"] = positions + prefix.length
            added["attention_mask"] = _mask_of_documents(positions, prefix)
        return args, {**kwargs, **added}


def _mask_of_documents(
    positions: Int[Tensor, "rows seq"], prefix: Prefix
) -> Float[Tensor, "rows 1 seq length_and_seq"]:
    """The additive mask of rows that hold several documents: each token sees the prefix, and its
    own document up to itself. A document begins where positions do not go on."""
    keys = prefix.keys_values[0][0]
    documents = (positions.diff(dim=1, prepend=positions[:, :1] - 1) != 1).cumsum(dim=1)
    seen = (documents[:, :, None] == documents[:, None, :]).tril()
    seen = torch.cat([seen.new_ones(*positions.shape, prefix.length), seen], dim=2)
    mask = torch.zeros(seen.shape, dtype=keys.dtype, device=positions.device)
    return mask.masked_fill(~seen, torch.finfo(keys.dtype).min)[:, None]
