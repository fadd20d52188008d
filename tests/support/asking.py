"""A tokenizer and a model to ask: small, random, and the same each time."""

from memlm.data.tokenizer import train_tokenizer
from memlm.model.config import ModelConfig
from memlm.model.language_model import build_model, model_config
from tests.support.tiny import MEMORY

WORDS = ["red", "blue", "green", "house", "tree", "river", "stone", "cloud", "bird", "fish", "north", "south"]


def new_tokenizer():
    return train_tokenizer(
        [f"Question: Where is the {a} {b}?\nAnswer: #### 12" for a in WORDS for b in WORDS], vocab_size=320
    )


def new_model(tokenizer, *, max_positions=256, dense=False, seed=5):
    shape = ModelConfig(
        num_layers=2,
        hidden_size=16,
        num_attention_heads=2,
        intermediate_size=20,
        max_positions=max_positions,
        initializer_range=0.5,
        memory=MEMORY,
    )
    ids = {"eos_id": tokenizer.eos_token_id, "pad_id": tokenizer.pad_token_id}
    return build_model(model_config(shape, dense=dense, vocab_size=len(tokenizer), **ids), seed=seed).eval()
