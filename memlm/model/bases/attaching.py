"""Put a memory into a loaded base."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from memlm.model.config import MemoryConfig
from memlm.model.decoders.classes import MemoryHead, memory_classes
from memlm.model.decoders.configuration import memory_fields
from memlm.model.memory import MemoryLayer, ValuePool

OF_THE_BASE = ("model_type", "architectures", "transformers_version", "_name_or_path", "auto_map")
"""Entries of a configuration that name the base itself."""


def with_memory(model: PreTrainedModel, memory: MemoryConfig, *, seed: int = 0) -> MemoryHead:
    """The base with a memory: the base's own tensors, not copies, and fresh ones for the memory,
    drawn from the seed. In evaluation mode, on the base's device.

    Placed parallel, it gives the base's logits to the bit.
    """
    config = config_with_memory(model.config, memory)
    with torch.random.fork_rng(devices=[]), _silence():
        torch.manual_seed(seed)
        joined, report = memory_classes(model.config.model_type).language_model.from_pretrained(
            None,
            config=config,
            state_dict=model.state_dict(),
            attn_implementation=model.config._attn_implementation,
            dtype=model.dtype,
            trust_remote_code=False,
            output_loading_info=True,
        )
    new = set(memory_names(joined))
    assert report["missing_keys"] == new, report["missing_keys"] ^ new
    joined.generation_config = model.generation_config
    joined.name_or_path = joined.config.name_or_path = model.name_or_path
    return joined.to(model.device).eval()


def config_with_memory(config: PreTrainedConfig, memory: MemoryConfig) -> PreTrainedConfig:
    fields = {name: value for name, value in config.to_dict().items() if name not in OF_THE_BASE}
    return memory_classes(config.model_type).configuration(**fields, **memory_fields(memory))


def memory_names(model: MemoryHead) -> list[str]:
    """The names of the memory's tensors in the state dict: those that a base does not have."""
    places = [f"{name}." for name, module in model.named_modules() if isinstance(module, MemoryLayer | ValuePool)]
    return [name for name in model.state_dict() if name.startswith(tuple(places))]


@contextmanager
def _silence() -> Iterator[None]:
    """Without transformers' report that the memory's tensors are not in the base."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
