"""Read and write a corpus: shard files -> documents, the first step of `prepare_corpus`.

A corpus is a folder of shards, at any depth: files of JSON lines, plain or compressed, or Parquet
files (file_kinds.py). DCLM-baseline's layout
(global-shard_*/local-shard_*/shard_*_processed.jsonl.zst, one JSON object per line) is one case.
Reading streams in bounded memory and never loses a document silently. A truncated or damaged file
or a decompression bomb raises an error with place, reason and remedy. A line that cannot be read
(records.py) raises one too, unless an accounting is given, which counts it.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from memlm.data import parquet
from memlm.data.compression import (
    STREAM_ERRORS,
    max_bytes,
    open_bytes,
    refuse_damage,
    require_no_bomb,
)
from memlm.data.corpus.accounting import BLANK_LINE, EMPTY_TEXT, Accounting
from memlm.data.corpus.records import (
    NOT_UTF8,
    TOO_LONG,
    MalformedLine,
    TextParser,
    bracket_flaw,
    checked_text,
    no_text_field,
)
from memlm.data.file_kinds import SHARD_SUFFIXES, ShardError, is_shard, kind_of

# DCLM's longest documents are a few MB. A line of characters outside the Basic Multilingual Plane
# takes four times its bytes in memory, twice (as the line and as its text).
MAX_LINE_BYTES = 16 * 2**20
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Document:
    """A text and its position: the line in a JSON-lines shard or the row in a Parquet shard, both
    from 1."""

    line: int
    text: str


def read_documents(
    path: str, *, text_field: str = "text", accounting: Accounting | None = None, name: str = ""
) -> Iterator[Document]:
    """The documents of one shard, in file order, in bounded memory.

    With an accounting, every line is counted there, and malformed and empty lines are skipped.
    Without one, the first malformed line raises ShardError. Messages use `name` instead of the
    path.
    """
    name = name or path
    accounts = Accounting() if accounting is None else accounting
    kind = kind_of(path)
    texts = _parquet_texts if kind and kind.content == "parquet" else _line_texts
    for line, text in texts(path, name, text_field):
        if isinstance(text, MalformedLine):
            if accounting is None:
                raise ShardError(f"{name}:{line}: {text.phrase}. {text.remedy}")
            accounts.leave_out(text.reason, f"{line}: {text.phrase}")
        elif text is None:
            accounts.drop(BLANK_LINE)
        elif not text or text.isspace():
            accounts.drop(EMPTY_TEXT)
        else:
            accounts.lines += 1
            accounts.kept += 1
            yield Document(line, text)


def read_records(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The (line number, JSON object) pairs of a file of JSON lines; blank lines hold no record."""
    for number, line in read_lines(path):
        if line.strip():
            yield number, parse_record(path, number, line)


def parse_record(path: str, number: int, line: bytes) -> dict[str, Any]:
    """The JSON object in a line. Raises ShardError with path, line number, reason and remedy."""
    try:
        content = line.decode()
    except UnicodeDecodeError as error:
        raise ShardError(
            f"{path}:{number}: not UTF-8 ({error.reason}). Store the file as UTF-8, or remove this line."
        ) from error
    if phrase := bracket_flaw(content):
        raise ShardError(f"{path}:{number}: {phrase}. Repair or remove this line.")
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ShardError(
            f"{path}:{number}: not JSON ({error}). Each line must be one JSON object; repair or remove it."
        ) from error
    if not isinstance(record, dict):
        raise ShardError(f"{path}:{number}: a JSON {type(record).__name__}, not an object. Repair or remove this line.")
    return record


def read_lines(path: str, *, at_least: int = 0) -> Iterator[tuple[int, bytes]]:
    """The (number, bytes) pairs of all lines of a file, decompressed, in bounded memory, without a
    byte order mark at its start.

    `at_least` as in max_bytes (compression.py).
    """
    for number, line in _lines(path, path, max_bytes(path, at_least=at_least)):
        if line is None:
            raise ShardError(
                f"{path}:{number}: the line is longer than {MAX_LINE_BYTES} bytes. "
                "Each line must be one document; split it."
            )
        yield number, line


def write_shard(path: str, records: Iterable[dict[str, Any]]) -> None:
    """Write JSON lines in DCLM's form, compressed with zstd if the suffix says so.

    The frame includes a checksum and its content size. By default zstandard omits the checksum,
    and then most flipped bits change the text without an error.
    """
    kind = kind_of(path)
    if kind is None or kind.content != "lines" or kind.compression == "gzip":
        raise ShardError(f"{path}: unknown suffix for a written shard. Use .jsonl, .jsonl.zst or .jsonl.zstd.")
    lines = (json.dumps(record, ensure_ascii=False, allow_nan=False) for record in records)
    content = "".join(f"{line}\n" for line in lines).encode()
    if kind.compression:
        content = zstandard.ZstdCompressor(write_checksum=True, write_content_size=True).compress(content)
    target = _local(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


def _line_texts(path: str, name: str, text_field: str) -> Iterator[tuple[int, str | MalformedLine | None]]:
    """Each line's text, or the reason why it has none; None for a blank line."""
    parse = TextParser(text_field).parse
    if not is_shard(path):
        raise ShardError(f"{name}: not a supported kind of file. Use one of {SHARD_SUFFIXES}.")
    for number, line in _lines(path, name, max_bytes(path)):
        if line is None:
            yield number, MalformedLine(TOO_LONG, f"the line is longer than {MAX_LINE_BYTES} bytes")
            continue
        if line.isspace() or not line:
            yield number, None
            continue
        try:
            yield number, parse(line)
        except MalformedLine as malformed:
            yield number, malformed


def _lines(path: str, name: str, limit: float) -> Iterator[tuple[int, bytes | None]]:
    """All lines by number; None for a line that is too long, whose bytes are skipped."""
    number, read = 1, 0
    with open_bytes(str(_local(path)), name) as stream:
        try:
            while line := stream.readline(MAX_LINE_BYTES + 1):
                read += len(line)
                if len(line) <= MAX_LINE_BYTES:
                    yield number, line.removeprefix(BOM) if number == 1 else line
                else:
                    while line and not line.endswith(b"\n"):
                        line = stream.readline(2**20)
                        read += len(line)
                        require_no_bomb(name, number, read, limit)
                    yield number, None
                require_no_bomb(name, number, read, limit)
                number += 1
        except STREAM_ERRORS as error:
            refuse_damage(name, number, error)


def _parquet_texts(path: str, name: str, text_field: str) -> Iterator[tuple[int, str | MalformedLine]]:
    """Each row's text, or the reason why it has none."""
    try:
        for row, value in enumerate(parquet.column_values(str(_local(path)), name, text_field), start=1):
            yield row, _parquet_text(value, text_field)
    except parquet.NoSuchColumn as error:
        raise ShardError(f"{name}: {no_text_field(text_field, error.args).phrase}. Name another text field.") from error


def _parquet_text(value: Any, text_field: str) -> str | MalformedLine:
    try:
        if isinstance(value, bytes):
            if len(value) > MAX_LINE_BYTES:
                raise MalformedLine(TOO_LONG, f"the text is longer than {MAX_LINE_BYTES} bytes")
            value = value.decode()
        return checked_text(value, text_field)
    except UnicodeDecodeError as error:
        return MalformedLine(NOT_UTF8, f"{NOT_UTF8} ({error.reason} at byte {error.start})")
    except MalformedLine as malformed:
        return malformed


def _local(path: str) -> Path:
    if "://" in path:
        raise ShardError(f"{path}: a remote address, but a local path is needed. Open it through storage first.")
    return Path(path)
