"""What does a trial learn, and in which batches? One answer for both kinds of stream: of facts, and of the chunks of documents."""

from collections.abc import Iterator, Sequence

from transformers import PreTrainedTokenizerBase

from memlm.data.config import DocumentStreamConfig, StreamChoice
from memlm.data.document_stream import document_stream, sample_documents
from memlm.data.facts import Fact, FactBatch, fact_stream, sample_facts


def facts_of_stream(stream: StreamChoice, facts: Sequence[Fact], *, seed: int) -> list[Fact]:
    """Those that a trial of this seed learns."""
    if isinstance(stream, DocumentStreamConfig):
        return sample_documents(facts, stream.num_documents, seed=seed)
    return sample_facts(facts, stream.num_facts, seed=seed)


def num_steps(stream: StreamChoice, facts: Sequence[Fact], *, seed: int) -> int:
    return len(facts_of_stream(stream, facts, seed=seed)) * stream.num_passes


def batches_of_stream(
    stream: StreamChoice, facts: Sequence[Fact], tokenizer: PreTrainedTokenizerBase, *, seed: int
) -> Iterator[FactBatch]:
    """One a step, from what facts_of_stream gave."""
    if isinstance(stream, DocumentStreamConfig):
        return document_stream(
            facts,
            tokenizer,
            num_augmentations=stream.num_augmentations,
            num_passes=stream.num_passes,
            max_length=stream.max_length,
            seed=seed,
        )
    return fact_stream(
        facts,
        tokenizer,
        num_wordings=stream.num_wordings,
        num_passes=stream.num_passes,
        max_length=stream.max_length,
        seed=seed,
    )
