"""Split a text into sections by its headings. A heading gives the topic of a text and states no
fact itself.

Headings are those of Markdown: lines that begin with #, and lines underlined with === or ---. A
text without headings is one section.
"""

import re
from dataclasses import dataclass

_MARKED = re.compile(r" {0,3}(#{1,6})[ \t]+(?=\S)")
_UNDERLINED = re.compile(r"(?:={3,}|-{3,})[ \t]*")
_FENCE = re.compile(r" {0,3}(?:```|~~~)")
_NOT_UNDERLINED = re.compile(r"[ \t]*(?:[-*+>|]|\d+[.)])")
"""A list item, quotation or table row before --- is no heading: there, --- is a rule."""


@dataclass(frozen=True)
class Section:
    headings: tuple[str, ...]
    """Headings from the top level down to the one directly above the text."""
    text: str


def sections_of(text: str) -> list[Section]:
    """The sections of a text, in order. Sections without a text of their own are left out, unless
    all are."""
    path: list[tuple[int, str]] = []
    sections: list[tuple[tuple[str, ...], list[str]]] = [((), [])]
    lines, fenced, place = text.split("\n"), False, 0
    while place < len(lines):
        line = lines[place]
        following = lines[place + 1] if place + 1 < len(lines) else ""
        fenced ^= bool(_FENCE.match(line))
        level, heading, taken = _heading(line, following) if not fenced else (0, "", 1)
        if heading:
            path = [*((above, name) for above, name in path if above < level), (level, heading)]
            sections.append((tuple(name for _, name in path), []))
        else:
            sections[-1][1].append(line)
        place += taken
    found = [Section(headings, "\n".join(body)) for headings, body in sections if "".join(body).strip()]
    return found or [Section((), text)]


def _heading(line: str, following: str) -> tuple[int, str, int]:
    """Level, text and number of lines of the heading that begins here; an empty text if none
    does."""
    marked = _MARKED.match(line)
    if marked:
        return len(marked[1]), _without_closing_marks(line[marked.end() :]), 1
    if line.strip() and _UNDERLINED.fullmatch(following) and not _NOT_UNDERLINED.match(line):
        return (1 if following.startswith("=") else 2), line.strip(), 2
    return 0, "", 1


def _without_closing_marks(heading: str) -> str:
    """The heading without closing marks: `Pay ##` is "Pay", but the mark in `The language C#` is
    part of it."""
    heading = heading.rstrip(" \t")
    bare = heading.rstrip("#")
    return bare.rstrip(" \t") if bare.endswith((" ", "\t")) else heading
