"""Wordings for questions about things of one's own, by what they ask for: a price, an address, a
name, a telephone number. The frames are in kinds.toml.

A question has the first kind of which it has a form. It is stated and asked in the other forms of
its kind; a question of no kind is asked in other words by grammar.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from memlm.data.mentions import mentions, replace_first
from memlm.data.questions.records import Question
from memlm.data.stating.grammar import PREPOSITIONS, declare
from memlm.data.word_lists import read_word_lists


@dataclass(frozen=True, kw_only=True)
class Kind:
    """{s} stands for what is asked about, {a} for the answer, {place} for the answer with its
    preposition, {r} for the quality that is asked for."""

    asked: tuple[tuple[str, ...], ...]
    """Ways to ask, each in forms that are much alike."""
    statements: tuple[str, ...]


KINDS = {
    name: Kind(asked=tuple(map(tuple, wordings["asked"])), statements=tuple(wordings["statements"]))
    for name, wordings in read_word_lists(__package__, "kinds").items()
}
"""By name, special ones first."""
OWNED = re.compile(r"([A-Z][\w&-]*)'s (.+)")
OWNER = re.compile(r"the (.+) of ([A-Z][\w&-]*)")


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """A question that has a form of its kind."""

    kind: Kind
    way: tuple[str, ...]
    """The forms like its own."""
    subject: str
    quality: str

    def subjects(self) -> Iterator[str]:
        """What is asked about, as it is named and with its owner in the other place."""
        yield self.subject
        if owned := OWNED.fullmatch(self.subject):
            yield f"the {owned[2]} of {owned[1]}"
        if owner := OWNER.fullmatch(self.subject):
            yield f"{owner[2]}'s {owner[1]}"

    def fill(self, frames: Sequence[str], answer: str) -> list[str]:
        place = _with_preposition(answer)
        return [
            frame.format(s=subject, r=self.quality, a=answer, place=place)
            for number, subject in enumerate(self.subjects())
            for frame in frames
            if not (number and "{s}'s" in frame)
        ]

    def statements(self, answer: str) -> list[str]:
        return self.fill(self.kind.statements, answer)

    def questions(self, taken: frozenset[tuple[str, ...]]) -> list[str]:
        """Other ways to ask; none of those that are taken, if the kind has others."""
        others = [way for way in self.kind.asked if way != self.way]
        left = [way for way in others if way not in taken] or others
        return self.fill([form for way in left for form in way], "")


@lru_cache(maxsize=4096)
def recognise(question: str) -> Recognised | None:
    """The question by its kind; None if it has the form of none."""
    for kind in KINDS.values():
        forms = {form: way for way in kind.asked for form in way}
        for form in sorted(forms, key=len, reverse=True):  # the longest leaves least to the subject
            if found := _pattern(form).fullmatch(question.strip()):
                parts = found.groupdict()
                return Recognised(kind=kind, way=forms[form], subject=parts["s"], quality=parts.get("r", ""))
    return None


@lru_cache(maxsize=256)
def _pattern(form: str) -> re.Pattern[str]:
    escaped = re.escape(form).replace(r"\{s\}", "(?P<s>.+)").replace(r"\{r\}", "(?P<r>.+?)")
    return re.compile(escaped.replace(r"\?", r"\s*\?"))


def ways_asked(questions: Sequence[Question]) -> frozenset[tuple[str, ...]]:
    """The ways in which these questions are asked, none of which is trained on."""
    return frozenset(found.way for each in questions if (found := recognise(each.question)))


def asked_by_grammar(question: Question) -> list[str]:
    """Other ways to ask a question of no kind; empty if no rule takes it apart."""
    asked, answer = question.question, question.answers[0]
    found = declare(asked, answer)
    if found is None:
        return []
    written = [_in_place(asked, found.sentence, answer)]
    if found.description:
        who = "Who" if asked.split()[0].lower() in ("who", "whom", "whose") else "What"
        written += [f"{who} is {found.description}?", f"Can you name {found.description}?"]
    if found.emphasis:
        word, _, clause = asked.split()[0], *found.emphasis.partition(" that ")[1:]
        written.append(f"{word.capitalize()} is it that {clause}?")
    return [_capitalised(each) for each in dict.fromkeys(written) if not mentions(each, asked)]


def _in_place(asked: str, sentence: str, answer: str) -> str:
    """The sentence with a question word where its answer stands."""
    first = next((word for word in asked.lower().split() if word not in PREPOSITIONS), "what")
    if first in ("where", "when"):
        places = "|".join(sorted(PREPOSITIONS))
        return re.sub(rf"\b(?:{places}) (?={first}\b)", "", replace_first(sentence, answer, first), count=1) + "?"
    many = re.match(r"how (?:many|much)", asked.lower())
    word = many[0] if many else first if first in ("who", "whom", "whose") else "what"
    return replace_first(sentence, answer, word) + "?"


def _with_preposition(answer: str) -> str:
    """The answer as a place: "at 5 Mill Lane", "in Lima", "on the hill"."""
    if not answer or answer.split()[0].lower() in PREPOSITIONS:
        return answer
    return f"{'at' if any(map(str.isdecimal, answer)) else 'in'} {answer}"


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]
