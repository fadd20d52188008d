"""The vocabulary of the generated world, from words.toml: attributes, frames and word lists from
which a seed draws."""

from dataclasses import dataclass
from typing import Any

from memlm.data.word_lists import read_word_lists


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """One thing that is true of every entity of a kind. Invented values fill value_frame; the
    others come from a list of words."""

    name: str
    kind: str
    noun: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    words: str = ""
    value_frame: str = "{}"


def _attribute(fields: dict[str, Any]) -> Attribute:
    statements, questions = tuple(fields.pop("statements")), tuple(fields.pop("questions"))
    return Attribute(statements=statements, questions=questions, **fields)


_LISTS = read_word_lists(__package__, "words")
KINDS: tuple[str, ...] = tuple(_LISTS["kinds"])
ATTRIBUTES = tuple(map(_attribute, _LISTS["attributes"]))
STATEMENT_FRAMES: tuple[str, ...] = tuple(_LISTS["statement_frames"])
QUESTION_FRAMES: tuple[str, ...] = tuple(_LISTS["question_frames"])
WORDS: dict[str, tuple[str, ...]] = {
    **{name: tuple(words) for name, words in _LISTS["words"].items()},
    "numbers": tuple(str(number) for number in range(10, 100)),
}
