"""Parse one line of a corpus shard: the result is its text, or the reason why it cannot be read.

This parser is stricter than the readers of question files: a corpus is too large to inspect, so
doubtful lines are counted. The order of the checks is part of the accounting: each malformed line
has one reason, the same on any machine.

    too long > blank > not UTF-8 > byte order mark > too deep > too many brackets > not JSON >
    not an object > duplicate keys > not finite > no text field > text is not a string > lone
    surrogate > NUL > empty text

Lines end in LF. A CR before it is white space in JSON, so CRLF works too. A byte order mark is
skipped at the start of a file and malformed anywhere else.
"""

import json
import re
from collections.abc import Iterable
from typing import Any

TOO_LONG = "too long"
NOT_UTF8 = "not UTF-8"
BYTE_ORDER_MARK = "byte order mark"
TOO_DEEP = "too deep"
TOO_MANY_BRACKETS = "too many brackets"
NOT_JSON = "not JSON"
NOT_AN_OBJECT = "not an object"
DUPLICATE_KEYS = "duplicate keys"
NOT_FINITE = "not finite"
NO_TEXT = "no text field"
TEXT_NOT_A_STRING = "text is not a string"
LONE_SURROGATE = "lone surrogate"
NUL = "NUL in text"

MAX_DEPTH = 64  # DCLM's records are two deep; the depth at which Python's parser fails depends on its caller's
MAX_BRACKETS = 2**20
"""Maximum number of lists and objects in a line: each takes 64 bytes in memory but only two in the
line. Brackets within strings are text."""
BOM = "\ufeff"
_STRING_OR_BRACKET = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)
"""Possessive quantifiers, so that a string with many escapes leaves no backtracking states."""


class MalformedLine(Exception):
    """A line that cannot be read. `phrase` gives the reason with details, but never the text."""

    def __init__(self, reason: str, phrase: str = "", remedy: str = "Repair or remove this line.") -> None:
        super().__init__(reason, phrase, remedy)
        self.reason, self.phrase, self.remedy = reason, phrase or reason, remedy


class TextParser:
    """Parser from a shard's lines to texts. Numbers are not converted, so that one of a million
    digits costs nothing."""

    def __init__(self, text_field: str) -> None:
        self.text_field = text_field
        self._flaws: list[str] = []
        self._decode = json.JSONDecoder(
            object_pairs_hook=self._object, parse_constant=self._constant, parse_int=_no_number, parse_float=_no_number
        ).decode

    def parse(self, line: bytes) -> str:
        """The text of a line that is not blank. Raises MalformedLine."""
        try:
            content = line.decode()
        except UnicodeDecodeError as error:
            phrase = f"{NOT_UTF8} ({error.reason} at byte {error.start})"
            raise MalformedLine(NOT_UTF8, phrase, "Store the file as UTF-8, or remove this line.") from None
        if content.startswith(BOM):
            raise MalformedLine(BYTE_ORDER_MARK, f"{BYTE_ORDER_MARK} that is not at the start of the file")
        if phrase := bracket_flaw(content):
            raise MalformedLine(TOO_DEEP if phrase.startswith(TOO_DEEP) else TOO_MANY_BRACKETS, phrase)
        self._flaws.clear()
        try:
            record = self._decode(content)
        except ValueError as error:
            remedy = "Each line must be one JSON object; repair or remove it."
            raise MalformedLine(NOT_JSON, f"{NOT_JSON} ({error})", remedy) from None
        return self._text(record)

    def _text(self, record: Any) -> str:
        if not isinstance(record, dict):
            raise MalformedLine(NOT_AN_OBJECT, f"{_json_type(record)}, {NOT_AN_OBJECT}")
        for flaw in (DUPLICATE_KEYS, NOT_FINITE):
            if flaw in self._flaws:
                raise MalformedLine(flaw)
        if self.text_field not in record:
            raise no_text_field(self.text_field, record)
        return checked_text(record[self.text_field], self.text_field)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            self._flaws.append(DUPLICATE_KEYS)
        return made

    def _constant(self, name: str) -> float:
        self._flaws.append(NOT_FINITE)
        return 0.0


def checked_text(text: object, text_field: str) -> str:
    """The value itself. Raises MalformedLine if it is not valid text."""
    if not isinstance(text, str):
        phrase = f"field {text_field!r} is {_json_type(text)}, not a string"
        raise MalformedLine(TEXT_NOT_A_STRING, phrase, "Repair or remove this line, or name another text field.")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON can encode half a surrogate pair, which no tokenizer can read
        phrase = f"the text is not valid Unicode ({LONE_SURROGATE} at character {error.start})"
        raise MalformedLine(LONE_SURROGATE, phrase) from None
    if "\0" in text:
        raise MalformedLine(NUL)
    return text


def _json_type(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


def no_text_field(text_field: str, there: Iterable[str]) -> MalformedLine:
    """Error that lists the existing fields: only a few and shortened, since the keys of a damaged
    line may contain its text."""
    names = sorted(there)
    shown = ", ".join(name[:40] for name in names[:8]).encode(errors="replace").decode() or "none"
    phrase = f"no field {text_field!r} (there are: {shown}{', ...' if len(names) > 8 else ''})"
    return MalformedLine(NO_TEXT, phrase, "Repair or remove this line, or name another text field.")


def _no_number(digits: str) -> float:
    """One shared object for all numbers of a line, which may be millions."""
    return 0.0


def bracket_flaw(content: str) -> str:
    """Description of the flaw if the brackets outside of strings are too many or nested too
    deeply, even if the line is not JSON; empty if there is no such flaw."""
    # Most lines have few brackets; only others, such as code and formulas, are scanned.
    if content.count("{") + content.count("[") <= MAX_DEPTH:
        return ""
    depth = opened = 0
    for found in _STRING_OR_BRACKET.finditer(content):  # iterated, because 16 MiB may hold a few million
        mark = content[found.start()]
        if mark in "[{":
            depth, opened = depth + 1, opened + 1
            if depth > MAX_DEPTH:
                return f"{TOO_DEEP} (more than {MAX_DEPTH} nested brackets)"
        elif mark != '"':
            depth = max(0, depth - 1)
    return f"{TOO_MANY_BRACKETS} (more than {MAX_BRACKETS})" if opened > MAX_BRACKETS else ""
