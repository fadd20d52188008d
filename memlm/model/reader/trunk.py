"""The two halves of a forward pass: up to the first memory layer's read, and from there.

In sparse memory finetuning only the values of the pool move, so the first half is the same in
every trial of a checkpoint, including that layer's own search.

run_trunk:      tokens -> embedding -> lower layers -> memory layer's attention -> norm -> search
continue_from:  read -> later layers -> logits

Both halves run Hugging Face's own layers in the order of its own forward pass, so together they
give its logits to the bit.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.masking_utils import create_causal_mask

from memlm.model.memory import MemoryLayer


class TrunkActivations(NamedTuple):
    """What a model needs to continue at its first memory layer's read."""

    residual: Float[Tensor, "batch seq hidden"]
    """The residual stream after that layer's attention."""
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
    for number, layer in enumerate(model.model.layers):  # type: ignore[union-attr,arg-type]
        if isinstance(layer.mlp, MemoryLayer):
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
    layer = model.model.layers[first_memory_layer(model)]  # type: ignore[union-attr,index]
    cache = DynamicCache(config=model.config) if keep_keys_values else None
    found: list[tuple[Tensor, Tensor]] = []

    def stop(_: nn.Module, inputs: tuple[Tensor, ...], hidden: Tensor) -> None:
        found.append((inputs[0], hidden))
        raise _TrunkDone

    hook = layer.post_attention_layernorm.register_forward_hook(stop)
    try:
        with suppress(_TrunkDone):
            model(input_ids=tokens, position_ids=position_ids, past_key_values=cache, use_cache=keep_keys_values)
    finally:
        hook.remove()
    residual, hidden = found[0]
    slots, weights = layer.mlp.search(hidden.flatten(0, 1))
    kept = [(lower.keys, lower.values) for lower in cache.layers if lower.is_initialized] if cache is not None else []
    return TrunkActivations(residual, slots, weights, position_ids, tuple(kept))


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
    decoder, first = model.model, first_memory_layer(model)
    residual = trunk.residual
    positions = trunk.position_ids
    if positions is None:
        positions = torch.arange(residual.shape[1], device=residual.device)[None]
    # The lower layers of the cache must still be empty here, for the mask of a first pass.
    mask = create_causal_mask(
        config=decoder.config,  # type: ignore[union-attr,arg-type]
        inputs_embeds=residual,
        attention_mask=None,
        past_key_values=cache,
        position_ids=positions,
    )
    rotary = decoder.rotary_emb(residual, position_ids=positions)  # type: ignore[union-attr,operator]
    layers: Sequence[nn.Module] = decoder.layers  # type: ignore[union-attr,assignment]
    memory: MemoryLayer = layers[first].mlp  # type: ignore[assignment]
    hidden = residual + memory.read(layers[first].post_attention_layernorm(residual), trunk.slots, trunk.weights)
    for layer in layers[first + 1 :]:
        hidden = layer(
            hidden,
            attention_mask=mask,
            position_embeddings=rotary,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        )
    if cache is not None:
        for number, (keys, values) in enumerate(trunk.keys_values):
            cache.update(keys, values, number)
    hidden = decoder.norm(hidden)  # type: ignore[union-attr,operator]
    return model.lm_head(hidden[:, -1:] if last_only else hidden)  # type: ignore[operator]
