"""An adapter: a folder with the memory alone, which is loaded into the base that it was made for.

memory.safetensors holds the memory's tensors by the names that they have in the whole model, so a
patch fits both. memory_adapter.json holds the memory's configuration and names its base: where it
is, and the digest of its weights. Another base is refused.
"""

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedConfig

from memlm.model.bases.attaching import config_with_memory, memory_names, with_memory
from memlm.model.bases.base import Base, BaseError, load_base, open_base
from memlm.model.config import MemoryConfig
from memlm.model.decoders.classes import MemoryHead
from memlm.model.weighted_read import TABLE_TYPES
from memlm.outside import reading

ADAPTER_FILE = "memory_adapter.json"
WEIGHTS_FILE = "memory.safetensors"
FORMAT = 1
TYPES = {str(each).removeprefix("torch."): each for each in TABLE_TYPES}


class AdapterError(ValueError):
    """An adapter that cannot be read, or does not belong to the base."""


class _Description(NamedTuple):
    address: str
    """Where the base was when the adapter was made."""
    digest: str
    dtype: torch.dtype
    memory: MemoryConfig


def is_adapter(folder: str | Path) -> bool:
    return Path(folder, ADAPTER_FILE).is_file()


def save_adapter(model: MemoryHead, base: Base, memory: MemoryConfig, folder: Path) -> None:
    """Write the memory of a model made of the base, and the base's generation settings."""
    state = model.state_dict()
    tensors = {name: state[name].detach().cpu().contiguous() for name in memory_names(model)}
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    described = {
        "format": FORMAT,
        "base": {"address": base.address, "model_type": base.family, "digest": base.digest},
        "dtype": str(model.dtype).removeprefix("torch."),
        "memory": {name: getattr(memory, name) for name in memory.__dataclass_fields__},
    }
    (folder / ADAPTER_FILE).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    if model.generation_config is not None:
        model.generation_config.save_pretrained(folder)


def load_adapter(folder: str | Path, *, base: str | None = None, attention: str = "eager") -> MemoryHead:
    """The adapter's base with its memory, on the CPU, in evaluation mode. `base` is where the base
    is now, if it has moved. Raises AdapterError, or BaseError if there is no base."""
    described = _read(folder)
    found = _base_of(folder, described, base)
    model = with_memory(load_base(found, dtype=described.dtype, attention=attention), described.memory)
    with _opening(folder):
        tensors = load_file(Path(folder, WEIGHTS_FILE))
        wanted = set(memory_names(model))
        if tensors.keys() != wanted:
            raise AdapterError(
                f"adapter {folder}: {sorted(tensors.keys() ^ wanted)[0]} is missing or belongs to no memory; copy the whole folder again"
            )
        model.load_state_dict(tensors, strict=False)
    return model


def load_adapter_config(folder: str | Path, *, base: str | None = None) -> PreTrainedConfig:
    """The configuration of the model that load_adapter gives. Raises as it does."""
    described = _read(folder)
    config = config_with_memory(_base_of(folder, described, base).config, described.memory)
    config.dtype = described.dtype
    return config


def _base_of(folder: str | Path, described: _Description, address: str | None) -> Base:
    try:
        base = open_base(address or described.address)
    except BaseError as error:
        raise BaseError(f"adapter {folder}: {error}; if its base is elsewhere now, name the place (base)") from error
    if base.digest != described.digest:
        raise AdapterError(
            f"adapter {folder}: it was made for {described.address} with digest {described.digest[:16]}, and {base.address} has digest "
            f"{base.digest[:16]}; name the base that it was made for"
        )
    return base


def _read(folder: str | Path) -> _Description:
    with _opening(folder):
        content: dict[str, Any] = json.loads(Path(folder, ADAPTER_FILE).read_bytes())
        if content["format"] != FORMAT:
            raise AdapterError(f"adapter {folder}: its format is {content['format']}, and this memlm reads {FORMAT}")
        base, memory = content["base"], content["memory"]
        return _Description(
            str(base["address"]),
            str(base["digest"]),
            TYPES[content["dtype"]],
            MemoryConfig(**{**memory, "layers": tuple(memory["layers"])}),
        )


def _opening(folder: str | Path) -> AbstractContextManager[None]:
    return reading(
        lambda reason: AdapterError(f"adapter {folder}: it cannot be read ({reason}); copy the whole folder again")
    )
