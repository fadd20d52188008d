"""Short texts on a chunk, by rules: each states one sentence of it, or asks for a part of one and
answers in the form of the evaluation's prompts.

They are for models that answer questions already and lack the facts: a question finds a fact in a
sentence more easily than in an exercise on the whole chunk (augmentation.py). A pure function of
the chunk.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from types import MappingProxyType

from memlm.data.documents.chunking import Chunk, sentences_of
from memlm.data.mentions import mentions, plain, replace_first
from memlm.data.stating.grammar import PREPOSITIONS
from memlm.data.stating.statements import with_answer
from memlm.data.stating.verbs import BE, DO, MODALS, is_finite

DETERMINERS = "the|a|an|your|their|our|its|his|her"
NUMBERS = "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|half|once|twice"
_AMOUNT = re.compile(rf"(?<![\w-])(?:\d[\d.,:]*\d|\d+|{NUMBERS})(?:st|nd|rd|th)?(?![\w'’-])(?P<unit> [a-z]+)?")
_NAME = re.compile(r"(?<=[\w,;:] )[A-Z][\w'’-]+(?: [A-Z][\w'’-]+)*")
_NOUN_PHRASE = re.compile(rf"(?<![\w-])(?:{DETERMINERS}) (?P<words>[a-z][\w-]*(?: [a-z][\w-]*){{0,3}})")
_NUMBER = re.compile(rf"(?:\d[\d.,:]*|{NUMBERS})(?= [a-z])")
NO_NOUNS = (
    PREPOSITIONS
    | BE
    | DO
    | MODALS
    | frozenset(
        [
            "within",
            "without",
            "per",
            "until",
            "since",
            "among",
            "up",
            "down",
            "off",
            "out",
            "once",
            "only",
            "too",
            "and",
            "or",
            "but",
            "that",
            "which",
            "who",
            "if",
            "when",
            "while",
            "than",
            "then",
            "not",
            "no",
            "you",
            "we",
            "they",
            "he",
            "she",
            "it",
            "i",
            "nobody",
            "everybody",
            "somebody",
            "each",
            "every",
            "all",
        ]
    )
)
"""Words that end a noun phrase."""
STATEMENTS = (
    "{sentence}",
    "{title}: {sentence}",
    "{heading}: {sentence}",
    "{title} says: {sentence}",
    "Remember about {heading}: {sentence}",
)
QUESTIONS = ("{asked}", "{heading}: {asked}", "In {title}: {asked}")


def augment_by_sentences(
    chunk: Chunk,
    num_augmentations: int,
    *,
    fits: Callable[[str], bool] = lambda text: True,
    written: Mapping[str, Sequence[tuple[str, str]]] = MappingProxyType({}),
) -> list[str]:
    """Up to num_augmentations different texts that fit: of each sentence one after another, first
    as it is and then in more and more ways. `written` are other questions that a sentence answers,
    with their answers; they come before those of the rules."""
    ways = [_wordings(chunk, sentence, written.get(sentence, ())) for sentence in sentences_of(chunk.text)]
    texts: dict[str, str] = {}
    for text in (text for turn in zip_longest(*ways) for text in turn if text):
        if len(texts) == num_augmentations:
            break
        if fits(text):
            texts.setdefault(plain(text), text)
    return list(texts.values()) or [chunk.text]


def _wordings(chunk: Chunk, sentence: str, written: Sequence[tuple[str, str]]) -> list[str]:
    """Statements and questions in turn."""
    title, _, heading = (chunk.title or "this text").rpartition(": ")
    places = {"title": title.partition(": ")[0] or heading, "heading": heading}
    stated = [frame.format(sentence=sentence, **places) for frame in STATEMENTS]
    asked = [with_answer(question, answer) for question, answer in written]
    asked += [
        with_answer(frame.format(asked=question, **places), answer)
        for frame in QUESTIONS
        for question, answer in questions_in(sentence)
    ]
    return [text for pair in zip_longest(stated, asked) for text in pair if text]


def questions_in(sentence: str) -> list[tuple[str, str]]:
    """Questions that the sentence answers, each the sentence with a question word in the place of
    a part, and that part: amounts, names and noun phrases."""
    found = []
    for part in parts_of(sentence):
        asked = replace_first(sentence, part, _question_words(part)).rstrip(" .!;:") + "?"
        found.append((asked[0].upper() + asked[1:], part))
    return found


def parts_of(sentence: str) -> Sequence[str]:
    """Parts that questions usually ask for, with those that are certain first."""
    parts = [_without_other_word(match) for match in _AMOUNT.finditer(sentence)]
    parts += [match.group() for match in _NAME.finditer(sentence)]
    parts += _noun_phrases(sentence)
    distinct: list[str] = []
    for part in parts:
        if not any(mentions(known, part) for known in distinct):
            distinct.append(part)
    return distinct


def _without_other_word(amount: re.Match[str]) -> str:
    """The amount with its unit, if the word after it may be one."""
    unit = amount["unit"] or ""
    return amount.group().removesuffix(unit) if unit.strip() in NO_NOUNS else amount.group()


def _noun_phrases(sentence: str) -> Iterator[str]:
    for match in _NOUN_PHRASE.finditer(sentence):
        words = match["words"].split()
        length = next((i for i, word in enumerate(words) if word in NO_NOUNS or (i and is_finite(word))), len(words))
        if length:
            yield " ".join([match.group().split()[0], *words[:length]])


def _question_words(part: str) -> str:
    """The words that ask for the part where it stands."""
    if number := _NUMBER.match(part):
        return f"how many {part[number.end() :].strip()}"
    if len(part.split()) == 2 and part.istitle():
        return "who"
    return "what"
