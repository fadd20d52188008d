"""Which questions are asked, and which answers count? Question files -> questions, for the fact stream and the scores.

    source (path, s3://, hf://) -> rows -> layout -> questions, checked -> selection

The layouts are the public sets' own, so the generated world and the real files go through the same readers. A record that does
not fit is named with file, line and reason, and is an error unless the config allows for some.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from typing import Any, TypeVar

import numpy as np

from memlm.data.config import QuestionSetConfig
from memlm.data.question_layouts import LAYOUTS, DoesNotFit
from memlm.data.question_records import MultipleChoice, Question, QuestionError, Record
from memlm.data.question_sources import Malformed, Row, read_rows
from memlm.data.shards import read_records, write_shard

SHOWN = 3
"""Malformed records that a message names."""

logger = logging.getLogger(__name__)


def read_questions(path: str, layout: str) -> list[Question]:
    """All questions of a source that allows for no malformed record, in its order."""
    return require_questions(path, read_set(QuestionSetConfig(path=path, layout=layout)))


def read_set(source: QuestionSetConfig, *, report: Callable[[str], object] = logger.warning) -> list[Record]:
    """All records of a source, in its order; ids are its own, or layout and line number.

    `report` is told of the malformed records that were left out, where the config allows for them.
    """
    if source.layout not in LAYOUTS:
        nearest = get_close_matches(source.layout, LAYOUTS, n=1, cutoff=0.4)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise QuestionError(f"unknown question layout {source.layout!r}.{hint} Known are {', '.join(LAYOUTS)}.")
    records: list[Record] = []
    malformed: list[Malformed] = []
    lines: dict[str, int] = {}
    for row in read_rows(source.path):
        record = row if isinstance(row, Malformed) else _fitted(row, source, lines)
        if not isinstance(record, Malformed):
            records.append(record)
        elif source.max_malformed_share:
            malformed.append(record)
        else:
            raise QuestionError(str(record))
    _judge(source, len(records), malformed, report)
    return records


def require_questions(path: str, records: Sequence[Record]) -> list[Question]:
    """The records, if all are questions with answers: what can be learned as facts."""
    questions = [record for record in records if isinstance(record, Question)]
    if len(questions) < len(records):
        raise QuestionError(
            f"{path}: holds choices, not questions with answers. Only a held-out set can be of this kind."
        )
    return questions


T = TypeVar("T")


def select(items: Sequence[T], source: QuestionSetConfig) -> list[T]:
    """Those that a source asks for: shuffled first, if asked, in an order that depends on nothing but their number.

    Raises QuestionError if none is left.
    """
    order = np.arange(len(items))
    if source.shuffle:
        order = np.argsort(np.random.Philox(key=[0, 0]).random_raw(len(items)), kind="stable")
    chosen = order[source.skip :][: source.num_questions or None]
    if not len(chosen):
        raise QuestionError(f"{source.path}: skip is {source.skip}, and there are {len(items)} questions; lower it")
    return [items[index] for index in chosen]


def write_triviaqa(path: str, questions: Iterable[Question]) -> None:
    """Write TriviaQA's layout (question_id, question, answer with value and aliases), plus the relation if set."""
    write_shard(
        path,
        (
            {
                "question_id": question.id,
                "question": question.question,
                "answer": {"value": question.answers[0], "aliases": list(question.answers)},
                **_relation(question),
            }
            for question in questions
        ),
    )


def write_nq_open(path: str, questions: Iterable[Question]) -> None:
    """Write NQ-open's layout (question, answer list), plus the id, which NQ-open lacks, and the relation if set."""
    write_shard(
        path,
        (
            {"question": question.question, "answer": list(question.answers), "id": question.id, **_relation(question)}
            for question in questions
        ),
    )


def write_set(path: str, records: Iterable[Record]) -> None:
    """Write records of any kind whole, for read_written."""
    write_shard(path, map(asdict, records))


def read_written(path: str) -> list[Record]:
    """What write_set wrote."""
    return [record_of(values) for _, values in read_records(path)]


def record_of(values: Mapping[str, Any]) -> Record:
    """One record from its fields as JSON holds them."""
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    return MultipleChoice(**fields) if "choices" in fields else Question(**fields)


def _fitted(row: Row, source: QuestionSetConfig, lines: dict[str, int]) -> Record | Malformed:
    """The row's record; `lines` keeps where each id stood."""
    try:
        record = LAYOUTS[source.layout](row, source.fields)
    except DoesNotFit as error:
        return Malformed(row.source, row.line, str(error))
    except (KeyError, TypeError, AttributeError) as error:
        return Malformed(
            row.source,
            row.line,
            f"not a question in the layout {source.layout!r} ({type(error).__name__}: {error}). "
            "Name the file's own layout, or repair this line.",
        )
    reason = _too_long(record, source.max_answer_words)
    if not reason and record.id in lines:
        reason = f"the id {record.id!r} is already on line {lines[record.id]}. Give each question its own id."
    if reason:
        return Malformed(row.source, row.line, reason)
    lines[record.id] = row.line
    return record


def _too_long(record: Record, max_answer_words: int) -> str:
    """Why the record's answers are too long; empty if they are not."""
    longest = max((len(answer.split()) for answer in record.answers), default=0) if isinstance(record, Question) else 0
    if longest <= max_answer_words:
        return ""
    return f"an answer has {longest} words, and max_answer_words is {max_answer_words}. Shorten or remove it, or raise the limit."


def _judge(
    source: QuestionSetConfig, num_records: int, malformed: Sequence[Malformed], report: Callable[[str], object]
) -> None:
    """Refuses a set that is empty or of which too much is malformed, and reports what was left out."""
    total = num_records + len(malformed)
    listed = "\n  ".join(["", *map(str, malformed[:SHOWN])])
    found = f"{source.path}: {len(malformed)} of {total} records do not fit the layout {source.layout!r}"
    if len(malformed) > source.max_malformed_share * total:
        raise QuestionError(
            f"{found}, more than max_malformed_share ({source.max_malformed_share}) allows. "
            f"Name the file's own layout, repair them, or raise the share. The first:{listed}"
        )
    if not num_records:
        raise QuestionError(f"{source.path}: the file holds no questions. Check the path.")
    if malformed:
        report(f"{found} and are left out. The first:{listed}")


def _relation(question: Question) -> dict[str, str]:
    return {"relation": question.relation} if question.relation else {}
