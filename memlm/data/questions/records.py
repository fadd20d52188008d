"""The records that all readers, streams and scores exchange: questions with answers, and multiple
choice."""

from dataclasses import dataclass
from typing import Any

QUESTION, ANSWER = "Question: ", "\nAnswer:"
"""The form of a question with its answer as a text, which is that of the evaluation's prompts."""


class QuestionError(ValueError):
    """A set of questions does not match its layout."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question with all answers that count as right, the preferred one first."""

    id: str
    question: str
    answers: tuple[str, ...]
    relation: str = ""
    """Kind of fact that is asked for (a Wikidata property, an attribute of the world); empty if the
    set gives none."""
    solution: str = ""
    """Worked solution as given by the set; empty if there is none."""
    context: str = ""
    """Text shown before the question, such as a passage that was retrieved for it."""
    fact: str = ""
    """Id of the fact that it asks for. Questions about the same fact are wordings of one question
    and scored as one. Empty for a fact of its own."""

    @property
    def fact_id(self) -> str:
        return self.fact or self.id


@dataclass(frozen=True, kw_only=True)
class Fact:
    """Something to learn: its statements for learning, and the questions about it."""

    id: str
    statements: tuple[str, ...]
    questions: tuple[Question, ...]


@dataclass(frozen=True, kw_only=True)
class Update:
    """What a fact to learn replaces, and known facts near it that must stay as they are."""

    fact: str
    """Id of the fact."""
    replaces: str
    """The answer that was right before."""
    same_subject: tuple[Question, ...]
    """Questions about other facts of its subject."""
    same_relation: tuple[Question, ...]
    """Questions about the same relation of other subjects."""


@dataclass(frozen=True, kw_only=True)
class MultipleChoice:
    """A text and several continuations, one of which is right."""

    id: str
    query: str
    choices: tuple[str, ...]
    gold: int
    """Index of the right choice, from 0."""
    fact: str = ""
    """As in Question."""

    @property
    def fact_id(self) -> str:
        return self.fact or self.id


Record = Question | MultipleChoice


def id_of(value: Any) -> str:
    """A record's id as text. A column with missing values stores 12 as 12.0; both become "12"."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def numbered_fact(id: str) -> str:
    """The part of an id before a final '#' and number; empty if the id has no such end."""
    fact, _, number = id.rpartition("#")
    return fact if number.isdecimal() else ""


@dataclass(frozen=True, kw_only=True)
class TaskChoice:
    """How a set of records is asked and scored."""

    task: str = ""
    """A task of the evaluation suite; empty for the general one for this kind of record."""
    num_examples: int = -1
    """Number of solved examples shown before each; -1 for the task's own number."""
