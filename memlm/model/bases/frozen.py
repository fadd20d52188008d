"""A base that stays as it is, while what was put into it learns."""

from collections.abc import Collection

import torch
from transformers import PreTrainedModel

from memlm.model.bases.attaching import memory_names
from memlm.model.decoders.classes import MemoryHead


def train_memory_alone(model: MemoryHead, *, base_type: torch.dtype, fixed_keys: bool) -> None:
    """Let the memory alone move, in fp32; with `fixed_keys`, what it does with what it finds, and
    not where it looks."""
    train_alone(model, memory_names(model), base_type=base_type)
    for layer in model.memory_layers if fixed_keys else ():
        layer.half_keys.requires_grad_(False)
        for searching in (layer.query, layer.query_norm):
            searching.requires_grad_(False)


def train_alone(model: PreTrainedModel, names: Collection[str], *, base_type: torch.dtype) -> None:
    """Let the parameters of these names move, in fp32, and no others, which are converted to a
    type."""
    for name, parameter in model.named_parameters():
        moves = name in names
        parameter.requires_grad_(moves)
        parameter.data = parameter.data.to(torch.float32 if moves else base_type)
