"""How is a corpus read and written? Shard files -> documents, the first step of the flow (`prepare_corpus`).

A corpus is a folder of `.jsonl.zst`, `.jsonl.zstd`, `.jsonl` or Parquet files, at any depth; DCLM-baseline's layout
(global-shard_*/local-shard_*/shard_*_processed.jsonl.zst, one JSON object per line) is one case. Reading streams in
bounded memory and never loses a document in silence: a file that is cut off, damaged or a decompression bomb stops with
place, reason and remedy; a line that cannot be read (records.py) stops too, or is counted where an accounting is given.
"""

import io
import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from memlm.data.accounting import BLANK_LINE, EMPTY_TEXT, Accounting
from memlm.data.records import (
    NOT_UTF8,
    TOO_LONG,
    MalformedLine,
    TextParser,
    checked_text,
    no_text_field,
)

ZSTD_SUFFIXES = (".jsonl.zst", ".jsonl.zstd")  # DCLM's Hub copy ends in .zst, its S3 copy in .zstd
SUFFIXES = (*ZSTD_SUFFIXES, ".jsonl", ".parquet")
# DCLM's longest documents are a few MB. As characters outside the Basic Multilingual Plane a line takes four times its
# bytes in memory, twice (the line and its text).
MAX_LINE_BYTES = 16 * 2**20
# DCLM's shards grow 3- to 4-fold, very regular text 50-fold; a bomb grows 32,000-fold. Small files may repeat themselves.
MAX_RATIO = 128
MAX_RATIO_FROM_BYTES = 256 * 2**20
MAX_SHARD_BYTES = 64 * 2**30
# The first four bytes of a zstd frame, and of a skippable one (RFC 8878, sections 3.1.1 and 3.1.2).
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
ZSTD_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
BOM = b"\xef\xbb\xbf"
PARQUET_BATCH_ROWS = 256


class ShardError(ValueError):
    """A shard, or the folder of shards, cannot be read as it is."""


@dataclass(frozen=True)
class Document:
    """One text and where it stood: the line in a JSON-lines shard, the row in a Parquet one, both from 1."""

    line: int
    text: str


def list_shards(path: str) -> list[str]:
    """All shard files at or under a local path, sorted by path so that every machine sees the same order."""
    root = _local(path)
    if root.is_file():
        candidates = [root]
    elif root.is_dir():
        candidates = sorted(entry for entry in root.rglob("*") if entry.is_file())
    else:
        raise ShardError(
            f"{path}: there is no such file or folder. Give a folder that holds {_named_suffixes()} files."
        )
    shards = [str(candidate) for candidate in candidates if candidate.name.endswith(SUFFIXES)]
    if not shards:
        raise ShardError(f"{path}: no shard found. A corpus is a folder with {_named_suffixes()} files, at any depth.")
    return shards


def read_documents(
    path: str, *, text_field: str = "text", accounting: Accounting | None = None, name: str = ""
) -> Iterator[Document]:
    """The documents of one shard, in file order, in bounded memory.

    With an accounting, every line is entered there, and what is malformed or empty is left out; without one, the first
    malformed line raises ShardError. `name` stands for the path in what is said.
    """
    name = name or path
    accounts = Accounting() if accounting is None else accounting
    texts = _parquet_texts if path.endswith(".parquet") else _line_texts
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
    """The (line number, JSON object) pairs of one `.jsonl` or `.jsonl.zst(d)` file; blank lines hold no record."""
    for number, line in read_lines(path):
        if line.strip():
            yield number, parse_record(path, number, line)


def parse_record(path: str, number: int, line: bytes) -> dict[str, Any]:
    """The JSON object that a line holds. Raises ShardError naming path, line number, reason and remedy."""
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise ShardError(
            f"{path}:{number}: not UTF-8 ({error.reason}). Store the file as UTF-8, or remove this line."
        ) from error
    except (ValueError, RecursionError) as error:
        raise ShardError(
            f"{path}:{number}: not JSON ({error}). Each line must be one JSON object; repair or remove it."
        ) from error
    if not isinstance(record, dict):
        raise ShardError(f"{path}:{number}: a JSON {type(record).__name__}, not an object. Repair or remove this line.")
    return record


def read_lines(path: str) -> Iterator[tuple[int, bytes]]:
    """The (number, bytes) pairs of all lines of a JSON-lines file, decompressed, in bounded memory."""
    for number, line in _lines(path, path):
        if line is None:
            raise ShardError(
                f"{path}:{number}: the line is longer than {MAX_LINE_BYTES} bytes. "
                "Each line must be one document; split it."
            )
        yield number, line


def write_shard(path: str, records: Iterable[dict[str, Any]]) -> None:
    """Write JSON-lines, zstd-compressed as the suffix says, in DCLM's form.

    The frame carries a checksum and its content size. zstandard leaves the checksum out by default, and then most
    flipped bits change the text without any error.
    """
    if not path.endswith((*ZSTD_SUFFIXES, ".jsonl")):
        raise ShardError(f"{path}: unknown suffix for a written shard. Use {', '.join(ZSTD_SUFFIXES)} or .jsonl.")
    lines = (json.dumps(record, ensure_ascii=False, allow_nan=False) for record in records)
    content = "".join(f"{line}\n" for line in lines).encode()
    if path.endswith(ZSTD_SUFFIXES):
        content = zstandard.ZstdCompressor(write_checksum=True, write_content_size=True).compress(content)
    target = _local(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


def _line_texts(path: str, name: str, text_field: str) -> Iterator[tuple[int, str | MalformedLine | None]]:
    """Each line's text, or why it has none; None for a blank line."""
    parse = TextParser(text_field).parse
    for number, line in _lines(path, name):
        if line is None:
            yield number, MalformedLine(TOO_LONG, f"the line is longer than {MAX_LINE_BYTES} bytes")
            continue
        if number == 1:
            line = line.removeprefix(BOM)
        if line.isspace() or not line:
            yield number, None
            continue
        try:
            yield number, parse(line)
        except MalformedLine as malformed:
            yield number, malformed


def _lines(path: str, name: str) -> Iterator[tuple[int, bytes | None]]:
    """All lines by number; None for one that is too long, whose bytes are passed over."""
    number, read, most = 1, 0, _most_bytes(path)
    with _open(path, name) as stream:
        try:
            while line := stream.readline(MAX_LINE_BYTES + 1):
                read += len(line)
                if len(line) <= MAX_LINE_BYTES:
                    yield number, line
                else:
                    while line and not line.endswith(b"\n"):
                        line = stream.readline(2**20)
                        read += len(line)
                        _require_no_bomb(name, number, read, most)
                    yield number, None
                _require_no_bomb(name, number, read, most)
                number += 1
        except OSError as error:
            raise ShardError(
                f"{name}:{number}: the compressed data is cut off or damaged here ({error}). "
                "Fetch or write the file again."
            ) from error


def _most_bytes(path: str) -> float:
    """What a compressed file of this size may hold at most."""
    if not path.endswith(ZSTD_SUFFIXES) or not os.path.isfile(path):
        return math.inf
    return min(MAX_SHARD_BYTES, max(MAX_RATIO_FROM_BYTES, MAX_RATIO * os.path.getsize(path)))


def _require_no_bomb(name: str, number: int, read: int, most: float) -> None:
    if read > most:
        raise ShardError(
            f"{name}:{number}: a decompression bomb: more than {most:.0f} bytes come out of it (at most {MAX_RATIO} times its size "
            f"beyond {MAX_RATIO_FROM_BYTES}, and {MAX_SHARD_BYTES} in all). Fetch the file again, or split it if it is what it should be."
        )


def _open(path: str, name: str) -> io.BufferedReader:
    """Open the file's decompressed bytes.

    Arrow's zstd stream and not zstandard's: zstandard's `stream_reader` ends a cut-off frame like a whole one, with no
    error. Arrow also reads several frames in a row, and refuses windows above libzstd's default of 128 MiB.
    """
    source = _local(path)
    if not path.endswith((*ZSTD_SUFFIXES, ".jsonl")):
        raise ShardError(f"{name}: not a kind of file that is read here. Known are {_named_suffixes()}.")
    if not source.is_file():
        raise ShardError(f"{name}: there is no such file. Check the path.")
    if not path.endswith(ZSTD_SUFFIXES):
        return source.open("rb")
    with source.open("rb") as file:
        magic = file.read(4)
    if magic != ZSTD_MAGIC and int.from_bytes(magic, "little") not in ZSTD_SKIPPABLE:
        raise ShardError(
            f"{name}:1: not zstd, or empty. Compress it with `zstd`, or rename it to .jsonl if it is plain text."
        )
    return io.BufferedReader(pa.input_stream(str(source), compression="zstd"), buffer_size=2**20)


def _parquet_texts(path: str, name: str, text_field: str) -> Iterator[tuple[int, str | MalformedLine]]:
    """Each row's text, or why it has none."""
    source = _local(path)
    if not source.is_file():
        raise ShardError(f"{name}: there is no such file. Check the path.")
    row = 0
    try:
        # As a dictionary a value that repeats is held once: a page of a few bytes cannot fill the memory.
        columns = pq.read_schema(source).names
        if text_field not in columns:
            raise ShardError(f"{name}: {no_text_field(text_field, columns).phrase}. Name another text field.")
        with pq.ParquetFile(source, read_dictionary=[text_field]) as file:
            _require_no_parquet_bomb(file, path, name, text_field)
            for batch in file.iter_batches(batch_size=PARQUET_BATCH_ROWS, columns=[text_field]):
                for value in _bytes_of(batch.column(0)):
                    row += 1
                    yield row, _parquet_text(value, text_field)
    except (pa.ArrowException, OSError) as error:
        raise ShardError(
            f"{name}:{row + 1}: not Parquet, cut off or damaged ({error}). Fetch or write the file again."
        ) from error


def _require_no_parquet_bomb(file: pq.ParquetFile, path: str, name: str, text_field: str) -> None:
    groups = (file.metadata.row_group(group) for group in range(file.num_row_groups))
    columns = (group.column(place) for group in groups for place in range(group.num_columns))
    read = sum(column.total_uncompressed_size for column in columns if column.path_in_schema == text_field)
    _require_no_bomb(name, 1, read, min(MAX_SHARD_BYTES, max(MAX_RATIO_FROM_BYTES, MAX_RATIO * os.path.getsize(path))))


def _bytes_of(column: pa.Array) -> Iterator[Any]:
    """The values; of a text column the bytes, which may not be UTF-8 whatever the schema says."""
    if pa.types.is_dictionary(column.type):
        words = column.dictionary
        if pa.types.is_string(words.type):
            words = words.view(pa.binary())
        for index in column.indices.to_pylist():
            yield None if index is None else words[index].as_py()
    else:
        yield from column.to_pylist()


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
        raise ShardError(f"{path}: a remote address where a local path is needed. Open it through storage first.")
    return Path(path)


def _named_suffixes() -> str:
    return f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
