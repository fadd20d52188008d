"""Which questions are asked, and which answers count? Question files -> questions, for the fact stream and the scores.

The layouts are the public sets' own, so the generated world and the real files go through the same readers.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeVar

import numpy as np

from memlm.data.config import QuestionSetConfig
from memlm.data.shards import read_records, write_shard

GSM8K_ANSWER = re.compile(r"####\s*(\S+)\s*$")


class QuestionError(ValueError):
    """A question file does not hold what its layout says."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question with every answer that counts as right, the preferred one first."""

    id: str
    question: str
    answers: tuple[str, ...]
    relation: str = ""
    """What kind of fact is asked for (a Wikidata property, an attribute of the world); empty where the set has none."""
    context: str = ""
    """What stands before the question when it is asked, such as a text that was looked up for it."""


def read_questions(path: str, layout: str) -> list[Question]:
    """All questions of a `.jsonl` or `.jsonl.zst` file, in file order; ids are the file's or layout and line number."""
    if layout not in LAYOUTS:
        nearest = get_close_matches(layout, LAYOUTS, n=1, cutoff=0.4)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise QuestionError(f"unknown question layout {layout!r}.{hint} Known are {', '.join(LAYOUTS)}.")
    questions = list(_read(path, layout))
    if not questions:
        raise QuestionError(f"{path}: the file holds no questions. Check the path.")
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


def _read(path: str, layout: str) -> Iterator[Question]:
    id_field, answers_of = LAYOUTS[layout]
    lines: dict[str, int] = {}
    for line, record in read_records(path):
        try:
            question, answers = record["question"], answers_of(record)
        except (KeyError, TypeError, AttributeError) as error:
            raise QuestionError(
                f"{path}:{line}: not a question in the layout {layout!r} ({type(error).__name__}: {error}). "
                "Name the file's own layout, or repair this line."
            ) from error
        if not isinstance(question, str) or not question.strip():
            raise QuestionError(f"{path}:{line}: the question is {question!r}, not a text. Repair or remove this line.")
        if (
            not isinstance(answers, list)
            or not answers
            or not all(isinstance(answer, str) and answer.strip() for answer in answers)
        ):
            raise QuestionError(
                f"{path}:{line}: a question without answers, or not a list of texts: {answers!r}. "
                "Repair or remove this line."
            )
        id = str(record.get(id_field, f"{layout}:{line}"))
        if id in lines:
            raise QuestionError(
                f"{path}:{line}: the id {id!r} is already on line {lines[id]}. Give each question its own id."
            )
        lines[id] = line
        yield Question(
            id=id, question=question, answers=tuple(dict.fromkeys(answers)), relation=str(record.get("relation", ""))
        )


def _relation(question: Question) -> dict[str, str]:
    return {"relation": question.relation} if question.relation else {}


def _triviaqa_answers(record: dict[str, Any]) -> list[str]:
    return [record["answer"]["value"], *record["answer"]["aliases"]]


def _gsm8k_answers(record: dict[str, Any]) -> list[str]:
    # The worked solution ends in "#### 1,234"; the set's own scorer compares the number without its commas.
    found = GSM8K_ANSWER.search(record["answer"])
    return [found.group(1).replace(",", "")] if found else []


# layout -> (field with the id, how to find the answers)
LAYOUTS: dict[str, tuple[str, Callable[[dict[str, Any]], list[str]]]] = {
    "triviaqa": ("question_id", _triviaqa_answers),
    "nq_open": ("id", lambda record: record["answer"]),
    "entityquestions": ("id", lambda record: record["answers"]),
    "gsm8k": ("id", _gsm8k_answers),
}
