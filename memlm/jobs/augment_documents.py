"""Chunks of the documents to learn, each restated in many texts: by rules, by a language model
(Active Reading), or by rewrites that come with the documents. prepare_corpus reads the result:

    documents/facts.jsonl   a line per chunk, in order, with its texts and the questions it answers
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from memlm import artifacts, storage
from memlm.artifact import Artifact
from memlm.config import Config
from memlm.data.config import WITHOUT_WRITER, DocumentsConfig
from memlm.data.corpus.corpus import Corpus, open_corpus
from memlm.data.documents.active_reading import APPLY_PROMPT, STRATEGY_PROMPTS, augment_by_reading
from memlm.data.documents.augmentation import augment_by_rules
from memlm.data.documents.chunking import Chunk, chunk_document, fitting_start, num_tokens
from memlm.data.documents.documents import (
    DocumentError,
    DocumentQuestion,
    TitledDocument,
    check_augmented,
    documents_content,
    facts_of_chunks,
    place_questions,
    read_document_questions,
    read_titled_documents,
)
from memlm.data.documents.rewrites import texts_given
from memlm.data.documents.sentence_wordings import augment_by_sentences
from memlm.data.documents.written_questions import QUESTION_PROMPT, READING_PROMPT, write_questions
from memlm.data.paths import expand
from memlm.data.questions.facts import Fact
from memlm.data.questions.records import Question
from memlm.data.questions.sets import read_fact_lines, write_fact_lines
from memlm.data.questions.sources import source_content
from memlm.data.stating.sets import conflict_lines
from memlm.data.writers.build import revision_of
from memlm.data.writers.interface import Writer
from memlm.jobs.on_ray.alone import alone
from memlm.jobs.on_ray.checks import require_ready
from memlm.jobs.on_ray.cluster import connect
from memlm.jobs.on_ray.console import say
from memlm.jobs.preparing.writing_units import Record, write_in_units
from memlm.jobs.sources import open_world
from memlm.kinds import DOCUMENTS_KIND, FACTS_FILE
from memlm.run import run_of
from memlm.stages import require_documents

PROMPTS = {
    **{name: (strategies, APPLY_PROMPT) for name, strategies in STRATEGY_PROMPTS.items()},
    "questions": (QUESTION_PROMPT, READING_PROMPT),
}
"""Prompts of each augmenter that has a writer."""


def run(config: Config) -> str:
    """Augment the chunks, or only the missing ones, or reuse the artifact; return its uri."""
    augmenter = require_documents(config).augmenter
    require_ready(config)
    world = open_world(config)
    read, empty, questions = read_sources(config, world)
    path, asked = source_paths(config, world)
    contents = (documents_content(path), source_content(asked))
    sources = hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in contents))
    corpus = artifacts.corpus(config).require().digest
    revision = None if augmenter in WITHOUT_WRITER else revision_of(config.writer)
    prompts = () if revision is None else PROMPTS[augmenter]
    documents = artifacts.documents(config, revision=revision, prompts=prompts)
    documents = documents.made_from(sources=sources.hexdigest(), corpus=corpus)

    def is_there() -> bool:
        made = documents.is_made()
        if made:
            say(f"documents: reusing {documents.uri}")
        return made

    if is_there():
        return documents.uri
    for place in empty[:5]:
        say(f"documents: {place} and left out ({len(empty)} in all)")
    with alone(run_of(config).documents_lease):
        if not is_there():  # unless another driver made it meanwhile
            _augment_all(config, read, questions, documents, revision)
    return documents.uri


def _augment_all(
    config: Config,
    read: Sequence[TitledDocument],
    questions: Sequence[DocumentQuestion],
    documents: Artifact,
    revision: str | None,
) -> None:
    """Augment the missing chunks and write the artifact."""
    settings, digest = require_documents(config), documents.digests()["corpus"]
    corpus = open_corpus(artifacts.corpus(config).uri, digest=digest)
    chunks, placed = _chunks(read, questions, settings, corpus)
    if settings.augmenter == "given":
        records = _give(read, chunks, settings, corpus)
    else:
        held_out = [each.question.question for each in questions]
        records = _augment_chunks(config, chunks, documents, revision, held_out)
    texts = [record["texts"] for record in records]
    chunks, texts = check_augmented(chunks, texts, max_failed_share=settings.max_failed_share)
    facts = facts_of_chunks(chunks, texts, placed)
    details = _details(read, facts, records)
    with documents.write() as draft:
        write_fact_lines(draft.path / FACTS_FILE, facts)
        draft.details.update(details)
    storage.delete_made(documents.units)
    say(
        f"documents: {details['num_documents']} in {len(facts)} chunks, {details['num_texts']} texts ({details['num_cut']} cut to fit), "
        f"{details['num_questions']} of {len(questions)} questions, in {documents.uri}"
    )
    _report_left_out(questions, facts)
    of_documents = [replace(each.question, context=" ".join(sorted(each.document_ids))) for each in questions]
    for line in conflict_lines(of_documents):
        say(f"questions.documents.questions: {line}")


def _report_left_out(questions: Sequence[DocumentQuestion], facts: Sequence[Fact]) -> None:
    asked = {question for fact in facts for question in fact.questions}
    left_out = [each.question for each in questions if each.question not in asked]
    for question in left_out[:5]:
        say(
            f"documents: no chunk answers {question.question!r} with {question.answers[0]!r}; left out ({len(left_out)} in all)"
        )


def document_facts(uri: str, *, digest: str) -> list[Fact]:
    """The chunks of the artifact, as facts."""
    return read_fact_lines(storage.open_artifact(uri, kind=DOCUMENTS_KIND, digest=digest) / FACTS_FILE)


def source_paths(config: Config, world: Path | None) -> list[str]:
    documents = require_documents(config)
    return [
        expand(documents.path, "questions.documents.path", world),
        expand(documents.questions, "questions.documents.questions", world),
    ]


def read_sources(config: Config, world: Path | None) -> tuple[list[TitledDocument], list[str], list[DocumentQuestion]]:
    """Read the documents, the positions of empty ones, and the questions. Every error in them is
    found here."""
    path, questions = source_paths(config, world)
    read, empty = read_titled_documents(path, report=lambda message: say(f"questions.documents.path: {message}"))
    asked = require_documents(config).num_documents
    if asked > len(read):
        say(f"questions.documents.num_documents is {asked}, and there are {len(read)}; all of them are used")
    return read[: asked or None], empty, read_document_questions(questions)


def _chunks(
    read: Sequence[TitledDocument], questions: Sequence[DocumentQuestion], config: DocumentsConfig, corpus: Corpus
) -> tuple[list[Chunk], dict[str, list[Question]]]:
    """The chunks to learn, each with the questions that it answers."""
    tokenizer = corpus.tokenizer
    bounds = {"max_tokens": config.chunk_tokens, "min_tokens": config.min_chunk_tokens}
    chunks = [
        chunk
        for document in read
        for chunk in chunk_document(document.id, document.title, document.text, tokenizer, **bounds)
    ]
    placed = place_questions(chunks, questions, answered_only=config.answered_only)
    if not placed:
        raise DocumentError(
            f"none of the {len(questions)} questions in questions.documents.questions is answered by a document of questions.documents.path, "
            "so learning cannot be measured; check that doc_ids name those documents, or set questions.documents.answered_only False"
        )
    return [chunk for chunk in chunks if chunk.id in placed or not config.answering_chunks_only], placed


def _give(
    read: Sequence[TitledDocument], chunks: Sequence[Chunk], config: DocumentsConfig, corpus: Corpus
) -> list[Record]:
    """The texts that came with each document, which is a single chunk."""
    id, number = Counter(chunk.document_id for chunk in chunks).most_common(1)[0]
    if number > 1:
        raise DocumentError(
            f"document {id!r} is cut into {number} chunks, and its rewrites are about all of it; set questions.documents.chunk_tokens and "
            "questions.documents.min_chunk_tokens to more tokens than the longest document has"
        )
    documents = {document.id: document for document in read}
    given = (texts_given(documents[chunk.document_id], config.num_augmentations) for chunk in chunks)
    return [_fitting(texts, corpus.tokenizer, config.max_augmentation_tokens) for texts in given]


def _augment_chunks(
    config: Config, chunks: Sequence[Chunk], documents: Artifact, revision: str | None, held_out: Sequence[str]
) -> list[Record]:
    """`held_out` are the questions that no text may ask."""
    digest = documents.digests()["corpus"]
    corpus = partial(open_corpus, artifacts.corpus(config).uri, digest=digest)
    wanted = {**documents.identity, "corpus": digest}
    work = partial(_augment, config=require_documents(config), corpus=corpus, held_out=held_out)
    items = [asdict(chunk) for chunk in chunks]
    with connect(config):
        return write_in_units(config, work, items, folder=documents.units, wanted=wanted, revision=revision)


def _augment(
    writer: Writer | None,
    items: Sequence[Record],
    *,
    config: DocumentsConfig,
    corpus: Callable[[], Corpus],
    held_out: Sequence[str],
) -> list[Record]:
    chunks = [Chunk(**item) for item in items]
    tokenizer, longest = corpus().tokenizer, config.max_augmentation_tokens
    fits = partial(_fits, tokenizer=tokenizer, longest=longest)
    if writer is None:
        return [{"texts": _by_rules(chunk, config, fits), "num_cut": 0} for chunk in chunks]
    if config.augmenter == "questions":
        return [{"texts": texts, "num_cut": 0} for texts in _by_questions(writer, chunks, config, fits, held_out)]
    augmented = augment_by_reading(
        writer,
        chunks,
        prompt_name=STRATEGY_PROMPTS[config.augmenter],
        num_augmentations=config.num_augmentations,
        max_rounds=config.max_rounds,
    )
    return [_fitting(texts, tokenizer, longest) for texts in augmented]


def _fitting(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, longest: int) -> Record:
    fitting = [fitting_start(text, tokenizer, longest) for text in texts]
    num_cut = sum(text != whole for text, whole in zip(fitting, texts, strict=True))
    return {"texts": list(dict.fromkeys(fitting)), "num_cut": num_cut}


def _by_rules(chunk: Chunk, config: DocumentsConfig, fits: Callable[[str], bool]) -> list[str]:
    if config.augmenter == "sentences":
        return augment_by_sentences(chunk, config.num_augmentations, fits=fits)
    return augment_by_rules(chunk, config.num_augmentations, seed=config.seed, fits=fits)


def _by_questions(
    writer: Writer,
    chunks: Sequence[Chunk],
    config: DocumentsConfig,
    fits: Callable[[str], bool],
    held_out: Sequence[str],
) -> list[list[str]]:
    """Statements of each sentence, and questions of the writer's about it."""
    texts = []
    for chunk, asked in zip(
        chunks, write_questions(writer, chunks, max_rounds=config.max_rounds, held_out=held_out), strict=True
    ):
        written: dict[str, list[tuple[str, str]]] = {}
        for each in asked:
            written.setdefault(each.sentence, []).append((each.question, each.answer))
        texts.append(augment_by_sentences(chunk, config.num_augmentations, fits=fits, written=written))
    return texts


def _fits(text: str, tokenizer: PreTrainedTokenizerBase, longest: int) -> bool:
    return num_tokens(text, tokenizer) <= longest


def _details(read: Sequence[TitledDocument], facts: Sequence[Fact], records: Sequence[Record]) -> dict[str, int]:
    return {
        "num_documents": len(read),
        "num_chunks": len(facts),
        "num_texts": sum(len(fact.statements) for fact in facts),
        "num_cut": sum(record["num_cut"] for record in records),
        "num_questions": sum(len(fact.questions) for fact in facts),
    }
