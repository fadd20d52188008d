"""Read documents from files of plain text, Markdown or .txt: one document per file, or a folder of
such files.

Markdown's marks are removed, except those of headings, which give the topic of the text below
them.
"""

import hashlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

from memlm import storage
from memlm.data.file_kinds import TEXT_SUFFIXES, is_text
from memlm.data.folders import Report, describe_left_out, list_files

logger = logging.getLogger(__name__)

MAX_HEADING_WORDS = 8
_FRONT_MATTER = re.compile(r"\A---\n.*?\n(?:---|\.\.\.)\n", re.DOTALL)
# Each part is bounded. Otherwise, in a line of a million unclosed marks, each of them would be
# followed to the end of the line.
_LINK = re.compile(r"!?\[([^\]]{0,500})\]\([^)\s]{0,2000}(?:\s{1,8}\"[^\"]{0,500}\")?\)")
_STRESS = re.compile(r"(\*{1,3}|_{1,3}|~~|`{1,8})(?=\S)(.{1,1000}?)(?<=\S)\1(?!\w)")
_ITEM = re.compile(r"^[ \t]*(?:>[ \t]*)*(?:[-*+•][ \t]+(?:\[[ xX]\][ \t]+)?|\d{1,3}[.)][ \t]+)?")
_NUMBER = re.compile(r"^\d{1,3}(?:\.\d{1,3})*[.)]?[ \t]+")
"""Number of a heading, such as 2.1."""
_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]")
_FENCE = re.compile(r"^ {0,3}(?:```|~~~)")


class TextFileError(ValueError):
    """A file that should contain text does not."""


def is_text_source(source: str) -> bool:
    """Whether the source is a file of plain text, or a folder, which may contain some."""
    return is_text(source) or ("://" not in source and os.path.isdir(source))


def read_text_files(source: str, *, report: Report = logger.warning) -> Iterator[tuple[str, str]]:
    """The name and text of each file, sorted by name. Files of a folder that are left out are
    reported.

    Raises TextFileError for a file or folder without text.
    """
    for name, content in _contents(source, report):
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise TextFileError(
                f"{source}: {name} is not UTF-8 ({error.reason} at byte {error.start}); store it as UTF-8"
            ) from None
        if "\0" in text:
            raise TextFileError(f"{source}: {name} contains a NUL character, so it is not text; name a text file")
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        yield name, _plain_headings(text) if name.lower().endswith(".txt") else _without_marks(text)


def text_content(source: str) -> bytes:
    """Bytes that identify the content of the files: names and digests."""
    digests = ((name, hashlib.sha256(content).hexdigest()) for name, content in _contents(source, _silent))
    return "\n".join(f"{name} {digest}" for name, digest in digests).encode()


def _contents(source: str, report: Report) -> Iterator[tuple[str, bytes]]:
    if "://" in source or not os.path.isdir(source):
        with storage.local_file(source) as path:
            if not path.is_file():
                raise TextFileError(f"{source}: does not exist; check the path")
            yield source.rstrip("/").rsplit("/", 1)[-1], path.read_bytes()
        return
    found, left_out = list_files(Path(source), is_text)
    messages = list(describe_left_out(left_out))
    if not found:
        seen = f"; left out: {'; '.join(messages)}" if messages else ""
        raise TextFileError(f"{source}: the folder holds no {', '.join(TEXT_SUFFIXES)} file; check the path{seen}")
    for message in messages:
        report(f"{source}: left out {message}")
    for name, path in sorted((path.relative_to(source).as_posix(), path) for path in found):
        yield name, path.read_bytes()


def _silent(message: str) -> None:
    """A report that discards the message, for a second look at a folder."""


def _plain_headings(text: str) -> str:
    """Mark short, isolated lines without final punctuation as headings, as in Markdown, if more
    text follows."""
    lines = text.split("\n")
    filled = [place for place, line in enumerate(lines) if line.strip()]
    like = [_is_like_heading(lines, place) for place in filled]
    for number, place in enumerate(filled[:-1]):
        # Of several such lines in a row only the last one has text below it. As headings the others
        # would be lost, except for a title.
        if like[number] and (number == 0 or not like[number + 1]):
            lines[place] = f"## {lines[place].strip()}"
    return "\n".join(lines)


def _is_like_heading(lines: list[str], place: int) -> bool:
    line = lines[place].strip()
    alone = not (place and lines[place - 1].strip()) and not "".join(lines[place + 1 : place + 2]).strip()
    begins = _NUMBER.sub("", line)[:1].isupper()
    short = len(line.split()) <= MAX_HEADING_WORDS
    return alone and begins and short and not line.endswith((".", "!", "?", ":", ";", ","))


def _without_marks(text: str) -> str:
    """The text without Markdown's marks. Headings stay marked; code is indented, so that its lines
    are not mistaken for headings."""
    plain: list[str] = []
    columns: list[str] = []
    """Column names of the current table."""
    fenced = False
    for line in _without_comments(_FRONT_MATTER.sub("", text)).split("\n"):
        in_table = line.lstrip().startswith("|") and not fenced
        columns = columns if in_table else []
        if _FENCE.match(line):
            fenced = not fenced
        elif fenced:
            plain.append(f"    {line}")
        elif _is_rule(line):  # dashes below a line of text make it a heading
            is_underline = set(line.strip()) == {"-"} and plain and plain[-1].strip()
            plain += [line] if is_underline else []
        elif in_table:
            cells = [_plain_line(cell.strip()) for cell in line.strip().strip("|").split("|")]
            plain += [_row(columns, cells)] if columns else []
            columns = columns or cells
        else:
            plain.append(_plain_line(line))
    return "\n".join(plain)


def _without_comments(text: str) -> str:
    kept, start = [], 0
    while (begin := text.find("<!--", start)) >= 0 and (end := text.find("-->", begin + 4)) >= 0:
        kept.append(text[start:begin])
        start = end + 3
    return "".join([*kept, text[start:]])


def _is_rule(line: str) -> bool:
    """Whether the line consists of three or more of one mark, or separates a table's head."""
    marks = "".join(line.split())
    return len(marks) >= 3 and (set(marks) in ({"-"}, {"*"}, {"_"}) or (set(marks) <= set("-:|") and "---" in line))


def _row(columns: list[str], cells: list[str]) -> str:
    named = zip(columns, cells, strict=False)
    return ", ".join(f"{column}: {cell}" if column else cell for column, cell in named if cell)


def _plain_line(line: str) -> str:
    line = _LINK.sub(r"\1", line)
    return _STRESS.sub(r"\2", line if _HEADING.match(line) else _ITEM.sub("", line))
