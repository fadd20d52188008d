"""Fit the keys of a memory in a base to background text."""

import hashlib

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from memlm.data.corpus.packing import document_positions
from memlm.model.bases.key_fitting import FittingError, fit_keys
from memlm.slots.accesses import accesses_of, memory_layers

BLOCKS_AT_ONCE = 8


def fit_to_text(model: PreTrainedModel, blocks: Int[Tensor, "blocks block_size"], *, eos_id: int, seed: int) -> None:
    """Fit every memory layer's queries and half-keys to what it is given for these blocks. Raises
    FittingError if they are too few."""
    if not len(blocks):
        raise FittingError("the background text does not fill a single block; give more text")
    inputs = layer_inputs(model, blocks, eos_id=eos_id)
    for number, (layer, hidden) in enumerate(zip(memory_layers(model), inputs, strict=True)):
        fit_keys(layer, hidden, seed=seed + number)


def layer_inputs(
    model: PreTrainedModel, blocks: Int[Tensor, "blocks block_size"], *, eos_id: int
) -> list[Float[Tensor, "tokens hidden"]]:
    """What each memory layer is given for every token, on the CPU."""
    layers = memory_layers(model)
    found: list[list[Tensor]] = [[] for _ in layers]

    def keep(number: int, given: tuple[Tensor, ...]) -> None:
        found[number].append(given[0].flatten(0, -2).float().cpu())

    hooks = [
        layer.register_forward_pre_hook(lambda _, given, number=number: keep(number, given))
        for number, layer in enumerate(layers)
    ]
    try:
        for tokens in blocks.to(model.device).split(BLOCKS_AT_ONCE):
            accesses_of(model, input_ids=tokens, position_ids=document_positions(tokens, eos_id=eos_id))
    finally:
        for hook in hooks:
            hook.remove()
    return [torch.cat(each) for each in found]


def digest_of_blocks(blocks: Int[Tensor, "blocks block_size"]) -> str:
    return hashlib.sha256(blocks.numpy().tobytes()).hexdigest()
