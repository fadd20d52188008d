"""Does a text say this? Whole words, in any case; spaces, kinds of quotes and of dashes, and
Unicode's ways to write a letter aside."""

import re
import unicodedata

_PLAIN = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "‑": "-"})


def mentions(text: str, phrase: str) -> bool:
    """Whether the phrase stands in the text as words of its own: "Rome" is not in "Romeo". Marks
    at its end do not count."""
    wanted = plain(phrase).rstrip(" .?!,;:")
    # A number is more than a word: 12 is neither in 12,000 nor in 3.12.
    whole = rf"(?<!\w)(?<!\d[.,]){re.escape(wanted)}(?!\w)(?![.,]\d)"
    return bool(wanted) and re.search(whole, plain(text)) is not None


def words_of(text: str) -> list[str]:
    """The words alone: two texts that differ in marks have the same."""
    return re.findall(r"\w+", plain(text))


def plain(text: str) -> str:
    """The text as it is compared."""
    return " ".join(unicodedata.normalize("NFKC", text).translate(_PLAIN).casefold().split())
