"""The Hugging Face configuration of a decoder with memory: the family's own and the memory's."""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig

from memlm.model.config import MemoryConfig
from memlm.model.decoders.families import PREFIX
from memlm.model.decoders.names import auto_map, file_name
from memlm.model.standalone import standalone_source


@dataclass(kw_only=True, repr=False, eq=False)
class MemoryConfiguration:
    """The memory's part. Without memory layers a configuration describes the family's own model
    (the dense twin), and is saved as one."""

    memory_layers: list[int] | None = None
    memory_num_half_keys: int = 1024
    memory_top_k: int = 32
    memory_num_heads: int = 4
    memory_key_dim: int = 512
    memory_value_dim: int = 1024
    memory_share_values: bool = True
    memory_query_norm: bool = False
    memory_placement: str = "replace"
    """Whether a memory layer replaces the feed-forward network ("replace") or is added to it
    ("parallel"). Checkpoints from before there was a choice do not say, and replace."""

    @property
    def num_slots(self) -> int:
        """Number of slots in one pool."""
        return self.memory_num_half_keys**2

    @property
    def num_pools(self) -> int:
        num_layers = len(self.memory_layers or [])
        return min(1, num_layers) if self.memory_share_values else num_layers

    def save_pretrained(self, save_directory: str | PathLike[str], push_to_hub: bool = False, **kwargs: Any) -> None:
        """Save as transformers does, and add the modelling file that loads the model where memlm
        is not installed."""
        if not self.memory_layers:
            self.without_memory().save_pretrained(save_directory, push_to_hub, **kwargs)
            return
        family = self.model_type.removeprefix(PREFIX)  # type: ignore[attr-defined]
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        Path(save_directory, file_name(family)).write_text(standalone_source(family), encoding="utf-8")
        self.auto_map = auto_map(family)
        super().save_pretrained(save_directory, push_to_hub, **kwargs)  # type: ignore[misc]

    def without_memory(self) -> PreTrainedConfig:
        """The family's own configuration, for a model without memory layers, whose weights have
        the family's names."""
        ours = ("memory_", "model_type", "auto_map", "_name_or_path", "transformers_version")
        fields = {name: value for name, value in self.to_dict().items() if not name.startswith(ours)}  # type: ignore[attr-defined]
        fields["architectures"] = [name.removeprefix("Memory") for name in self.architectures or []]  # type: ignore[attr-defined]
        return CONFIG_MAPPING[self.model_type.removeprefix(PREFIX)](**fields)  # type: ignore[attr-defined]


def memory_fields(memory: MemoryConfig) -> dict[str, Any]:
    """The memory's part of a configuration, by the names that it has there."""
    return {
        "memory_layers": list(memory.layers),
        "memory_num_half_keys": memory.num_half_keys,
        "memory_top_k": memory.top_k,
        "memory_num_heads": memory.num_heads,
        "memory_key_dim": memory.key_dim,
        "memory_value_dim": memory.value_dim,
        "memory_share_values": memory.share_values,
        "memory_query_norm": memory.query_norm,
        "memory_placement": memory.placement,
    }
