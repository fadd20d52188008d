"""The sets that updates are scored on besides their new answers: whether the old ones are gone, and
whether facts near the updated ones stayed as they were."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from memlm.data.questions.records import Fact, Question, Update
from memlm.results.scores import OLD_ANSWERS_SET


def questions_of_updates(facts: Sequence[Fact], updates: Mapping[str, Update]) -> dict[str, list[Question]]:
    """The sets that go with these facts: their questions with the old answers, and known facts of
    the same subjects and of the same relations, each once, none of which these facts change."""
    changes = [updates[fact.id] for fact in facts]
    changed = {change.fact for change in changes}
    return {
        OLD_ANSWERS_SET: [
            replace(question, answers=(change.replaces,))
            for fact, change in zip(facts, changes, strict=True)
            for question in fact.questions
        ],
        "same_subject": _unchanged([question for change in changes for question in change.same_subject], changed),
        "same_relation": _unchanged([question for change in changes for question in change.same_relation], changed),
    }


def _unchanged(questions: Sequence[Question], changed: set[str]) -> list[Question]:
    kept = {question.fact_id: question for question in questions if question.fact_id not in changed}
    return list(kept.values())
