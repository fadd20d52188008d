"""Which documents are learned, and what is asked about them? Document and question files -> titled texts, and facts of their chunks.

A chunk is a fact whose statements are its augmentations, so that the streams, trials and scores of facts serve documents too.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any

from memlm.data.chunking import Chunk
from memlm.data.facts import Fact
from memlm.data.mentions import mentions
from memlm.data.question_records import Question
from memlm.data.question_sources import Row, read_rows

MAX_ANSWER_WORDS = 100
"""As for questions of facts: what is longer is no answer to score by exact match."""


class DocumentError(ValueError):
    """A file of documents, or of questions about them, is not what it should be."""


@dataclass(frozen=True, kw_only=True)
class TitledDocument:
    id: str
    title: str
    text: str


@dataclass(frozen=True, kw_only=True)
class DocumentQuestion:
    """A question, and the documents that it was asked about."""

    question: Question
    document_ids: tuple[str, ...]


def read_titled_documents(path: str) -> tuple[list[TitledDocument], list[str]]:
    """The documents of a file, an object or a hub data set (`{"id", "title", "text"}` a record), and where empty ones stand, which are left out."""
    documents: list[TitledDocument] = []
    empty, lines = [], dict[str, int]()
    for line, record in _records(path):
        id, title, text = record.get("id"), record.get("title", ""), record.get("text")
        if not isinstance(id, str | int) or not str(id) or not isinstance(title, str) or not isinstance(text, str):
            raise DocumentError(
                f"{path}:{line}: a document needs an id, a text, and a title if it has one, as text (there are: "
                f"{', '.join(sorted(record)) or 'no fields'}); repair or remove the line"
            )
        if str(id) in lines:
            raise DocumentError(
                f"{path}:{line}: the id {id!r} is already on line {lines[str(id)]}; give each document its own id"
            )
        lines[str(id)] = line
        if text.strip():
            documents.append(TitledDocument(id=str(id), title=title.strip(), text=text))
        else:
            empty.append(f"{path}:{line}: document {id!r} is empty")
    if not documents:
        raise DocumentError(f"{path}: no document holds any text ({len(empty)} are empty); check the path")
    return documents, empty


def read_document_questions(path: str) -> list[DocumentQuestion]:
    """SimpleQA's questions with the documents that they cite: `{"id", "question", "answer", "doc_ids"}` a line."""
    questions = []
    for line, record in _records(path):
        id, question, answer, documents = (record.get(name) for name in ("id", "question", "answer", "doc_ids"))
        texts = isinstance(question, str) and isinstance(answer, str) and question.strip() and answer.strip()
        if id is None or not texts or not isinstance(documents, list) or not documents:
            raise DocumentError(
                f"{path}:{line}: needs an id, a question, an answer, and doc_ids, a list that names a document or more; repair or remove the line"
            )
        if (words := len(str(answer).split())) > MAX_ANSWER_WORDS:
            raise DocumentError(
                f"{path}:{line}: the answer has {words} words, and {MAX_ANSWER_WORDS} are allowed; shorten it or remove the line"
            )
        questions.append(
            DocumentQuestion(
                question=Question(id=str(id), question=str(question), answers=(str(answer).strip(),)),
                document_ids=tuple(map(str, documents)),
            )
        )
    return questions


def _records(source: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for row in read_rows(source):
        if not isinstance(row, Row):
            raise DocumentError(str(row))
        yield row.line, row.values


def check_augmented(
    chunks: Sequence[Chunk], texts: Sequence[Sequence[str]], *, max_failed_share: float
) -> tuple[list[Chunk], list[Sequence[str]]]:
    """The chunks that have a text. Raises DocumentError if too many have none."""
    failed = [chunk for chunk, written in zip(chunks, texts, strict=True) if not written]
    if len(failed) > max_failed_share * len(chunks):
        raise DocumentError(
            f"the writer gave no text for {len(failed)} of {len(chunks)} chunks, the first {failed[0].id!r}, more than "
            f"questions.documents.max_failed_share ({max_failed_share:g}) allows; name a better writer.model, which must answer with "
            "strategies prefixed ##, raise questions.documents.max_rounds, or allow more"
        )
    kept = [(chunk, written) for chunk, written in zip(chunks, texts, strict=True) if written]
    return [chunk for chunk, _ in kept], [written for _, written in kept]


def place_questions(
    chunks: Sequence[Chunk], questions: Sequence[DocumentQuestion], *, answered_only: bool
) -> dict[str, list[Question]]:
    """The questions by the id of the chunk that answers each, so that it can be asked right after that chunk was learned.

    One that no chunk answers goes to the last chunk of its first document, or is left out; so is one whose documents are not there.
    """
    of_document = {id: list(group) for id, group in groupby(chunks, lambda chunk: chunk.document_id)}
    placed: dict[str, list[Question]] = {}
    for asked in questions:
        known = [of_document[id] for id in asked.document_ids if id in of_document]
        place = next((chunk for chunk in chain(*known) if _answers(chunk, asked.question)), None)
        if place is None and known and not answered_only:
            place = known[0][-1]
        if place is not None:
            placed.setdefault(place.id, []).append(asked.question)
    return placed


def facts_of_chunks(
    chunks: Sequence[Chunk], augmentations: Sequence[Sequence[str]], placed: Mapping[str, Sequence[Question]]
) -> list[Fact]:
    """One fact per chunk, in order: its texts, and the questions placed there."""
    return [
        Fact(id=chunk.id, statements=tuple(texts), questions=tuple(placed.get(chunk.id, ())))
        for chunk, texts in zip(chunks, augmentations, strict=True)
    ]


def _answers(chunk: Chunk, question: Question) -> bool:
    return any(mentions(chunk.text, answer) for answer in question.answers)
