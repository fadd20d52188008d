"""Tiny models of every family that can have a memory, with random weights."""

from pathlib import Path

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from memlm.model.config import MemoryConfig
from memlm.model.decoders.families import FAMILIES
from tests.support.tiny import EOS, PAD, VOCAB_SIZE

MEMORY = MemoryConfig(
    layers=(1,),
    num_half_keys=9,
    top_k=3,
    num_heads=2,
    key_dim=6,
    value_dim=16,
    query_norm=True,
    placement="parallel",
)
SHAPE = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
    "tie_word_embeddings": False,
}
GPT2 = {"vocab_size": VOCAB_SIZE, "n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 64, "initializer_range": 0.3}
SPECIAL = {
    "gpt2": {**GPT2, "bos_token_id": None, "eos_token_id": EOS, "pad_token_id": PAD},
    "gemma2": {**SHAPE, "sliding_window": 4, "query_pre_attn_scalar": 8, "tie_word_embeddings": True},
    "gemma3_text": {**SHAPE, "sliding_window": 4, "query_pre_attn_scalar": 8, "tie_word_embeddings": True},
    "mistral": {**SHAPE, "sliding_window": 4},
    "phi3": {name: value for name, value in SHAPE.items() if name != "head_dim"},
    "qwen2": {**SHAPE, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
}
"""Families whose shape has other names, or that attend to a window of tokens in some layers."""


def tiny_base(family: str, *, seed: int = 0, **changes: object) -> PreTrainedModel:
    """A model of the family without memory, in evaluation mode."""
    assert family in FAMILIES
    config = CONFIG_MAPPING[family](**{**SPECIAL.get(family, SHAPE), **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    return model.eval()


def save_bases(folder: Path) -> dict[str, Path]:
    """The tiny bases as folders, by family."""
    for family in FAMILIES:
        tiny_base(family).save_pretrained(folder / family)
    return {family: folder / family for family in FAMILIES}
