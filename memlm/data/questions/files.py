"""Store questions: in the public sets' layouts, which the readers of real files accept, or
completely, for memlm's own artifacts."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from memlm.data.corpus.shards import read_records, write_shard
from memlm.data.questions.records import MultipleChoice, Question, Record


def write_triviaqa(path: str, questions: Iterable[Question]) -> None:
    """Write TriviaQA's layout (question_id, question, answer with value and aliases), plus the
    relation if set."""
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
    """Write NQ-open's layout (question, answer list), plus the id, which NQ-open lacks, and the
    relation if set."""
    write_shard(
        path,
        (
            {"question": question.question, "answer": list(question.answers), "id": question.id, **_relation(question)}
            for question in questions
        ),
    )


def write_set(path: str, records: Iterable[Record]) -> None:
    """Write records of any kind with all their fields, for read_saved_set."""
    write_shard(path, map(asdict, records))


def read_saved_set(path: str) -> list[Record]:
    """The records that write_set wrote."""
    return [record_of(values) for _, values in read_records(path)]


def record_of(values: Mapping[str, Any]) -> Record:
    """A record from its fields in JSON. Artifacts from before the field `fact` existed merged ids
    at their '#'."""
    if "fact" not in values:
        values = {**values, "fact": values["id"].rsplit("#", 1)[0]}
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    return MultipleChoice(**fields) if "choices" in fields else Question(**fields)


def _relation(question: Question) -> dict[str, str]:
    return {"relation": question.relation} if question.relation else {}
