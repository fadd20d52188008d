"""What does a trial learn, and in which batches? One answer for both kinds of stream: of facts,
and of the chunks of documents.

Facts come in an order of their own in every pass (Lin et al. 2025, section 5.1); chunks in the
order of the text, one document after another, as one reads (section 5.2).
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
from transformers import PreTrainedTokenizerBase

from memlm.data.config import DocumentStreamConfig, StreamChoice
from memlm.data.questions.facts import Fact, FactBatch, FactError, fact_stream, sample_facts


def facts_of_stream(stream: StreamChoice, facts: Sequence[Fact], *, seed: int) -> list[Fact]:
    """Those that a trial of this seed learns: as many as asked for, or all there are."""
    if isinstance(stream, DocumentStreamConfig):
        return sample_documents(facts, stream.num_documents, seed=seed)
    return sample_facts(facts, stream.num_facts, seed=seed)


def require_asked(chosen: Sequence[Fact], *, seed: int) -> None:
    """Raises FactError if nothing asks about what a trial of this seed learns, so that its
    learning could not be measured."""
    if not any(fact.questions for fact in chosen):
        raise FactError(
            f"nothing asks about the {len(chosen)} facts or chunks that seed {seed} draws, so learning could not be measured; "
            "learn more documents (stream.num_documents), or give another seed"
        )


def shortfall(stream: StreamChoice, facts: Sequence[Fact]) -> str:
    """What to say where a stream asks for more than there is, and so takes all; empty where it
    does not."""
    if isinstance(stream, DocumentStreamConfig):
        field, asked, there = "num_documents", stream.num_documents, len(_by_document(facts))
    else:
        field, asked, there = "num_facts", stream.num_facts, len(facts)
    if asked <= there:
        return ""
    return f"stream.{field} is {asked}, and there are {there}: all of them are learned"


def sample_documents(chunks: Sequence[Fact], num_documents: int, *, seed: int) -> list[Fact]:
    """The chunks of a random subset of the documents, all for 0 or for more than there are, the
    documents in random order and the chunks of each in theirs.

    A chunk's id is its document's, a '#' and a number.
    """
    documents = _by_document(chunks)
    order = np.random.Generator(np.random.Philox(key=[seed, 0])).permutation(len(documents))
    return [chunk for index in order[: num_documents or None] for chunk in documents[index]]


def _by_document(chunks: Sequence[Fact]) -> list[list[Fact]]:
    return [list(group) for _, group in groupby(chunks, lambda chunk: chunk.id.rsplit("#", 1)[0])]


def num_steps(stream: StreamChoice, facts: Sequence[Fact], *, seed: int) -> int:
    return len(facts_of_stream(stream, facts, seed=seed)) * stream.num_passes


def batches_of_stream(
    stream: StreamChoice, facts: Sequence[Fact], tokenizer: PreTrainedTokenizerBase, *, seed: int
) -> Iterator[FactBatch]:
    """One a step, from what facts_of_stream gave. Raises FactError at once if a text is longer
    than the stream allows."""
    return fact_stream(
        facts,
        tokenizer,
        num_wordings=stream.num_wordings,
        num_passes=stream.num_passes,
        max_length=stream.max_length,
        seed=seed,
        shuffle=not isinstance(stream, DocumentStreamConfig),
    )
