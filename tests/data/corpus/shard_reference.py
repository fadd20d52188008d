"""A slow, simple reader of JSON-lines shards for comparison with the fast one: whole files in
memory, byte by byte.

It shares the names of the reasons and the limits with the fast one, but no code: zstandard's
objects instead of Arrow's stream, a state machine for the depth, pairs kept in order for keys and
constants.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import zstandard

from memlm.data import compression
from memlm.data.corpus import accounting, records, shards

SKIPPABLE = [0x184D2A50 + number for number in range(16)]
FRAME = 0xFD2FB528
WINDOW = 2**27


class Unreadable(Exception):
    """The whole file cannot be read."""


class Pairs(list):
    """A JSON object with its keys in order, including duplicates."""


class Constant:
    """NaN or an infinity."""


@dataclass
class Read:
    documents: list[tuple[int, str]] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    malformed: Counter[str] = field(default_factory=Counter)
    lines: int = 0


def read(content: bytes, suffix: str, text_field: str = "text") -> Read:
    """The documents and counts of a file. Raises Unreadable."""
    sys.set_int_max_str_digits(0)
    plain = content if suffix == ".jsonl" else inflate(content)
    found = Read()
    for number, line in enumerate(split(plain), start=1):
        found.lines += 1
        reason, text = judge(line, number, text_field)
        if reason in accounting.DROPPED:
            found.dropped[reason] += 1
        elif reason:
            found.malformed[reason] += 1
        else:
            found.documents.append((number, text))
    return found


def inflate(content: bytes) -> bytes:
    """The content of all frames, each of which must be complete."""
    most = max(compression.MAX_RATIO_FROM_BYTES, compression.MAX_RATIO * len(content))
    out = bytearray()
    if not content:
        raise Unreadable("empty")
    while content:
        magic = int.from_bytes(content[:4], "little") if len(content) >= 4 else None
        if magic in SKIPPABLE:
            size = int.from_bytes(content[4:8], "little")
            if len(content) < 8 + size:
                raise Unreadable("skippable frame cut off")
            content = content[8 + size :]
        elif magic == FRAME:
            content = inflate_frame(content, out, most)
        else:
            raise Unreadable("no frame")
    return bytes(out)


def inflate_frame(content: bytes, out: bytearray, most: int) -> bytes:
    """Append the content of the first frame; return the bytes after it."""
    frame, fed = zstandard.ZstdDecompressor(max_window_size=WINDOW).decompressobj(), 0
    while not frame.eof:
        if fed >= len(content):
            raise Unreadable("frame cut off")
        try:
            out += frame.decompress(content[fed : fed + 16])
        except zstandard.ZstdError as error:
            raise Unreadable(str(error)) from error
        fed += 16
        if len(out) > most:
            raise Unreadable("bomb")
    return frame.unused_data + content[fed:]


def split(content: bytes) -> list[bytes]:
    lines = [line + b"\n" for line in content.split(b"\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]


def judge(line: bytes, number: int, text_field: str) -> tuple[str, str]:
    """The reason and an empty text, or an empty reason and the text."""
    if len(line) > shards.MAX_LINE_BYTES:
        return records.TOO_LONG, ""
    if number == 1 and line[:3] == b"\xef\xbb\xbf":
        line = line[3:]
    if not line.strip():
        return accounting.BLANK_LINE, ""
    try:
        content = str(line, "utf-8")
    except UnicodeDecodeError:
        return records.NOT_UTF8, ""
    if ord(content[0]) == 0xFEFF:
        return records.BYTE_ORDER_MARK, ""
    if depth(content) > records.MAX_DEPTH:
        return records.TOO_DEEP, ""
    if opened(content) > records.MAX_BRACKETS:
        return records.TOO_MANY_BRACKETS, ""
    try:
        value = json.loads(content, object_pairs_hook=Pairs, parse_constant=lambda name: Constant())
    except ValueError:
        return records.NOT_JSON, ""
    return judge_value(value, text_field)


def judge_value(value: Any, text_field: str) -> tuple[str, str]:
    if not isinstance(value, Pairs):
        return records.NOT_AN_OBJECT, ""
    objects, constants = walk(value)
    if any(len({key for key, _ in pairs}) < len(pairs) for pairs in objects):
        return records.DUPLICATE_KEYS, ""
    if constants:
        return records.NOT_FINITE, ""
    texts = [inner for key, inner in value if key == text_field]
    if not texts:
        return records.NO_TEXT, ""
    text = texts[0]
    if not isinstance(text, str):
        return records.TEXT_NOT_A_STRING, ""
    if any(0xD800 <= ord(character) <= 0xDFFF for character in text):
        return records.LONE_SURROGATE, ""
    if any(ord(character) == 0 for character in text):
        return records.NUL, ""
    return ("", text) if text.strip() else (accounting.EMPTY_TEXT, "")


def walk(value: Any) -> tuple[list[Pairs], int]:
    """All objects in a value, and the number of constants."""
    if isinstance(value, Constant):
        return [], 1
    inner = [child for _, child in value] if isinstance(value, Pairs) else value if isinstance(value, list) else []
    objects, constants = [value] if isinstance(value, Pairs) else [], 0
    for child in inner:
        more, number = walk(child)
        objects, constants = objects + more, constants + number
    return objects, constants


def depth(content: str) -> int:
    return max((here for _, here in brackets(content)), default=0)


def opened(content: str) -> int:
    return sum(character in "[{" for character, _ in brackets(content))


def brackets(content: str) -> Iterator[tuple[str, int]]:
    """Each bracket outside of strings, with the number of brackets open after it."""
    here = 0
    in_string = escaped = False
    for character in content:
        if in_string:
            in_string = escaped or character != '"'
            escaped = not escaped and character == "\\"
        elif character == '"':
            in_string, escaped = True, False
        elif character in "[{":
            here += 1
            yield character, here
        elif character in "]}":
            here = max(0, here - 1)
            yield character, here
