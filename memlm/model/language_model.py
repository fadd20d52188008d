"""The language model: memlm's own, which is a Llama with memory layers, built with fresh weights,
and any model in a checkpoint's folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from memlm.model.bases.adapter import is_adapter, load_adapter, load_adapter_config
from memlm.model.capacity import require_room_for_values
from memlm.model.column_split import ColumnSplit
from memlm.model.config import ModelConfig
from memlm.model.decoders.classes import MemoryHead, memory_classes
from memlm.model.decoders.configuration import MemoryConfiguration, memory_fields
from memlm.model.memory import MemoryLayer, ValuePool
from memlm.outside import reading, reason_of

LLAMA = memory_classes("llama")
"""The classes of memlm's own models."""
MemoryLlamaForCausalLM = LLAMA.language_model


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
) -> MemoryConfiguration:
    """The Hugging Face configuration of the memory model, or of its dense twin."""
    memory = config.memory
    return LLAMA.configuration(
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
        **memory_fields(memory if not dense else replace(memory, layers=())),
    )


def attention_on(device: torch.device) -> str:
    """The faster attention on a device: eager on a CPU at short lengths; fused on a GPU, where it
    does not store the square matrix."""
    return "eager" if device.type == "cpu" else "sdpa"


def compute_buffers(model: PreTrainedModel, device: torch.device) -> None:
    """Compute the buffers that no checkpoint holds, such as rotary frequencies, in a model that was
    made on the meta device, which cannot compute them. Its weights are in place, and stay."""
    for tensor in model.state_dict(keep_vars=True).values():
        tensor._is_hf_initialized = True  # type: ignore[attr-defined]
    for module in model.modules():
        missing = [name for name, buffer in module.named_buffers(recurse=False) if buffer.is_meta]
        for name in missing:
            module._buffers[name] = torch.empty_like(module._buffers[name], device=device)  # type: ignore[arg-type]
        module._is_hf_initialized = not missing  # type: ignore[assignment]
    model.initialize_weights()


class CheckpointError(ValueError):
    """A folder that does not hold a loadable model."""


def load_checkpoint(folder: str | Path, device: torch.device) -> PreTrainedModel:
    """The model in a checkpoint's folder, on a device and in evaluation mode. The folder is
    treated as data: none of its code is run, and weights are read from safetensors only. An adapter
    is joined with its base. Raises CheckpointError, AdapterError or BaseError."""
    if is_adapter(folder):
        return load_adapter(folder, attention=attention_on(device)).to(device)
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
    """The model configuration in a checkpoint's folder. Raises as load_checkpoint does."""
    if is_adapter(folder):
        return load_adapter_config(folder)
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
    config: MemoryConfiguration, *, seed: int, attention: str = "eager", split: ColumnSplit | None = None
) -> MemoryHead:
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
