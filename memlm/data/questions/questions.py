"""Read questions and their accepted answers: question files -> questions, for the fact stream and
the scores.

    source (path, s3://, hf://) -> rows -> layout -> questions, checked -> selection

The layouts are the public sets' own, so the generated world and the real files use the same
readers. A record that does not fit is reported with file, line and reason, and is an error unless
the config allows some.
"""

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from memlm.data.config import QuestionSetConfig
from memlm.data.questions.layouts import LAYOUTS, DoesNotFit
from memlm.data.questions.records import MultipleChoice, Question, QuestionError, Record, numbered_fact
from memlm.data.questions.sources import Malformed, Row, read_rows
from memlm.names import suggestion
from memlm.outside import reason_of

SHOWN = 3
"""Number of malformed records that a message lists."""
SHOWN_LINES = 20
"""Number of lines that a note lists."""
WHOLE_FLOAT = re.compile(r"([^\w.]*\d[\d,]*)\.0+(\W*)")
"""Matches 1990.0, but also 1,990.0 and $5.00."""

logger = logging.getLogger(__name__)


def read_questions(path: str, layout: str) -> list[Question]:
    """All questions of a source, in its order. Malformed records are errors."""
    return require_questions(path, read_set(QuestionSetConfig(path=path, layout=layout)))


def read_set(source: QuestionSetConfig, *, report: Callable[[str], object] = logger.warning) -> list[Record]:
    """All records of a source, in its order. Ids are the source's own, or layout and line number.

    Malformed records are reported if the config allows leaving them out.
    """
    if source.layout not in LAYOUTS:
        raise QuestionError(f"unknown question layout {source.layout!r}; {suggestion(source.layout, LAYOUTS)}")
    records: list[Record] = []
    malformed, num_malformed = [], 0
    lines: dict[str, int] = {}
    notes = _Notes()
    for row in read_rows(source.path):
        record = row if isinstance(row, Malformed) else _fitted(row, source, lines)
        if not isinstance(record, Malformed):
            fact = numbered_fact(record.id) if source.merge_numbered else ""
            records.append(replace(notes.without_blank_answers(record, row.line), fact=fact))
        elif source.max_malformed_share:
            num_malformed += 1
            malformed += (
                [record] if num_malformed <= SHOWN else []
            )  # a file of millions of records would fill the memory with reasons
        else:
            raise QuestionError(str(record))
    _check_malformed(source, len(records), malformed, num_malformed, report)
    for note in notes.messages():
        report(f"{source.path}: {note}")
    return records


def require_questions(path: str, records: Sequence[Record]) -> list[Question]:
    """The records as questions, for learning them as facts. Raises QuestionError if some are
    multiple choice."""
    questions = [record for record in records if isinstance(record, Question)]
    if len(questions) < len(records):
        raise QuestionError(
            f"{path}: contains multiple choice, not questions with answers. Only a held-out set can be of this kind."
        )
    return questions


T = TypeVar("T")


def select(
    items: Sequence[T], source: QuestionSetConfig, *, report: Callable[[str], object] = lambda message: None
) -> list[T]:
    """The items that a source selects. If shuffled, their order depends only on their number.

    A report is made if a source asks for more than there are, so that all are used. Raises
    QuestionError if none is left.
    """
    order = np.arange(len(items))
    if source.shuffle:
        order = np.argsort(np.random.Philox(key=[0, 0]).random_raw(len(items)), kind="stable")
    chosen = order[source.skip :][: source.num_questions or None]
    if not len(chosen):
        raise QuestionError(
            f"{source.path}: skip is {source.skip}, but there are only {len(items)} questions; lower it"
        )
    if source.num_questions > len(chosen):
        report(f"num_questions is {source.num_questions}, but there are only {len(chosen)}: all of them are used")
    return [items[index] for index in chosen]


class _Notes:
    """Notes on unusual answers, with their line numbers."""

    def __init__(self) -> None:
        self.blank: list[int] = []
        self.floats: list[int] = []

    def without_blank_answers(self, record: Record, line: int) -> Record:
        """The record without its blank answers. Notes unusual answers."""
        if not isinstance(record, Question):
            return record
        answers = tuple(answer for answer in record.answers if answer.strip())
        if len(answers) < len(record.answers):
            self.blank.append(line)
        if any((whole := WHOLE_FLOAT.fullmatch(answer)) and whole[1] + whole[2] not in answers for answer in answers):
            self.floats.append(line)
        return replace(record, answers=answers)

    def messages(self) -> Iterator[str]:
        if self.blank:
            yield f"{len(self.blank)} records have a blank answer among others, which is left out (lines {_first(self.blank)})"
        if self.floats:
            yield (
                f"{len(self.floats)} records have a whole number with a point and zeros as an answer (lines {_first(self.floats)}), such as 1990.0: "
                "the answer 1990 counts as wrong there. Write whole numbers without the point"
            )


def _first(lines: Sequence[int]) -> str:
    return ", ".join(map(str, lines[:SHOWN_LINES])) + (", ..." if len(lines) > SHOWN_LINES else "")


def _fitted(row: Row, source: QuestionSetConfig, lines: dict[str, int]) -> Record | Malformed:
    """The row's record. `lines` maps each id to its line."""
    try:
        record = LAYOUTS[source.layout](row, source.fields)
    except DoesNotFit as error:
        return Malformed(row.source, row.line, str(error))
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError, MemoryError) as error:
        return Malformed(
            row.source,
            row.line,
            f"not a question in the layout {source.layout!r} ({reason_of(error)}). "
            "Name the file's own layout, or repair this line.",
        )
    reason = _not_unicode(record) or _too_long(record, source.max_answer_words)
    if not reason and record.id in lines:
        reason = f"the id {record.id!r} is already on line {lines[record.id]}. Give each question its own id."
    if reason:
        return Malformed(row.source, row.line, reason)
    lines[record.id] = row.line
    return record


def _not_unicode(record: Record) -> str:
    """The reason why no tokenizer can read the record's texts; empty if one can. JSON can encode
    half a surrogate pair."""
    texts = (
        [record.query, *record.choices] if isinstance(record, MultipleChoice) else [record.question, *record.answers]
    )
    try:
        "".join([record.id, *texts]).encode()
    except UnicodeEncodeError:
        return "a text is not valid Unicode (half a surrogate pair). Repair or remove this line."
    return ""


def _too_long(record: Record, max_answer_words: int) -> str:
    """The reason if one of the record's answers is too long; else empty."""
    longest = max((len(answer.split()) for answer in record.answers), default=0) if isinstance(record, Question) else 0
    if longest <= max_answer_words:
        return ""
    return f"an answer has {longest} words, but max_answer_words is {max_answer_words}. Shorten or remove it, or raise the limit."


def _check_malformed(
    source: QuestionSetConfig,
    num_records: int,
    malformed: Sequence[Malformed],
    num_malformed: int,
    report: Callable[[str], object],
) -> None:
    """Refuse a set that is empty or has too many malformed records, and report the records left
    out. `malformed` lists the first of them."""
    total = num_records + num_malformed
    listed = "; ".join(str(each).rstrip(".") for each in malformed)
    found = f"{source.path}: {num_malformed} of {total} records do not fit the layout {source.layout!r}"
    if num_malformed > source.max_malformed_share * total:
        raise QuestionError(
            f"{found}, more than max_malformed_share ({source.max_malformed_share}) allows. "
            f"Name the file's own layout, repair them, or raise the share. The first: {listed}"
        )
    if not num_records:
        raise QuestionError(f"{source.path}: the file holds no questions. Check the path.")
    if malformed:
        report(f"{found} and are left out. The first: {listed}")
