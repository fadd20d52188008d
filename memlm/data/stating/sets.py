"""Reports on a question set before it is stated: how its facts are stated, the questions that
templates cannot state, and its contradictions."""

from collections.abc import Callable, Iterator, Sequence

from memlm.data.config import QuestionSetConfig
from memlm.data.mentions import plain
from memlm.data.questions.records import Question, QuestionError
from memlm.data.stating.language import reason_not_statable
from memlm.data.stating.statements import StatedBy, wordings_of

MARKS = str.maketrans("", "", "?.!,;:\"'")
SHOWN = 3
"""Number of questions that a message names."""
KINDS: dict[StatedBy, str] = {
    "relation": "in the wordings of their relation",
    "kind": "in the wordings of what they ask for",
    "question": "as sentences, by their kind of question",
    "topic": "as topic and answer, since no rule fits",
}


def statable(
    questions: Sequence[Question], source: QuestionSetConfig, *, report: Callable[[str], object]
) -> list[Question]:
    """The questions that templates can state. Raises QuestionError if the others are more than
    max_malformed_share allows to leave out."""
    reasons = [(question, reason_not_statable(question)) for question in questions]
    # A question whose relation is known has wordings of its own.
    refused = [(question, why) for question, why in reasons if why and wordings_of(question).kind != "relation"]
    if not refused:
        return list(questions)
    shown = "; ".join(f"{question.question!r}: {why}" for question, why in refused[:SHOWN])
    found = f"{source.path}: templates cannot state {len(refused)} of {len(questions)} questions as sentences: {shown}"
    if len(refused) > source.max_malformed_share * len(questions) or len(refused) == len(questions):
        raise QuestionError(
            f"{found}. Give statements of your own (questions.facts.statements), have a model write them (pipelines/write_statements.py), "
            "or leave such questions out by a higher questions.facts.max_malformed_share"
        )
    report(f"{found}; they are left out")
    gone = {id(question) for question, _ in refused}
    return [question for question in questions if id(question) not in gone]


def kind_lines(questions: Sequence[Question], *, rephrased: bool = False) -> Iterator[str]:
    """Number of facts that each kind of template states, with an example: a line per kind."""
    stated: dict[StatedBy, list[str]] = {}
    for question in questions:
        wordings = wordings_of(question, rephrased=rephrased)
        stated.setdefault(wordings.kind, []).append(wordings.statements[0])
    for kind, manner in KINDS.items():
        if kind in stated:
            yield f"{len(stated[kind])} of {len(questions)} facts are stated {manner}, such as: {stated[kind][0]}"


def conflict_lines(questions: Sequence[Question]) -> Iterator[str]:
    """Conflicts as lines of text: questions that are asked more than once, with answers that have
    nothing in common, so that only one of them can be right."""
    asked: dict[str, dict[frozenset[str], Question]] = {}
    """The first record with these answers, per question."""
    conflicts: list[tuple[Question, Question]] = []
    for question in questions:
        answers, others = _answers(question), asked.setdefault(_asked(question), {})
        if answers not in others:
            conflicts += [(earlier, question) for known, earlier in others.items() if not known & answers][:1]
            others[answers] = question
    for earlier, later in conflicts[:SHOWN]:
        yield (
            f"conflict: {later.question!r} has the answer {earlier.answers[0]!r} in {earlier.id} and {later.answers[0]!r} in {later.id}; "
            "at most one of them can be scored as right. Remove one, or give both as answers of one question"
        )
    if len(conflicts) > SHOWN:
        yield f"conflict: {len(conflicts)} in all"


def _asked(question: Question) -> str:
    return _without_marks(f"{question.context} {question.question}")


def _answers(question: Question) -> frozenset[str]:
    return frozenset(map(_without_marks, question.answers))


def _without_marks(text: str) -> str:
    """The text without stops, commas, quotes and articles, as answers are compared when they are
    scored; unchanged if nothing else is left."""
    words = plain(text).translate(MARKS).split()
    return " ".join(word for word in words if word not in ("a", "an", "the")) or plain(text)
