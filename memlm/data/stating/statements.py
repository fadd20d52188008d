"""How is a question with its answer put into statements? By templates: the relation's where it
is known, else by the kind of question.

A statement holds the answer and never the question as it is asked: that wording is kept for
evaluation.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from memlm.data.questions.records import Fact, Question
from memlm.data.stating.grammar import QUESTION_WORDS, declare
from memlm.data.stating.relations import RELATIONS
from memlm.data.stating.verbs import BE, DO, MODALS

StatedBy = Literal["relation", "question", "topic"]
"""Which templates state a fact: those of its relation, those of its kind of question, or for any
other those of topic and answer."""


@dataclass(frozen=True, kw_only=True)
class Wordings:
    kind: StatedBy
    statements: tuple[str, ...]
    """Each holds the preferred answer."""
    questions: tuple[str, ...]
    """Other ways to ask; may be none."""


SENTENCE_FRAMES = (
    "{sentence}",
    "it is a fact that {sentence}",
    "people remember that {sentence}",
    "as the record shows, {sentence}",
    "one should know that {sentence}",
    "reference books say that {sentence}",
)
DESCRIPTION_FRAMES = (
    "{description} is {answer}",
    "{answer} is {description}",
    "asked for {description}, one says {answer}",
)
TOPIC_FRAMES = (
    "{answer} is what this is about: {topic}",
    "on {topic}: {answer}",
    "{topic} points to {answer}",
    "the name to remember for {topic} is {answer}",
    "{topic}: the right word here is {answer}",
    "in matters of {topic}, the solution is {answer}",
)
"""For a question that no grammar rule takes apart: its words without the question word."""


def wordings_of(question: Question) -> Wordings:
    """Every wording differs from the others and does not repeat the question."""
    answer = question.answers[0]
    relation = RELATIONS.get(question.relation)
    subject = subject_of(question.question, relation.asked) if relation else None
    if relation is not None and subject is not None:
        stated = [frame.format(s=subject, a=answer) for frame in relation.statements]
        return Wordings(
            kind="relation",
            statements=tuple(map(_sentence, stated)),
            questions=tuple(frame.format(s=subject) for frame in relation.questions),
        )
    kind: StatedBy = "question"
    stated = list(_by_kind(question.question, answer))
    if not stated:
        kind, topic = "topic", topic_of(question.question)
        stated = [frame.format(topic=topic, answer=answer) for frame in TOPIC_FRAMES]
    return Wordings(kind=kind, statements=tuple(dict.fromkeys(map(_sentence, stated))), questions=())


def _by_kind(question: str, answer: str) -> Iterator[str]:
    found = declare(question, answer)
    if found is None:
        return
    inside = (
        found.sentence[0].lower() + found.sentence[1:] if found.sentence.startswith(DETERMINERS) else found.sentence
    )
    for frame in SENTENCE_FRAMES:
        yield frame.format(sentence=inside)
    if found.description:
        for frame in DESCRIPTION_FRAMES:
            yield frame.format(description=found.description, answer=answer)


DETERMINERS = ("The ", "A ", "An ", "His ", "Her ", "Their ", "There ")


def topic_of(question: str) -> str:
    """The question without its question word and auxiliary."""
    words = question.strip().strip('"').rstrip("?!. ").split()
    kept = [word for word in words if word.lower() not in QUESTION_WORDS]
    while kept and kept[0].lower() in BE | DO | MODALS:
        kept = kept[1:]
    return " ".join(kept or words)


def subject_of(question: str, asked: str) -> str | None:
    """What stands in the place of {s}; none if the question is of another form."""
    before, after = asked.split("{s}")
    if not (question.startswith(before) and question.endswith(after)) or len(question) <= len(before) + len(after):
        return None
    return question[len(before) : len(question) - len(after)]


def _sentence(text: str) -> str:
    """Begins with a capital and ends with one stop."""
    text = text if text.endswith((".", "!")) else f"{text}."
    return text[0].upper() + text[1:].removesuffix("..") + ("." if text.endswith("..") else "")


def facts_of_questions(questions: Sequence[Question]) -> list[Fact]:
    """Facts from questions alone, put into statements."""
    return [
        Fact(id=question.id, statements=wordings_of(question).statements, questions=(question,))
        for question in questions
    ]
