"""What each word of a text about a fact is: part of the entity's name, of the value or of the
wording, and its part of speech, as far as the world's own grammar gives it."""

import re
from dataclasses import dataclass
from typing import Literal

from memlm.data.word_lists import read_word_lists
from memlm.data.world.words import ATTRIBUTES, WORDS

Part = Literal["entity", "value", "template", "stop"]
"""A stop is what ends a sentence or a line."""
PUNCTUATION, PROPER_NOUN, NUMBER, OTHER = "punctuation", "proper noun", "number", "other"
STOPS = (".", "?", "!", "\n")
_WORD = re.compile(r"'s\b|\w+|[^\w\s]|\n")
_PARTS_OF_SPEECH = {
    word: part for part, words in read_word_lists(__package__, "parts_of_speech").items() for word in words
}
_COMMON_NOUNS = {
    value for attribute in ATTRIBUTES if attribute.words not in ("", "numbers") for value in WORDS[attribute.words]
}


@dataclass(frozen=True, kw_only=True)
class MarkedWord:
    """A word or a punctuation mark, by its place in the text."""

    start: int
    end: int
    part: Part
    part_of_speech: str


def mark_words(text: str, *, entity: str, value: str) -> list[MarkedWord]:
    """The words of a text in order. The name and the value are found as whole words, the value
    outside the name."""
    name = _span(text, entity, avoiding=(0, 0))
    answer = _span(text, value, avoiding=name)
    marked = []
    for found in _WORD.finditer(text):
        part: Part = "stop" if found[0] in STOPS else "template"
        for span, its_part in ((name, "entity"), (answer, "value")):
            if span[0] <= found.start() < span[1]:
                part = its_part  # type: ignore[assignment]
        speech = _part_of_speech(found[0], part, value)
        marked.append(MarkedWord(start=found.start(), end=found.end(), part=part, part_of_speech=speech))
    return marked


def _span(text: str, phrase: str, *, avoiding: tuple[int, int]) -> tuple[int, int]:
    """The phrase's first place outside a span; an empty span if there is none."""
    for found in re.finditer(rf"(?<!\w){re.escape(phrase)}(?!\w)", text):
        if found.end() <= avoiding[0] or found.start() >= avoiding[1]:
            return found.span()
    return (0, 0)


def _part_of_speech(word: str, part: Part, value: str) -> str:
    if not re.match(r"\w|'s", word):
        return PUNCTUATION
    if part == "entity":
        return PROPER_NOUN
    if part == "value" and word.isdigit():
        return NUMBER
    if part == "value" and word != "the":
        return "noun" if value in _COMMON_NOUNS else PROPER_NOUN
    return _PARTS_OF_SPEECH.get(word.lower(), OTHER)
