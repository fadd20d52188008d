"""The slots that a text reads: the first step from a batch to its trainable slots.

Slots are numbered through all pools of a model: slot s of pool p is p * num_slots + s, so one
integer identifies a slot, whether layers share a pool or have one each.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch
from jaxtyping import Bool, Int
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


@contextmanager
def on_accesses(model: nn.Module, receive: Callable[[int, Int[Tensor, "batch seq reads"]], None]) -> Iterator[None]:
    """Within the context, each memory layer calls receive(layer number, slots) with the slots it
    found, before it reads them."""
    layers = memory_layers(model)
    if not layers:
        raise ValueError(
            "the model has no memory layer, so it accesses no slots; use the memory model's checkpoint, not the dense one's"
        )
    pools = value_pools(model)
    for number, layer in enumerate(layers):
        offset = pools.index(layer.pool) * layer.num_slots
        layer.on_access = lambda slots, number=number, offset=offset: receive(number, slots + offset)
    try:
        yield
    finally:
        for layer in layers:
            layer.on_access = None


def accesses_of(model: nn.Module, **inputs: Tensor) -> Int[Tensor, "batch seq all_reads"]:
    """The slots of every token, those of all layers and heads concatenated. Computes nothing
    beyond the last memory layer's search."""
    return accesses_in(model, lambda: model(**inputs, use_cache=False))


@torch.no_grad()
def accesses_in(model: nn.Module, forward: Callable[[], object]) -> Int[Tensor, "batch seq all_reads"]:
    """Like accesses_of, for a forward pass that the caller runs itself."""
    found: list[Tensor] = []
    last = len(memory_layers(model)) - 1

    def receive(number: int, slots: Tensor) -> None:
        found.append(slots)
        if number == last:
            raise _LastSearchDone

    with on_accesses(model, receive), suppress(_LastSearchDone):
        forward()
    return torch.cat(found, dim=-1)


def accesses_of_tokens(
    slots: Int[Tensor, "batch seq reads"], is_token: Bool[Tensor, "batch seq"]
) -> Int[Tensor, " accesses"]:
    """The accesses of all tokens except pads."""
    return slots[is_token].flatten()
