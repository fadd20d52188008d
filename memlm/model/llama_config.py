"""The Hugging Face configuration of the memory model."""

from os import PathLike
from pathlib import Path
from typing import Any

from transformers import LlamaConfig

from memlm.model.standalone import AUTO_MAP, FILE, standalone_source


class MemoryLlamaConfig(LlamaConfig):
    """Llama's configuration plus the memory's. Without memory layers it describes a plain Llama
    (the dense twin), and is saved as one."""

    model_type = "memory_llama"

    memory_layers: list[int] | None = None
    memory_num_half_keys: int = 1024
    memory_top_k: int = 32
    memory_num_heads: int = 4
    memory_key_dim: int = 512
    memory_value_dim: int = 1024
    memory_share_values: bool = True
    memory_query_norm: bool = False

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
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        Path(save_directory, FILE).write_text(standalone_source(), encoding="utf-8")
        self.auto_map = dict(AUTO_MAP)
        super().save_pretrained(save_directory, push_to_hub, **kwargs)

    def without_memory(self) -> LlamaConfig:
        """The plain Llama configuration of a model without memory layers, whose weights have
        Llama's names."""
        ours = ("memory_", "model_type", "auto_map", "_name_or_path", "transformers_version")
        fields = {name: value for name, value in self.to_dict().items() if not name.startswith(ours)}
        fields["architectures"] = [name.removeprefix("Memory") for name in self.architectures or []]
        return LlamaConfig(**fields)
