"""Text that a model writes without being asked: samples of its own distribution, as background text
for a model whose pretraining text is not at hand."""

import hashlib
from collections.abc import Sequence

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from memlm.data.corpus.config import SamplesConfig
from memlm.data.encoding import decode_all, padding_id


@torch.no_grad()
def sample_texts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, numbers: Sequence[int], config: SamplesConfig
) -> list[str]:
    """One text per number, written as one batch; the same numbers and settings give the same
    texts. Special tokens and NUL, which no corpus may hold, are left out, and a text may be
    empty."""
    starts = torch.full((len(numbers), 1), start_id(tokenizer), device=model.device)
    generation = GenerationConfig(
        do_sample=True,
        temperature=config.temperature,
        top_p=1.0,
        top_k=0,
        max_new_tokens=config.max_tokens,
        eos_token_id=sorted(_ends(model, tokenizer)),
        pad_token_id=padding_id(tokenizer),
    )
    drawn = hashlib.sha256(repr((config.seed, list(numbers))).encode()).digest()
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(int.from_bytes(drawn[:8], "big") >> 1)
        written = model.generate(input_ids=starts, attention_mask=torch.ones_like(starts), generation_config=generation)
    return [text.replace("\0", "").strip() for text in decode_all(tokenizer, written[:, 1:].tolist())]


def start_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that texts begin after: the one that separates documents in pretraining, where a
    chat model has another end of text, or else the tokenizer's own."""
    ids = (tokenizer.get_vocab().get("<|endoftext|>"), tokenizer.bos_token_id, tokenizer.eos_token_id)
    return next(int(id) for id in ids if id is not None)


def _ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens that end a text: the tokenizer's, and those that the model's folder names."""
    named = model.generation_config.eos_token_id if model.generation_config is not None else None
    return {int(tokenizer.eos_token_id), *([named] if isinstance(named, int) else named or [])}
