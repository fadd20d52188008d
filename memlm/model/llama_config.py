"""The Hugging Face configuration of the memory model."""

from transformers import LlamaConfig


class MemoryLlamaConfig(LlamaConfig):
    """Llama's configuration and the memory's; memory_layers = [] is a plain Llama (the dense twin)."""

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
        """Slots of one pool."""
        return self.memory_num_half_keys**2
