"""The two halves of a forward pass: up to the first memory layer's read, and from there.

In sparse memory finetuning only the values of the pool move, so the first half is the same in
every trial of a checkpoint, including that layer's own search.

run_trunk:      tokens -> embedding -> lower layers -> memory layer's attention -> search
continue_from:  memory layer's feed-forward network and read -> later layers -> logits

Both halves are Hugging Face's own forward pass: the first is left at the search, and in the second
the lower layers pass on what they get, and attention and search give what was recorded. So together
they give the logits of the plain forward pass to the bit, in every family.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache

from memlm.model.decoders.families import attention_of, feed_forward_of, layers_of
from memlm.model.memory import memory_in


class TrunkActivations(NamedTuple):
    """What a model needs to continue at its first memory layer's read."""

    residual: Float[Tensor, "batch seq hidden"]
    """The residual stream before that layer."""
    attention: Float[Tensor, "batch seq hidden"]
    """The output of its attention."""
    slots: Int[Tensor, "tokens reads"]
    """The slots that its search found; int64."""
    weights: Float[Tensor, "tokens reads"]
    position_ids: Int[Tensor, "rows seq"] | None
    """As they were given."""
    keys_values: tuple[tuple[Tensor, Tensor], ...] = ()
    """Keys and values of the layers up to that one, [batch, heads, seq, head_dim] each; empty
    unless they are kept for decoding."""

    def to(self, device: torch.device) -> "TrunkActivations":
        return TrunkActivations(
            self.residual.to(device),
            self.attention.to(device),
            self.slots.to(device),
            self.weights.to(device),
            None if self.position_ids is None else self.position_ids.to(device),
            tuple((keys.to(device), values.to(device)) for keys, values in self.keys_values),
        )


class _TrunkDone(Exception):
    """Ends a forward pass after the trunk."""


def first_memory_layer(model: nn.Module) -> int:
    """The number of the first memory layer among the decoder's layers. Raises ValueError for a
    dense model, which has no trunk."""
    for number in range(len(layers_of(model))):
        if memory_in(feed_forward_of(model, number)) is not None:
            return number
    raise ValueError(
        "the model has no memory layer, so no part of it is frozen in every trial; use the memory model's checkpoint, not the dense one's"
    )


@torch.no_grad()
def run_trunk(
    model: nn.Module,
    tokens: Int[Tensor, "batch seq"],
    position_ids: Int[Tensor, "rows seq"] | None = None,
    *,
    keep_keys_values: bool = False,
) -> TrunkActivations:
    """The activations up to the first memory layer's search. Computes nothing above it and reads no
    values."""
    first = first_memory_layer(model)
    memory = memory_in(feed_forward_of(model, first))
    assert memory is not None
    found: dict[str, Tensor] = {}
    cache = DynamicCache(config=model.config) if keep_keys_values else None

    def search_and_stop(hidden: Tensor) -> None:
        found["slots"], found["weights"] = type(memory).search(memory, hidden)
        raise _TrunkDone

    with ExitStack() as hooks:
        enter = layers_of(model)[first].register_forward_pre_hook(
            lambda _, positional, named: found.update(residual=_hidden_states(positional, named)), with_kwargs=True
        )
        attend = attention_of(model, first).register_forward_hook(
            lambda _, inputs, output: found.update(attention=output[0])
        )
        hooks.callback(enter.remove)
        hooks.callback(attend.remove)
        hooks.enter_context(_instead_of(memory, "search", search_and_stop))
        hooks.enter_context(suppress(_TrunkDone))
        model(input_ids=tokens, position_ids=position_ids, past_key_values=cache, use_cache=keep_keys_values)
    kept = [(lower.keys, lower.values) for lower in cache.layers if lower.is_initialized] if cache is not None else []
    return TrunkActivations(**found, position_ids=position_ids, keys_values=tuple(kept))


def continue_from(
    model: nn.Module,
    trunk: TrunkActivations,
    *,
    cache: DynamicCache | None = None,
    last_only: bool = False,
) -> Float[Tensor, "batch predicted vocab"]:
    """The logits of the plain forward pass, of the last position alone if `last_only`. The layers'
    on_access sees every access.

    An empty cache is filled as a plain forward pass over the same tokens fills it.
    """
    first = first_memory_layer(model)
    layer, memory = layers_of(model)[first], memory_in(feed_forward_of(model, first))
    assert memory is not None
    attended = (trunk.attention, None)
    with ExitStack() as recorded:
        for lower in layers_of(model)[:first]:
            recorded.enter_context(_instead_of(lower, "forward", lambda hidden_states, *_, **__: hidden_states))
        # Some families add to the embeddings before the first layer, so the residual enters here.
        enter = layer.register_forward_pre_hook(
            lambda _, positional, named: _with_hidden_states(trunk.residual, positional, named), with_kwargs=True
        )
        recorded.callback(enter.remove)
        recorded.enter_context(_not_recomputed(layer))
        recorded.enter_context(_instead_of(attention_of(model, first), "forward", lambda *_, **__: attended))
        recorded.enter_context(_instead_of(memory, "search", lambda _: (trunk.slots, trunk.weights)))
        logits = model(
            inputs_embeds=trunk.residual,
            position_ids=trunk.position_ids,
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=1 if last_only else 0,
        ).logits
    if cache is not None:
        for number, (keys, values) in enumerate(trunk.keys_values):
            cache.update(keys, values, number)
            if cache.layers[number].is_sliding:  # it keeps a window, and counts what it was given
                cache.layers[number].cumulative_length = trunk.residual.shape[1]
    return logits


@contextmanager
def _instead_of(module: nn.Module, name: str, method: Callable[..., Any]) -> Iterator[None]:
    """Within the context, the module's method of that name is this one."""
    assert name not in vars(module), f"{name} is replaced already"
    setattr(module, name, method)
    try:
        yield
    finally:
        delattr(module, name)


@contextmanager
def _not_recomputed(layer: nn.Module) -> Iterator[None]:
    """Within the context, gradient checkpointing keeps the layer's activations: to compute them
    again, in the backward pass, the layer would need what this context alone gives it."""
    checkpointed = getattr(layer, "gradient_checkpointing", False)
    layer.gradient_checkpointing = False  # type: ignore[assignment]
    try:
        yield
    finally:
        layer.gradient_checkpointing = checkpointed


def _hidden_states(positional: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
    """The first argument of a layer, however it was given."""
    return positional[0] if positional else named["hidden_states"]


def _with_hidden_states(
    hidden: Tensor, positional: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return ((hidden, *positional[1:]), named) if positional else ((), {**named, "hidden_states": hidden})
