"""In what batches are documents learned? One chunk a step: a batch of its augmentations, padded and not packed (Lin et al. 2025, section 5.2).

The chunks come in the order of the text, one document after another, as one reads.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
from transformers import PreTrainedTokenizerBase

from memlm.data.facts import Fact, FactBatch, FactError, fact_batch


def document_id(fact: Fact) -> str:
    """Of the document that a chunk (`document#number`) belongs to."""
    return fact.id.rsplit("#", 1)[0]


def sample_documents(chunks: Sequence[Fact], num_documents: int, *, seed: int) -> list[Fact]:
    """The chunks of a random subset of the documents, all for 0, the documents in random order and the chunks of each in theirs."""
    documents = [list(group) for _, group in groupby(chunks, document_id)]
    if num_documents > len(documents):
        raise FactError(
            f"stream.num_documents is {num_documents}, but there are only {len(documents)} documents; lower it"
        )
    order = np.random.Generator(np.random.Philox(key=[seed, 0])).permutation(len(documents))
    return [chunk for index in order[: num_documents or None] for chunk in documents[index]]


def document_stream(
    chunks: Sequence[Fact],
    tokenizer: PreTrainedTokenizerBase,
    *,
    num_augmentations: int,
    num_passes: int,
    max_length: int,
    seed: int,
) -> Iterator[FactBatch]:
    """One batch a step, the chunks in the order given, in every pass; each time in num_augmentations of a chunk's texts, drawn anew.

    A chunk with fewer repeats them. A pure function of its arguments. A text beyond max_length is refused at once.
    """
    for chunk in chunks:
        fact_batch(chunk.id, chunk.statements, tokenizer, max_length=max_length)
    return _document_stream(chunks, tokenizer, num_augmentations, num_passes, max_length, seed)


def _document_stream(
    chunks: Sequence[Fact],
    tokenizer: PreTrainedTokenizerBase,
    num_augmentations: int,
    num_passes: int,
    max_length: int,
    seed: int,
) -> Iterator[FactBatch]:
    for number in range(num_passes):
        random = np.random.Generator(np.random.Philox(key=[seed, number + 1]))
        for chunk in chunks:
            rounds = -(-num_augmentations // len(chunk.statements))
            drawn = np.concatenate([random.permutation(len(chunk.statements)) for _ in range(rounds)])
            texts = [chunk.statements[index] for index in drawn[:num_augmentations]]
            yield fact_batch(chunk.id, texts, tokenizer, max_length=max_length)
