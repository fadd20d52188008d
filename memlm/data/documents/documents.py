"""Read the documents to learn and the questions about them: document and question files -> titled
texts, and facts made of their chunks.

    documents    .md and .txt, one document per file, or a folder of them; or a table of id, title
                 and text, and rewrites of the text
    questions    a table of question and answer, and, if there are several documents, the doc_ids
                 that a question is about; or the table of documents, if each has its questions

A chunk is a fact whose statements are its augmentations, so that the streams, trials and scores of
facts work for documents too.
"""

import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any

from memlm.data.documents.chunking import Chunk, sentences_of
from memlm.data.documents.headings import sections_of
from memlm.data.documents.text_files import is_text_source, read_text_files, text_content
from memlm.data.file_kinds import QUESTION_SUFFIXES, TEXT_SUFFIXES, kind_of
from memlm.data.folders import Report
from memlm.data.mentions import mentions, words_of
from memlm.data.questions.facts import Fact
from memlm.data.questions.layouts import DoesNotFit, answer_text
from memlm.data.questions.records import Question, id_of
from memlm.data.questions.sources import Row, read_rows, source_content
from memlm.hub import HUB

logger = logging.getLogger(__name__)

MAX_ANSWER_WORDS = 100
"""The same limit as for facts: a longer answer cannot be scored by exact match."""


class DocumentError(ValueError):
    """A file of documents, or of questions about them, is not valid."""


@dataclass(frozen=True, kw_only=True)
class TitledDocument:
    id: str
    title: str
    text: str
    rewrites: tuple[str, ...] = ()
    """What somebody wrote about the text, to learn it from."""


@dataclass(frozen=True, kw_only=True)
class DocumentQuestion:
    """A question, and the documents that it is about."""

    question: Question
    document_ids: tuple[str, ...]
    """Empty for all documents."""


def documents_content(source: str) -> bytes:
    """Bytes that identify the content of a source of documents."""
    return text_content(source) if is_text_source(source) else source_content(source)


def read_titled_documents(path: str, *, report: Report = logger.warning) -> tuple[list[TitledDocument], list[str]]:
    """The documents of a file, a folder, an object or a hub data set, and the places of empty ones,
    which are left out. Files of a folder that are left out are reported.

    A file of plain text is one document; each record of a table is one (`{"id", "title",
    "text"}`, and `"rewrites"`, a list of texts).
    """
    if is_text_source(path):
        return _read_text_documents(path, report)
    if not path.startswith(HUB) and kind_of(path) is None:
        raise DocumentError(
            f"{path}: not a supported kind of document file; use {', '.join(TEXT_SUFFIXES)} or a folder of them, {QUESTION_SUFFIXES}"
        )
    documents: list[TitledDocument] = []
    empty, lines = [], dict[str, int]()
    for line, record in _records(path):
        id, title, text = record.get("id"), record.get("title", ""), record.get("text")
        id = id_of(id) if _is_number(id) else id
        if not isinstance(id, str) or not id or not isinstance(title, str) or not isinstance(text, str):
            raise DocumentError(
                f"{path}:{line}: a document needs an id and a text, and a title if present must be text (the fields are: "
                f"{', '.join(sorted(record)) or 'no fields'}); repair or remove the line"
            )
        if id in lines:
            raise DocumentError(
                f"{path}:{line}: the id {id!r} is already on line {lines[id]}; give each document its own id"
            )
        lines[id] = line
        if text.strip():
            rewrites = _rewrites_of(record, f"{path}:{line}")
            documents.append(TitledDocument(id=id, title=title.strip(), text=text, rewrites=rewrites))
        else:
            empty.append(f"{path}:{line}: document {id!r} is empty")
    if not documents:
        raise DocumentError(f"{path}: no document holds any text ({len(empty)} are empty); check the path")
    return documents, empty


def _rewrites_of(record: Mapping[str, Any], place: str) -> tuple[str, ...]:
    rewrites = record.get("rewrites") or []
    if not isinstance(rewrites, list) or not all(isinstance(each, str) for each in rewrites):
        raise DocumentError(f"{place}: rewrites must be a list of texts; repair them, or leave them out")
    return tuple(rewrites)


def _read_text_documents(path: str, report: Report) -> tuple[list[TitledDocument], list[str]]:
    """Documents of text files. A document's title is its first heading, or else the file's name;
    its id is the file's name without the suffix."""
    documents, empty = [], []
    for name, text in read_text_files(path, report=report):
        id = PurePosixPath(name).with_suffix("").as_posix()
        first = sections_of(text)[0].headings
        title = first[0] if first else PurePosixPath(name).stem.replace("_", " ").replace("-", " ")
        if text.strip():
            documents.append(TitledDocument(id=id, title=title, text=text))
        else:
            empty.append(f"{path}: document {id!r} is empty")
    if not documents:
        raise DocumentError(f"{path}: no document holds any text ({len(empty)} are empty); check the path")
    ids = Counter(document.id for document in documents)
    if twice := [id for id, count in ids.items() if count > 1]:
        raise DocumentError(f"{path}: two files are named {twice[0]!r} except for their suffixes; rename one")
    return documents, empty


def read_document_questions(path: str) -> list[DocumentQuestion]:
    """Questions about documents, one per record: `{"question", "answer"}`, optionally with `id` and
    `doc_ids`.

    SimpleQA's records have all four. A text in `doc_ids` is one id, or a JSON list as in a CSV
    file; several answers are a list. A document's record may hold its own `questions`.
    """
    questions, lines = [], dict[str, int]()
    for line, record in _question_records(path):
        try:
            question, answers = record.get("question"), _answers_of(record.get("answer"))
        except DoesNotFit as error:
            raise DocumentError(f"{path}:{line}: {error}") from error
        ids = _document_ids(record.get("doc_ids"))
        if not isinstance(question, str) or not question.strip() or not answers or ids is None:
            raise DocumentError(
                f"{path}:{line}: needs a question and an answer, and doc_ids if present must list at least one document (its fields are: "
                f"{', '.join(sorted(map(str, record))) or 'no fields'}); repair or remove the line"
            )
        if (words := max(len(answer.split()) for answer in answers)) > MAX_ANSWER_WORDS:
            raise DocumentError(
                f"{path}:{line}: the answer has {words} words, but at most {MAX_ANSWER_WORDS} are allowed; shorten it or remove the line"
            )
        id = record.get("id")
        named = f"question:{line}" if id is None or id == "" or id != id else id_of(id)
        if named in lines:
            raise DocumentError(
                f"{path}:{line}: the id {named!r} is already on line {lines[named]}; give each question its own id"
            )
        lines[named] = line
        questions.append(
            DocumentQuestion(question=Question(id=named, question=question, answers=answers), document_ids=ids)
        )
    if not questions:
        raise DocumentError(f"{path}: the file holds no questions; check the path")
    return questions


def _question_records(path: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for line, record in _records(path):
        asked = record.get("questions")
        if not isinstance(asked, list) or "question" in record:
            yield line, record
            continue
        if not all(isinstance(each, dict) for each in asked):
            raise DocumentError(
                f"{path}:{line}: questions must be a list of objects with question and answer; repair or remove the line"
            )
        for number, each in enumerate(asked):
            yield line, _under_its_topic(each, record, number)


def _under_its_topic(asked: Mapping[str, Any], document: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The record of a question that stands in its document's. It is asked under the document's
    title, as SEAL asks it (Zweiger et al. 2025, arXiv 2506.10943): alone it may not say what it is
    about."""
    id, title, question = id_of(document.get("id")), document.get("title"), asked.get("question")
    if isinstance(title, str) and title.strip() and isinstance(question, str):
        question = f"Topic: {title.strip()}\n{question}"
    return {"id": f"{id}:{number}", "doc_ids": [id], **asked, "question": question}


def _answers_of(answer: Any) -> tuple[str, ...]:
    """The answers; empty if one is blank. Raises DoesNotFit if one is neither text nor a number."""
    texts = [answer_text(one, "answer") or "" for one in (answer if isinstance(answer, list) else [answer])]
    return tuple(dict.fromkeys(text.strip() for text in texts)) if all(text.strip() for text in texts) else ()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _document_ids(ids: Any) -> tuple[str, ...] | None:
    """The ids; None if they are not valid, empty for all documents."""
    if isinstance(ids, str) and ids.strip().startswith("["):
        try:
            ids = json.loads(ids)
        except (ValueError, RecursionError):
            return None
    if ids is None or ids == "":
        return ()
    ids = ids if isinstance(ids, list) else [ids]
    named = tuple(id_of(id).strip() for id in ids if isinstance(id, str) or _is_number(id))
    return named if len(named) == len(ids) and all(named) and named else None


def _records(source: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for row in read_rows(source):
        if not isinstance(row, Row):
            raise DocumentError(str(row))
        yield row.line, row.values


def check_augmented(
    chunks: Sequence[Chunk], texts: Sequence[Sequence[str]], *, max_failed_share: float
) -> tuple[list[Chunk], list[Sequence[str]]]:
    """The chunks with texts, and these texts. Raises DocumentError if too many chunks have none."""
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
    """The questions by the id of the chunk that states their answer, so that each can be asked
    right after that chunk was learned.

    A question that no chunk answers goes to the last chunk of its first document, or is left out. A
    question about documents that are missing is left out.
    """
    of_document = {id: list(group) for id, group in groupby(chunks, lambda chunk: chunk.document_id)}
    placed: dict[str, list[Question]] = {}
    for asked in questions:
        known = [of_document[id] for id in asked.document_ids or of_document if id in of_document]
        place = _chunk_stating([chunk for document in known for chunk in document], asked.question)
        if place is None and known and not answered_only:
            place = known[0][-1]
        if place is not None:
            placed.setdefault(place.id, []).append(asked.question)
    return placed


def _chunk_stating(chunks: Sequence[Chunk], question: Question) -> Chunk | None:
    """The chunk that states an answer: of the chunks that contain it, the one that shares most
    words with the question, preferably in the same sentence; the first of equal ones.

    Words found in few chunks count more. None if no chunk contains an answer.
    """
    holding = [chunk for chunk in chunks if any(mentions(chunk.titled, answer) for answer in question.answers)]
    if len(holding) < 2:
        return holding[0] if holding else None
    answered = {word for answer in question.answers for word in words_of(answer)}
    asked = _stems(question.question) - {word[:STEM_LETTERS] for word in answered}
    frequency = Counter(stem for chunk in chunks for stem in _stems(chunk.titled) & asked)

    def overlap(text: str) -> float:
        return sum(1 / frequency[stem] for stem in _stems(text) & asked)

    def in_one_sentence(chunk: Chunk) -> float:
        sentences = [each for each in sentences_of(chunk.text) if any(mentions(each, a) for a in question.answers)]
        return max(map(overlap, sentences), default=0.0)

    scores = [2 * in_one_sentence(chunk) + overlap(chunk.titled) for chunk in holding]
    return holding[scores.index(max(scores))]


STEM_LETTERS = 5
"""Length of the prefix by which words are compared, since questions and texts inflect them
differently."""


def _stems(text: str) -> set[str]:
    return {word[:STEM_LETTERS] for word in words_of(text) if len(word) > 2 and not QUESTION_WORDS.fullmatch(word)}


QUESTION_WORDS = re.compile(
    "wh(at|ich|ere|en|o|om|ose|y)|how|the|and|for|did|does|was|were|are|has|have|had|that|this|with|from"
)
"""Words that say nothing about the topic of a question."""


def facts_of_chunks(
    chunks: Sequence[Chunk], augmentations: Sequence[Sequence[str]], placed: Mapping[str, Sequence[Question]]
) -> list[Fact]:
    """One fact per chunk, in order, with its texts and the questions placed there."""
    return [
        Fact(id=chunk.id, statements=tuple(texts), questions=tuple(placed.get(chunk.id, ())))
        for chunk, texts in zip(chunks, augmentations, strict=True)
    ]
