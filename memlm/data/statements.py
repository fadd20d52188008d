"""How is a question with its answer put into statements? By templates: the relation's where it is known, else by the kind of question.

A statement holds the answer and never the question as it is asked: that wording is kept for evaluation.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from memlm.data.facts import Fact
from memlm.data.questions import Question
from memlm.data.relations import RELATIONS


@dataclass(frozen=True, kw_only=True)
class Wordings:
    statements: tuple[str, ...]
    """Each holds the preferred answer."""
    questions: tuple[str, ...]
    """Other ways to ask; may be none."""


def wordings_of(question: Question) -> Wordings:
    relation = RELATIONS.get(question.relation)
    subject = subject_of(question.question, relation.asked) if relation else None
    if relation is None or subject is None:
        raise NotImplementedError
    answer = question.answers[0]
    return Wordings(
        statements=tuple(_sentence(frame.format(s=subject, a=answer)) for frame in relation.statements),
        questions=tuple(frame.format(s=subject) for frame in relation.questions),
    )


def subject_of(question: str, asked: str) -> str | None:
    """What stands in the place of {s}; none if the question is of another form."""
    before, after = asked.split("{s}")
    if not (question.startswith(before) and question.endswith(after)) or len(question) <= len(before) + len(after):
        return None
    return question[len(before) : len(question) - len(after)]


def _sentence(text: str) -> str:
    """Begins with a capital, ends with one stop."""
    text = text.replace("..", ".") if text.endswith("..") else text
    return text[0].upper() + text[1:]


def facts_of_questions(questions: Sequence[Question]) -> list[Fact]:
    """Facts from questions alone, put into statements."""
    return [
        Fact(id=question.id, statements=wordings_of(question).statements, questions=(question,))
        for question in questions
    ]
