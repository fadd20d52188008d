"""What is one question? A question with answers, or one with choices. What all readers, streams
and scores pass on."""

from dataclasses import dataclass
from typing import Any


class QuestionError(ValueError):
    """A set of questions does not hold what its layout says."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question with every answer that counts as right, the preferred one first."""

    id: str
    question: str
    answers: tuple[str, ...]
    relation: str = ""
    """What kind of fact is asked for (a Wikidata property, an attribute of the world); empty
    where the set has none."""
    solution: str = ""
    """How the answer is worked out, step by step, as the set writes it; empty where the set has
    none."""
    context: str = ""
    """What stands before the question when it is asked, such as a text that was looked up for
    it."""
    fact: str = ""
    """What it asks for: questions with the same one are wordings of one question, and scored as
    one. Empty for a fact of its own."""

    @property
    def fact_id(self) -> str:
        return self.fact or self.id


@dataclass(frozen=True, kw_only=True)
class Fact:
    """Something to learn: how it is said when learned, and how it is asked for afterwards."""

    id: str
    statements: tuple[str, ...]
    questions: tuple[Question, ...]


@dataclass(frozen=True, kw_only=True)
class MultipleChoice:
    """A text and several ways to go on, one of them right."""

    id: str
    query: str
    choices: tuple[str, ...]
    gold: int
    """Place of the right choice, from 0."""
    fact: str = ""
    """As of a Question."""

    @property
    def fact_id(self) -> str:
        return self.fact or self.id


Record = Question | MultipleChoice


def id_of(value: Any) -> str:
    """A record's id as text: 12 and 12.0, as a column with a gap in it holds it, are "12"."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def numbered_fact(id: str) -> str:
    """What stands before the '#' of an id that ends in one and a number; else empty."""
    fact, _, number = id.rpartition("#")
    return fact if number.isdecimal() else ""


@dataclass(frozen=True, kw_only=True)
class TaskChoice:
    """How a set of records is asked and scored."""

    task: str = ""
    """A task of the evaluation suite; empty for the general one of the records' kind."""
    num_examples: int = -1
    """Solved records shown before each; -1 for the task's own number."""
