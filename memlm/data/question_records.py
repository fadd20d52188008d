"""What is one question? A question with answers, or one with choices. What all readers, streams and scores pass on."""

from dataclasses import dataclass


class QuestionError(ValueError):
    """A set of questions does not hold what its layout says."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question with every answer that counts as right, the preferred one first."""

    id: str
    question: str
    answers: tuple[str, ...]
    relation: str = ""
    """What kind of fact is asked for (a Wikidata property, an attribute of the world); empty where the set has none."""
    solution: str = ""
    """How the answer is worked out, step by step, as the set writes it; empty where the set has none."""
    context: str = ""
    """What stands before the question when it is asked, such as a text that was looked up for it."""


@dataclass(frozen=True, kw_only=True)
class MultipleChoice:
    """A text and several ways to go on, one of them right."""

    id: str
    query: str
    choices: tuple[str, ...]
    gold: int
    """Place of the right choice, from 0."""


Record = Question | MultipleChoice


@dataclass(frozen=True, kw_only=True)
class TaskChoice:
    """How a set of records is asked and scored."""

    task: str = ""
    """A task of the evaluation suite; empty for the general one of the records' kind."""
    num_examples: int = -1
    """Solved records shown before each; -1 for the task's own number."""
