"""Statements of a question with its answer, by templates: the relation's where it is known, else
by the kind of question.

A statement holds the answer and never the question as it is asked: that wording is kept for
evaluation.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from memlm.data.mentions import mentions
from memlm.data.questions.records import ANSWER, QUESTION, Fact, Question
from memlm.data.stating.grammar import PREPOSITIONS, QUESTION_WORDS, declare
from memlm.data.stating.kinds import asked_by_grammar, recognise, ways_asked
from memlm.data.stating.relations import RELATIONS
from memlm.data.stating.verbs import BE, DO, MODALS

StatedBy = Literal["relation", "kind", "question", "topic"]
"""The templates that state a fact: those of its relation, those of what is asked for, those of its
kind of question, or else those of topic and answer."""


@dataclass(frozen=True, kw_only=True)
class Wordings:
    kind: StatedBy
    statements: tuple[str, ...]
    """Statements, each with the preferred answer in it."""
    questions: tuple[str, ...]
    """Other ways to ask; empty where none are known."""


SENTENCE_FRAMES = (
    "{sentence}",
    "it is a fact that {sentence}",
    "it is well known that {sentence}",
    "as records show, {sentence}",
    "keep in mind that {sentence}",
    "reference books say that {sentence}",
)
DESCRIPTION_FRAMES = (
    "{description} {verb} {answer}",
    "{answer} {verb} {description}",
    "{description} {verb} in fact {answer}",
)
TOPIC_FRAMES = (
    "{topic}: {answer}",
    'the clue "{topic}" points to {answer}',
    'the answer to the clue "{topic}" is {answer}',
    '{answer} is the answer to the clue "{topic}"',
    '"{topic}" is a clue to {answer}',
    'given the clue "{topic}", the answer is {answer}',
)
"""For a question that no grammar rule takes apart: its words without the question word, as a clue
of a quiz or a crossword."""

GAP = "___"


def wordings_of(
    question: Question, *, rephrased: bool = False, taken: frozenset[tuple[str, ...]] = frozenset()
) -> Wordings:
    """The wordings of a question and its answer: all different, and none repeats the question. With
    `rephrased`, also those of its kind (kinds.py), asked in none of the ways that are taken."""
    answer = question.answers[0]
    relation = RELATIONS.get(question.relation)
    subject = subject_of(question.question, relation.asked) if relation else None
    if relation is not None and subject is not None:
        stated = [_with_article(frame, answer).format(s=subject, a=answer) for frame in relation.statements]
        return Wordings(
            kind="relation",
            statements=tuple(map(_sentence, stated)),
            questions=tuple(frame.format(s=subject) for frame in relation.questions),
        )
    if rephrased and (found := recognise(question.question)):
        return Wordings(
            kind="kind",
            statements=tuple(dict.fromkeys(map(_sentence, found.statements(answer)))),
            questions=tuple(each for each in found.questions(taken) if not mentions(each, question.question)),
        )
    kind: StatedBy = "question"
    stated = list(_by_question(question.question, answer))
    if not stated:
        kind, topic = "topic", topic_of(question.question)
        stated = [frame.format(topic=topic, answer=answer) for frame in TOPIC_FRAMES]
    asked = asked_by_grammar(question) if rephrased else ()
    return Wordings(kind=kind, statements=tuple(dict.fromkeys(map(_sentence, stated))), questions=tuple(asked))


def _by_question(question: str, answer: str) -> Iterator[str]:
    found = declare(question, answer)
    if found is None:
        return
    first = found.sentence.partition(" ")[0]
    inside = first.lower() + found.sentence.removeprefix(first) if first.lower() in NO_NAMES else found.sentence
    for frame in SENTENCE_FRAMES:
        yield frame.format(sentence=inside)
    if found.emphasis:
        yield found.emphasis
    if found.description:
        for frame in DESCRIPTION_FRAMES:
            yield frame.format(description=found.description, verb=found.verb, answer=answer)


NO_NAMES = PREPOSITIONS | frozenset(["the", "a", "an", "his", "her", "their", "there"])
"""First words that have a capital for no other reason than their place."""


def topic_of(question: str) -> str:
    """The question without its question word and auxiliary."""
    words = question.strip().strip('"').rstrip("?!. ").split()
    kept = [word for word in words if word.lower() not in QUESTION_WORDS]
    while kept and kept[0].lower() in BE | DO | MODALS:
        kept = kept[1:]
    return " ".join(kept or words)


def subject_of(question: str, asked: str) -> str | None:
    """The words in the place of {s}; None if the question has another form."""
    before, after = asked.split("{s}")
    if not (question.startswith(before) and question.endswith(after)) or len(question) <= len(before) + len(after):
        return None
    return question[len(before) : len(question) - len(after)]


def _with_article(frame: str, answer: str) -> str:
    """The frame with "a" or "an" before the answer, as its first letter has it."""
    return frame.replace(" a {a}", " an {a}") if answer[:1].lower() in tuple("aeiou") else frame


def _sentence(text: str) -> str:
    """The text with a capital in front and one stop at the end."""
    text = text if text.endswith((".", "!")) else f"{text}."
    return text[0].upper() + text[1:].removesuffix("..") + ("." if text.endswith("..") else "")


def with_answer(question: str, answer: str) -> str:
    """A question with its answer, in the form of the evaluation's prompts."""
    return f"{QUESTION}{question}{ANSWER} {answer}"


def facts_of_questions(
    questions: Sequence[Question], *, also_asked: bool = False, rephrased: bool = False
) -> list[Fact]:
    """Facts from questions alone, put into statements; with `also_asked`, into other questions with
    the answer too; with `rephrased`, by their kinds."""
    facts, taken = [], ways_asked(questions) if rephrased else frozenset[tuple[str, ...]]()
    for question in questions:
        wordings = wordings_of(question, rephrased=rephrased, taken=taken)
        asked = _other_questions(question, wordings) if also_asked else ()
        stated = (*wordings.statements, *(with_answer(each, question.answers[0]) for each in asked))
        facts.append(Fact(id=question.id, statements=stated, questions=(question,)))
    return facts


def _other_questions(question: Question, wordings: Wordings) -> tuple[str, ...]:
    """Other ways to ask; where none are known, the statements with a gap in the place of the
    answer."""
    answer = question.answers[0]
    return wordings.questions or tuple(
        statement.replace(answer, GAP, 1) for statement in wordings.statements if answer in statement
    )
