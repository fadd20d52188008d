"""Statements of a question and its answer by a language model: one statement first, then other
wordings of it.

question + answer --statement.txt--> a statement --wordings.txt--> N wordings, each checked; what
fails is asked for again
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from memlm.data.config import WordingsConfig
from memlm.data.mentions import mentions, words_of
from memlm.data.prompts import prompt
from memlm.data.questions.records import Question
from memlm.data.writers.interface import Request, Writer

PROMPTS = ("statement", "wordings")

_THOUGHT = re.compile(r"<think>.*?(</think>|$)", re.DOTALL)
_MARK = re.compile(r"^\s*(?:(\d{1,3})[.):]|[-*•])\s+")
_LABEL = re.compile(r"^(?:the )?(?:fact|statement|sentence|wording|paraphrase|answer)s?(?: \d+)?:\s*", re.IGNORECASE)
_ASKING = re.compile("wh(at|ich|ere|en|om|ose)|th(at|is|ese|ose)|with|from|were|does|have|been|into|about")


class WordingError(ValueError):
    """The model could not state the facts well enough."""


@dataclass(frozen=True, kw_only=True)
class Stated:
    """The statements of one fact, and how many of the model's lines were rejected."""

    id: str
    statements: tuple[str, ...]
    rejected: dict[str, int]
    """Number of rejected lines by reason."""


def questions_by_fact(questions: Sequence[Question]) -> dict[str, list[Question]]:
    """The questions about each fact."""
    facts: dict[str, list[Question]] = {}
    for question in questions:
        facts.setdefault(question.fact_id, []).append(question)
    return facts


def state_facts(writer: Writer, facts: Sequence[Sequence[Question]], config: WordingsConfig) -> list[Stated]:
    """Each fact, given as the questions about it, in up to num_wordings statements; fewer where
    the model gave no more that pass."""
    drafts = [_Draft(questions) for questions in facts]
    _write(writer, drafts, _statement_prompt, wanted=1, rounds=config.max_rounds)
    stated = [draft for draft in drafts if draft.statements]
    _write(writer, stated, _wordings_prompt, wanted=config.num_wordings, rounds=config.max_rounds)
    return [
        Stated(id=draft.id, statements=tuple(draft.statements), rejected=dict(sorted(draft.rejected.items())))
        for draft in drafts
    ]


def check_stated(stated: Sequence[Stated], config: WordingsConfig) -> list[Stated]:
    """The facts with fewer wordings than asked for. Raises WordingError if they are too many."""
    short = [fact for fact in stated if len(fact.statements) < config.num_wordings]
    if len(short) > config.max_failed_share * len(stated):
        reasons = sum((Counter(fact.rejected) for fact in short), Counter())
        raise WordingError(
            f"{len(short)} of {len(stated)} facts, the first {short[0].id!r}, have fewer than wordings.num_wordings ({config.num_wordings}) "
            f"wordings that pass, more than wordings.max_failed_share ({config.max_failed_share:g}) allows; lines turned down: "
            f"{_list(reasons) or 'none, the model wrote too few'}. Name a better writer.model, raise wordings.max_rounds or "
            "writer.temperature, or allow more"
        )
    return short


def rejection_reason(wording: str, questions: Sequence[Question]) -> str | None:
    """The reason why a wording must not be trained on; None if it may be."""
    if not all(any(mentions(wording, answer) for answer in question.answers) for question in questions):
        return "does not contain the answer"
    if any(mentions(wording, question.question) for question in questions):
        return "contains the question it is evaluated by"
    if not all(_is_about(wording, question) for question in questions):
        return "says nothing of what is asked about"
    if wording.rstrip(" \"'").endswith("?"):
        return "is a question"
    return None


def _is_about(wording: str, question: Question) -> bool:
    """Whether the wording shares a longer word, up to its ending, with the question: a small model
    may write no more than `The answer is Lima`."""
    answered = {word for answer in question.answers for word in words_of(answer)}
    telling = [word for word in words_of(question.question) if len(word) > 3 and not _ASKING.fullmatch(word)]
    asked = {word[:4] for word in telling if word not in answered}
    return not asked or any(word[:4] in asked for word in words_of(wording) if word not in answered)


def lines_of(answer: str) -> Iterator[str]:
    """The items that a model wrote, without numbers, bullets, quotes and introductory lines."""
    for line in _THOUGHT.sub("", answer).splitlines():
        text = _LABEL.sub("", _MARK.sub("", line).replace("**", "").strip())
        if len(text) > 1 and text[0] == text[-1] == '"':
            text = text[1:-1].strip()
        if text and not text.endswith(":"):
            yield text


@dataclass
class _Draft:
    """One fact and its statements so far."""

    questions: Sequence[Question]
    statements: list[str] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)

    @property
    def id(self) -> str:
        return self.questions[0].fact_id

    def take(self, answer: str, wanted: int) -> None:
        for text in lines_of(answer):
            if len(self.statements) >= wanted:
                return
            known = words_of(text) in map(words_of, self.statements)
            objection = "repeats an earlier wording" if known else rejection_reason(text, self.questions)
            if objection is None:
                self.statements.append(text)
            else:
                self.rejected[objection] += 1

    def remark(self) -> str:
        """Text for the next prompt: the faults of earlier lines, and the lines not to repeat."""
        faults = f"\nEarlier lines were turned down: {_list(self.rejected)}." if self.rejected else ""
        known = "\nDo not repeat these:\n" + "\n".join(self.statements[1:]) if len(self.statements) > 1 else ""
        return faults + known


def _write(
    writer: Writer, drafts: Sequence[_Draft], prompt_of: Callable[[_Draft, int], str], *, wanted: int, rounds: int
) -> None:
    for number in range(rounds):
        short = [draft for draft in drafts if len(draft.statements) < wanted]
        asked = [Request(prompt=prompt_of(draft, wanted - len(draft.statements)), seed=number) for draft in short]
        for draft, answer in zip(short, writer.write(asked) if asked else [], strict=True):
            draft.take(answer, wanted)


def _statement_prompt(draft: _Draft, number: int) -> str:
    first = draft.questions[0]
    return prompt("statement", question=first.question, answer=first.answers[0], remark=draft.remark())


def _wordings_prompt(draft: _Draft, number: int) -> str:
    answer = draft.questions[0].answers[0]
    return prompt("wordings", number=number, answer=answer, statement=draft.statements[0], remark=draft.remark())


def _list(reasons: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
