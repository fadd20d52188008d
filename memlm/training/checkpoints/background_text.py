"""Background text for the memory of a base, as blocks of tokens: from a folder, or what the base
writes by itself."""

from collections.abc import Iterable, Iterator
from itertools import chain, islice

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from memlm.data.corpus.accounting import Accounting
from memlm.data.corpus.config import SamplesConfig
from memlm.data.corpus.listing import list_corpus, open_shard
from memlm.data.corpus.packing import is_text
from memlm.data.corpus.shards import read_documents
from memlm.data.encoding import encode
from memlm.data.writers.samples import sample_texts

MAX_BLOCK_SIZE = 256
TEXTS_AT_ONCE = 64
MAX_TEXTS = 4096
"""A base that ends every text at once would be asked for ever more of them."""


def read_blocks(
    folder: str, tokenizer: PreTrainedTokenizerBase, *, num_tokens: int, max_length: int
) -> Int[Tensor, "blocks block_size"]:
    """The first num_tokens tokens of the shards at an address, or all of them. Raises ShardError if
    they cannot be read."""

    def texts() -> Iterator[str]:
        for shard in list_corpus(folder):
            with open_shard(shard) as path:
                for document in read_documents(str(path), accounting=Accounting(), name=shard.uri):
                    yield document.text

    return _blocks(texts(), tokenizer, num_tokens=num_tokens, max_length=max_length)


def sample_blocks(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, num_tokens: int, max_length: int, seed: int
) -> Int[Tensor, "blocks block_size"]:
    """About num_tokens tokens of text that the model writes by itself."""
    config = SamplesConfig(max_tokens=min(SamplesConfig().max_tokens, max_length - 1), seed=seed)

    def texts() -> Iterator[str]:
        for first in range(0, MAX_TEXTS, TEXTS_AT_ONCE):
            yield from filter(None, sample_texts(model, tokenizer, range(first, first + TEXTS_AT_ONCE), config))

    return _blocks(texts(), tokenizer, num_tokens=num_tokens, max_length=max_length)


def without_pads(
    blocks: Int[Tensor, "blocks block_size"], tokenizer: PreTrainedTokenizerBase
) -> Int[Tensor, "whole block_size"]:
    """The blocks that hold text from end to end."""
    return blocks[is_text(blocks, eos_id=tokenizer.eos_token_id, pad_id=tokenizer.pad_token_id).all(dim=1)]


def _blocks(
    texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, *, num_tokens: int, max_length: int
) -> Int[Tensor, "blocks block_size"]:
    """The texts, each followed by the end of text, one after another. What does not fill a block at
    the end is left out, so no pad is needed: a base may have no token for it."""
    end = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    tokens = list(islice(chain.from_iterable(chain(encode(tokenizer, text), end) for text in texts), num_tokens))
    block_size = min(MAX_BLOCK_SIZE, max_length)
    whole = len(tokens) // block_size
    return torch.tensor(tokens[: whole * block_size], dtype=torch.int64).view(whole, block_size)
