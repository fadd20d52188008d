"""Test whether a text contains a phrase, as whole words. Case, white space, kinds of quotes and
dashes, and Unicode normalisation do not matter."""

import re
import unicodedata

_PLAIN = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "‑": "-"})


def mentions(text: str, phrase: str) -> bool:
    """Whether the text contains the phrase as whole words: "Rome" is not in "Romeo". Punctuation at
    its end is ignored."""
    wanted = plain(phrase).rstrip(" .?!,;:")
    # A number extends beyond a word: 12 is neither in 12,000 nor in 3.12.
    whole = rf"(?<!\w)(?<!\d[.,]){re.escape(wanted)}(?!\w)(?![.,]\d)"
    return bool(wanted) and re.search(whole, plain(text)) is not None


def words_of(text: str) -> list[str]:
    """The words without punctuation."""
    return re.findall(r"\w+", plain(text))


def plain(text: str) -> str:
    """The text in normalised form, for comparisons."""
    return " ".join(unicodedata.normalize("NFKC", text).translate(_PLAIN).casefold().split())
