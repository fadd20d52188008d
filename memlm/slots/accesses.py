"""The slots that a text reads: the first step from a batch to its trainable slots.

Slots are numbered through all pools of a model: slot s of pool p is p * num_slots + s, so one
integer identifies a slot, whether layers share a pool or have one each.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from memlm.model.memory import MemoryLayer, ValuePool


class _LastSearchDone(Exception):
    """Ends a forward pass after the last search, when only the accesses are wanted."""


def memory_layers(model: nn.Module) -> list[MemoryLayer]:
    """The memory layers in the order in which a forward pass runs them."""
    return [module for module in model.modules() if isinstance(module, MemoryLayer)]


def value_pools(model: nn.Module) -> list[ValuePool]:
    """The pools that the memory layers read, each once, in the order in which their slots are
    numbered."""
    return list(dict.fromkeys(layer.pool for layer in memory_layers(model)))


def pools_of_layers(model: nn.Module) -> list[int]:
    """The number of each memory layer's pool."""
    pools = value_pools(model)
    return [pools.index(layer.pool) for layer in memory_layers(model)]


def num_slots(model: nn.Module) -> int:
    """The slots of all pools."""
    return sum(pool.num_slots for pool in value_pools(model))


@contextmanager
def on_accesses(model: nn.Module, receive: Callable[[int, Int[Tensor, "batch seq reads"]], None]) -> Iterator[None]:
    """Within the context, each memory layer calls receive(layer number, slots) with the slots it
    found, before it reads them."""
    with on_reads(model, lambda number, slots, weights: receive(number, slots)):
        yield


@contextmanager
def on_reads(
    model: nn.Module, receive: Callable[[int, Int[Tensor, "batch seq reads"], Float[Tensor, "batch seq reads"]], None]
) -> Iterator[None]:
    """Like on_accesses, with the softmax weights of the slots too."""
    layers = memory_layers(model)
    if not layers:
        raise ValueError(
            "the model has no memory layer, so it accesses no slots; use the memory model's checkpoint, not the dense one's"
        )
    for number, (layer, pool) in enumerate(zip(layers, pools_of_layers(model), strict=True)):
        offset = pool * layer.num_slots
        layer.on_access = lambda slots, weights, number=number, offset=offset: receive(number, slots + offset, weights)
    try:
        yield
    finally:
        for layer in layers:
            layer.on_access = None


def accesses_of(model: nn.Module, **inputs: Tensor) -> Int[Tensor, "batch seq all_reads"]:
    """The slots of every token, those of all layers and heads concatenated. Computes nothing
    beyond the last memory layer's search."""
    return accesses_in(model, lambda: model(**inputs, use_cache=False))


def accesses_in(model: nn.Module, forward: Callable[[], object]) -> Int[Tensor, "batch seq all_reads"]:
    """Like accesses_of, for a forward pass that the caller runs itself."""
    return reads_in(model, forward)[0].flatten(-2)


def reads_of(
    model: nn.Module, **inputs: Tensor
) -> tuple[Int[Tensor, "batch seq layers reads"], Float[Tensor, "batch seq layers reads"]]:
    """Like reads_in, for the model's own forward pass."""
    return reads_in(model, lambda: model(**inputs, use_cache=False))


@torch.no_grad()
def reads_in(
    model: nn.Module, forward: Callable[[], object]
) -> tuple[Int[Tensor, "batch seq layers reads"], Float[Tensor, "batch seq layers reads"]]:
    """The slots of every token by layer, those of all heads concatenated, and their softmax
    weights, of a forward pass that the caller runs itself and that ends at the last search."""
    found: list[tuple[Tensor, Tensor]] = []
    last = len(memory_layers(model)) - 1

    def receive(number: int, slots: Tensor, weights: Tensor) -> None:
        found.append((slots, weights))
        if number == last:
            raise _LastSearchDone

    with on_reads(model, receive), suppress(_LastSearchDone):
        forward()
    slots, weights = zip(*found, strict=True)
    return torch.stack(slots, dim=-2), torch.stack(weights, dim=-2)


def accesses_of_tokens(
    slots: Int[Tensor, "batch seq reads"], is_token: Bool[Tensor, "batch seq"]
) -> Int[Tensor, " accesses"]:
    """The accesses of all tokens except pads."""
    return slots[is_token].flatten()
