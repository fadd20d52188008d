"""The content and batches of a trial's stream, for both kinds of stream: facts, and the chunks of
documents.

Facts come in a new order in every pass (Lin et al. 2025, section 5.1); chunks come in the order of
the text, one document after another (section 5.2), in passes over all of them or, one by one, with
all passes over a document before the next.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, groupby

import numpy as np
from transformers import PreTrainedTokenizerBase

from memlm.data.config import DocumentStreamConfig, Part, StreamChoice
from memlm.data.questions.facts import Fact, FactBatch, FactError, fact_stream, sample_facts
from memlm.data.questions.parts import items_of_part, size_of_part


def facts_of_stream(stream: StreamChoice, facts: Sequence[Fact], *, seed: int) -> list[Fact]:
    """The facts that a trial with this seed learns: as many of the stream's part as requested, or
    all of it. Raises FactError if the part is empty."""
    try:
        if isinstance(stream, DocumentStreamConfig):
            return sample_documents(facts, stream.num_documents, seed=seed, part=stream.part)
        return sample_facts(items_of_part(facts, stream.part), stream.num_facts, seed=seed)
    except ValueError as error:
        raise FactError(str(error)) from None


def require_asked(chosen: Sequence[Fact], *, seed: int) -> None:
    """Raise FactError if there is no question about the facts of a trial with this seed, because
    its learning could not be measured."""
    if not any(fact.questions for fact in chosen):
        raise FactError(
            f"no question is about the {len(chosen)} facts or chunks that seed {seed} draws, so learning could not be measured; "
            "learn more documents (stream.num_documents), or give another seed"
        )


def shortfall(stream: StreamChoice, facts: Sequence[Fact]) -> str:
    """A message if a stream asks for more than there is and therefore learns all; empty
    otherwise."""
    if isinstance(stream, DocumentStreamConfig):
        field, asked, number = "num_documents", stream.num_documents, len(by_document(facts))
    else:
        field, asked, number = "num_facts", stream.num_facts, len(facts)
    there = size_of_part(number, stream.part)
    if asked <= there:
        return ""
    part = "" if stream.part == "all" else f" for {stream.part}"
    return f"stream.{field} is {asked}, but there are only {there}{part}: all of them are learned"


def sample_documents(chunks: Sequence[Fact], num_documents: int, *, seed: int, part: Part = "all") -> list[Fact]:
    """The chunks of a random subset of the part's documents, or of all of them for 0. Documents are
    in random order, and the chunks of each in their own order.

    A chunk's id is the id of its document, a '#' and a number.
    """
    documents = items_of_part(by_document(chunks), part)
    order = np.random.Generator(np.random.Philox(key=[seed, 0])).permutation(len(documents))
    return [chunk for index in order[: num_documents or None] for chunk in documents[index]]


def by_document(chunks: Sequence[Fact]) -> list[list[Fact]]:
    """The chunks of each document, in their order."""
    return [list(group) for _, group in groupby(chunks, lambda chunk: chunk.id.rsplit("#", 1)[0])]


def num_steps(stream: StreamChoice, facts: Sequence[Fact], *, seed: int) -> int:
    return len(facts_of_stream(stream, facts, seed=seed)) * stream.num_passes


def batches_of_stream(
    stream: StreamChoice, facts: Sequence[Fact], tokenizer: PreTrainedTokenizerBase, *, seed: int
) -> Iterator[FactBatch]:
    """One batch per step, for the facts from facts_of_stream. Raises FactError at once if a text is
    longer than the stream allows."""
    batches_of = partial(
        fact_stream,
        tokenizer=tokenizer,
        num_wordings=stream.num_wordings,
        num_passes=stream.num_passes,
        max_length=stream.max_length,
        seed=seed,
        shuffle=not isinstance(stream, DocumentStreamConfig),
        loss_on=stream.loss_on,
    )
    if not learns_one_by_one(stream):
        return batches_of(facts)
    return chain.from_iterable([batches_of(document) for document in by_document(facts)])


def learns_one_by_one(stream: StreamChoice) -> bool:
    """Whether all passes over a document come before the next one."""
    return isinstance(stream, DocumentStreamConfig) and stream.order == "one_by_one"


def learns_values_only(stream: StreamChoice) -> bool:
    """Whether only the answers in the statements are learned."""
    return stream.loss_on == "values"
