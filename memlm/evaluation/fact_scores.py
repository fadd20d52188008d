"""Scores of a model's knowledge of each fact: asked in wordings that it never saw, and in wordings
that it was trained on.

A trained wording can be asked if it ends in the answer: the text before the answer is the prompt,
as in "Bern lies in | Peru".
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from memlm.data.questions.facts import Fact
from memlm.evaluation.answers import exact_match
from memlm.evaluation.config import EvaluationConfig
from memlm.evaluation.continuations import Continuation, continuation_nats
from memlm.evaluation.question_answering import complete, prompts_of
from memlm.model.reader import Reader

NO_WORDS = re.compile(r"[^\w]*")
"""Characters that may follow the answer in a wording that ends in it."""


@dataclass(frozen=True, kw_only=True)
class Cloze:
    """A prompt, its continuation, and the answers that count as right."""

    prompt: str
    continuation: str
    answers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class FactScore:
    """Means over a fact's questions, none of which is trained on, and over its trained wordings
    that end in the answer."""

    exact_match: float
    nats_per_token: float
    """Nats of the preferred answer after its question."""
    seen_exact_match: float | None = None
    seen_nats_per_token: float | None = None
    """None where no trained wording ends in the answer."""


def questions_as_clozes(fact: Fact) -> list[Cloze]:
    return [
        Cloze(prompt=prompt, continuation=f" {question.answers[0]}", answers=question.answers)
        for prompt, question in zip(prompts_of(fact.questions), fact.questions, strict=True)
    ]


def wordings_as_clozes(fact: Fact, wordings: Sequence[str]) -> list[Cloze]:
    """Clozes from the wordings that end in an answer of the fact and have text before it."""
    answers = tuple(dict.fromkeys(answer for question in fact.questions for answer in question.answers))
    found = []
    for wording in wordings:
        places = [(wording.rfind(answer), answer) for answer in answers]
        ending = [(at, text) for at, text in places if at > 0 and NO_WORDS.fullmatch(wording, at + len(text))]
        prompt, text = min(((wording[:at].rstrip(), text) for at, text in ending), default=("", ""))
        if prompt:
            end = wording.rfind(text) + len(text)
            found.append(Cloze(prompt=prompt, continuation=wording[len(prompt) : end], answers=answers))
    return found


def score_facts(
    reader: Reader,
    facts: Sequence[Fact],
    config: EvaluationConfig,
    seen: Mapping[str, Sequence[str]] | None = None,
) -> list[FactScore]:
    """One score per fact, in their order. `seen` holds the wordings that each fact was trained
    on, by its id.

    Raises ValueError for a fact without questions, which has no score.
    """
    if silent := [fact.id for fact in facts if not fact.questions]:
        raise ValueError(
            f"{len(silent)} facts, the first {silent[0]!r}, have no question, so they have no score; leave them out"
        )
    asked = [questions_as_clozes(fact) for fact in facts]
    trained = [wordings_as_clozes(fact, (seen or {}).get(fact.id, ())) for fact in facts]
    right, nats = _score([cloze for clozes in [*asked, *trained] for cloze in clozes], reader, config)
    means: list[tuple[float | None, float | None]] = []
    for clozes in [*asked, *trained]:
        means.append((_take_mean(right, len(clozes)), _take_mean(nats, len(clozes))))
    scores = []
    for (unseen_right, unseen_nats), (seen_right, seen_nats) in zip(
        means[: len(facts)], means[len(facts) :], strict=True
    ):
        assert unseen_right is not None and unseen_nats is not None, "each fact has a question"
        scores.append(
            FactScore(
                exact_match=unseen_right,
                nats_per_token=unseen_nats,
                seen_exact_match=seen_right,
                seen_nats_per_token=seen_nats,
            )
        )
    return scores


def seen_exact_match(reader: Reader, facts: Sequence[Fact], config: EvaluationConfig) -> float | None:
    """Mean over the facts of the share of their statements, those that end in the answer, that the
    model completes right; None if no fact has one."""
    clozes = [wordings_as_clozes(fact, fact.statements) for fact in facts]
    asked = [each for of_fact in clozes for each in of_fact]
    right = _completed_right(asked, reader, config)
    shares = [_take_mean(right, len(of_fact)) for of_fact in clozes]
    means = [share for share in shares if share is not None]
    return sum(means) / len(means) if means else None


def _take_mean(values: list[float], count: int) -> float | None:
    """The mean of the first `count` values, which are removed; None for a count of 0."""
    taken, values[:] = values[:count], values[count:]
    return sum(taken) / count if count else None


def _score(clozes: Sequence[Cloze], reader: Reader, config: EvaluationConfig) -> tuple[list[float], list[float]]:
    continuations = [Continuation(cloze.prompt, cloze.continuation) for cloze in clozes]
    right = _completed_right(clozes, reader, config)
    scores = continuation_nats(reader, continuations, batch_size=config.batch_size)
    return right, [score.nats_per_token for score in scores]


def _completed_right(clozes: Sequence[Cloze], reader: Reader, config: EvaluationConfig) -> list[float]:
    prompts = [cloze.prompt for cloze in clozes]
    written = complete(reader, prompts, max_new_tokens=config.max_new_tokens, batch_size=config.batch_size)
    return [exact_match(text, cloze.answers) for text, cloze in zip(written, clozes, strict=True)]
