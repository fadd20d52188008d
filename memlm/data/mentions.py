"""Test whether a text contains a phrase, as whole words. Case, white space, kinds of quotes and
dashes, and Unicode normalisation do not matter."""

import re
import unicodedata
from collections.abc import Iterable

_PLAIN = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "‑": "-"})

_MARKS = "\u0300-\u036f"
"""Accents, which are letters of their own in a decomposed text."""


def mentions(text: str, phrase: str) -> bool:
    """Whether the text contains the phrase as whole words: "Rome" is not in "Romeo". Punctuation at
    its end is ignored."""
    wanted = plain(phrase).rstrip(" .?!,;:")
    # A number extends beyond a word: 12 is neither in 12,000 nor in 3.12.
    whole = rf"(?<!\w)(?<!\d[.,]){re.escape(wanted)}(?!\w)(?![.,]\d)"
    return bool(wanted) and re.search(whole, plain(text)) is not None


def spans(text: str, phrase: str) -> list[tuple[int, int]]:
    """The places of the phrase in the text, as whole words, by the same rules."""
    wanted = [re.escape(word) for word in _decomposed(phrase).rstrip(" .?!,;:").split()]
    if not wanted:
        return []
    letters = [(_decomposed(letter), place) for place, letter in enumerate(text)]
    places = [place for letter, place in letters for _ in letter]
    phrases = r"\s+".join(wanted)
    whole = rf"(?<!\w)(?<!\d[.,]){phrases}(?![\w{_MARKS}])(?![.,]\d)"
    found = re.finditer(whole, "".join(letter for letter, _ in letters))
    return [(places[match.start()], places[match.end() - 1] + 1) for match in found]


def replace_first(text: str, phrase: str, other: str) -> str:
    """The text with other words in the first place of the phrase, as whole words, in its case."""
    whole = rf"(?<!\w)(?<!\d[.,]){re.escape(phrase)}(?!\w)(?![.,]\d)"
    return re.sub(whole, lambda _: other, text, count=1)


def _decomposed(text: str) -> str:
    """The text in a normalised form that can be computed letter by letter."""
    return unicodedata.normalize("NFKD", text).translate(_PLAIN).casefold()


class Phrases:
    """A test for texts that mention any of many phrases, as whole words."""

    def __init__(self, phrases: Iterable[str]) -> None:
        self.by_first: dict[str, list[tuple[str, ...]]] = {}
        """The words of each phrase, by the first of them."""
        for phrase in phrases:
            if words := tuple(words_of(phrase)):
                self.by_first.setdefault(words[0], []).append(words)

    def in_text(self, text: str) -> bool:
        words = words_of(text)
        return any(
            tuple(words[place : place + len(phrase)]) == phrase
            for place, word in enumerate(words)
            for phrase in self.by_first.get(word, ())
        )


def words_of(text: str) -> list[str]:
    """The words without punctuation."""
    return re.findall(r"\w+", plain(text))


def plain(text: str) -> str:
    """The text in normalised form, for comparisons."""
    return " ".join(unicodedata.normalize("NFKC", text).translate(_PLAIN).casefold().split())
