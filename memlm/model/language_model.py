"""The language model: Hugging Face's Llama, with memory layers where the configuration asks for
them.

It is registered with the Auto classes, so generation, KV cache, safetensors, PEFT and
lm-evaluation-harness work as for any model.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaModel,
    LlamaPreTrainedModel,
    PreTrainedConfig,
    PreTrainedModel,
)

from memlm.model.capacity import require_room_for_values
from memlm.model.column_split import ColumnSplit
from memlm.model.config import ModelConfig
from memlm.model.llama_config import MemoryLlamaConfig
from memlm.model.memory import MemoryLayer, ValuePool
from memlm.model.tied_pools import ValuePools
from memlm.outside import reading, reason_of

POOL_OF_LAYER = re.compile(r"\blayers\.\d+\.mlp\.pool\.")
"""Prefix of the name that a pool has as part of a layer."""


class _MemoryWeights(LlamaPreTrainedModel):
    """Initialisation of the memory's weights. Both models below need it, because the inner one
    marks its modules as initialised."""

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MemoryLayer | ValuePool):
            module.reset_parameters()

    def _initialize_weights(self, module: nn.Module, *how: bool) -> None:
        # Layers are visited before the module that owns their pools, and pools are initialised
        # last, so that the same seed keeps giving the same weights.
        if isinstance(module, ValuePool):
            return
        super()._initialize_weights(module, *how)
        if isinstance(module, MemoryLlamaModel):
            for pool in module._modules.get("value_pools") or ():  # Llama's own part is initialised before they exist
                super()._initialize_weights(pool, *how)


class MemoryLlamaModel(_MemoryWeights, LlamaModel):
    """The decoder stack. It owns the value pools: one for all memory layers, or one each.

    A pool is also part of the layers that read it. Among parameters and in the state dict it is
    listed once, under its owner's name: value_pools.0.weight.
    """

    config_class = MemoryLlamaConfig

    def __init__(self, config: MemoryLlamaConfig, **split: Any) -> None:
        super().__init__(config)
        layers = config.memory_layers or []
        self.value_pools = ValuePools(
            ValuePool(config.num_slots, config.memory_value_dim, **split) for _ in range(config.num_pools)
        )
        readers: list[list[MemoryLayer]] = [[] for _ in range(config.num_pools)]
        for position, layer in enumerate(layers):
            number = 0 if config.memory_share_values else position
            self.layers[layer].mlp = MemoryLayer(
                self.value_pools[number],
                hidden_size=config.hidden_size,
                num_half_keys=config.memory_num_half_keys,
                top_k=config.memory_top_k,
                num_heads=config.memory_num_heads,
                key_dim=config.memory_key_dim,
                query_norm=config.memory_query_norm,
            )
            readers[number].append(self.layers[layer].mlp)
        for number, of_pool in enumerate(readers):
            self.value_pools.tie(number, of_pool)
        self.register_state_dict_post_hook(_drop_pools_of_layers)
        self.register_load_state_dict_post_hook(_ignore_missing_pools_of_layers)
        self.post_init()

    def __setattr__(self, name: str, value: Any) -> None:
        pools = self.__dict__.get("_modules", {}).get("value_pools")
        if name != "value_pools" or pools is None or not isinstance(value, nn.ModuleList):
            super().__setattr__(name, value)
            return
        # The pools are replaced within the list: the layers would not know of another list.
        for number, pool in zip(range(len(pools)), value, strict=True):
            pools[number] = pool

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """Like torch's, but each pool is named after its owner, where torch would name it after
        the first layer that reads it."""
        pools = self._modules.get("value_pools")
        if not remove_duplicate or pools is None:
            yield from super().named_modules(memo, prefix, remove_duplicate)
            return
        memo = set() if memo is None else memo
        of_pools = set(pools.modules()) - memo
        memo |= of_pools
        yield from super().named_modules(memo, prefix)
        memo -= of_pools
        yield from pools.named_modules(memo, f"{prefix}.value_pools" if prefix else "value_pools")


def _drop_pools_of_layers(model: MemoryLlamaModel, state: dict[str, Any], prefix: str, _: object) -> None:
    for name in [name for name in state if name.startswith(prefix) and POOL_OF_LAYER.match(name, len(prefix))]:
        del state[name]


def _ignore_missing_pools_of_layers(model: nn.Module, keys: Any) -> None:
    keys.missing_keys[:] = [name for name in keys.missing_keys if not POOL_OF_LAYER.search(name)]


class MemoryLlamaForCausalLM(_MemoryWeights, LlamaForCausalLM):
    config_class = MemoryLlamaConfig

    def __init__(self, config: MemoryLlamaConfig, **split: Any) -> None:
        super().__init__(config)
        self.model = MemoryLlamaModel(config, **split)
        self.post_init()

    @property
    def memory_layers(self) -> list[MemoryLayer]:
        return [layer.mlp for layer in self.model.layers if isinstance(layer.mlp, MemoryLayer)]


class MemoryLlamaForSequenceClassification(_MemoryWeights, LlamaForSequenceClassification):
    config_class = MemoryLlamaConfig


# memlm/model/registration.py has registered the name.
AutoConfig.register(MemoryLlamaConfig.model_type, MemoryLlamaConfig, exist_ok=True)
AutoModel.register(MemoryLlamaConfig, MemoryLlamaModel)
AutoModelForCausalLM.register(MemoryLlamaConfig, MemoryLlamaForCausalLM)
AutoModelForSequenceClassification.register(MemoryLlamaConfig, MemoryLlamaForSequenceClassification)


@dataclass(frozen=True, kw_only=True)
class NumParameters:
    base: int
    """All parameters except the pools."""
    pool: int
    active: int
    """Parameters used for one token: the base and the value rows that it reads."""


def count_parameters(model: nn.Module) -> NumParameters:
    """Number of parameters of the base, of the pools, and of those active for one token. Split
    pools count with all their columns. Works on the meta device."""
    pools = [module for module in model.modules() if isinstance(module, ValuePool)]
    pool = sum(module.num_slots * module.value_dim for module in pools)
    base = sum(parameter.numel() for parameter in model.parameters()) - sum(module.weight.numel() for module in pools)
    read = sum(
        module.num_heads * module.top_k * module.value_dim
        for module in model.modules()
        if isinstance(module, MemoryLayer)
    )
    return NumParameters(base=base, pool=pool, active=base + read)


def model_config(
    config: ModelConfig, *, dense: bool, vocab_size: int, eos_id: int | None = None, pad_id: int | None = None
) -> MemoryLlamaConfig:
    """The Hugging Face configuration of the memory model, or of its dense twin."""
    memory = config.memory
    return MemoryLlamaConfig(
        vocab_size=vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_attention_heads,
        max_position_embeddings=config.max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        initializer_range=config.initializer_range,
        tie_word_embeddings=config.tie_embeddings,
        bos_token_id=None,
        eos_token_id=eos_id,
        pad_token_id=pad_id,
        memory_layers=[] if dense else list(memory.layers),
        memory_num_half_keys=memory.num_half_keys,
        memory_top_k=memory.top_k,
        memory_num_heads=memory.num_heads,
        memory_key_dim=memory.key_dim,
        memory_value_dim=memory.value_dim,
        memory_share_values=memory.share_values,
        memory_query_norm=memory.query_norm,
    )


def attention_on(device: torch.device) -> str:
    """The faster attention on a device: eager on a CPU at short lengths; fused on a GPU, where it
    does not store the square matrix."""
    return "eager" if device.type == "cpu" else "sdpa"


class CheckpointError(ValueError):
    """A folder that does not hold a loadable model."""


def load_checkpoint(folder: str | Path, device: torch.device) -> PreTrainedModel:
    """The model in a checkpoint's folder, on a device and in evaluation mode. The folder is
    treated as data: none of its code is run, and weights are read from safetensors only. Raises
    CheckpointError."""
    config = load_model_config(folder)
    with _opening(folder):
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            attn_implementation=attention_on(device),
            trust_remote_code=False,
            use_safetensors=True,
        )
    return model.to(device).eval()


def load_model_config(folder: str | Path) -> PreTrainedConfig:
    """The model configuration in a checkpoint's folder. Raises CheckpointError."""
    with _opening(folder):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        # A file may name a kernel on the hub, which transformers would fetch and run. The caller
        # that builds the model chooses the attention.
        config._attn_implementation = "eager"
    return config


@contextmanager
def _opening(folder: str | Path) -> Iterator[None]:
    def refuse(reason: str) -> CheckpointError:
        return CheckpointError(
            f"checkpoint {folder}: cannot be loaded ({reason}); name a folder with the config.json and *.safetensors of a causal language model"
        )

    try:
        with reading(refuse):
            yield
    except OSError as error:  # transformers raises it, with several lines of text, for a missing file
        raise refuse(reason_of(error)) from error


def build_model(
    config: MemoryLlamaConfig, *, seed: int, attention: str = "eager", split: ColumnSplit | None = None
) -> MemoryLlamaForCausalLM:
    """A model on the CPU with fresh weights drawn from the seed. If the pools are split, the
    weights are the same, but it keeps only its share of their columns. Raises ValueError if its
    value pools do not fit in memory."""
    if config.memory_layers and torch.empty(0).device.type != "meta":  # tensors on the meta device take no memory
        require_room_for_values(
            num_half_keys=config.memory_num_half_keys,
            value_dim=config.memory_value_dim,
            num_pools=config.num_pools,
            pool_split=1 if split is None else split.num_parts,
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = {} if split is None else {"split": split}
        return AutoModelForCausalLM.from_config(config, attn_implementation=attention, trust_remote_code=False, **parts)
