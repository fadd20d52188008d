"""How is a corpus read and written? Shard files -> documents, the first step of the flow (`prepare_corpus`).

A corpus is a folder of `.jsonl.zst`, `.jsonl.zstd`, `.jsonl` or Parquet files, at any depth; DCLM-baseline's layout
(global-shard_*/local-shard_*/shard_*_processed.jsonl.zst, one JSON object per line) is one case. Reading streams in
bounded memory and never loses a document in silence: whatever is damaged stops with file, line, reason and remedy.
"""

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

ZSTD_SUFFIXES = (".jsonl.zst", ".jsonl.zstd")  # DCLM's Hub copy ends in .zst, its S3 copy in .zstd
SUFFIXES = (*ZSTD_SUFFIXES, ".jsonl", ".parquet")
MAX_LINE_BYTES = (
    64 * 2**20
)  # DCLM's longest documents are a few MB; a "line" beyond this is damage or a decompression bomb
# The first four bytes of a zstd frame, and of a skippable one (RFC 8878, sections 3.1.1 and 3.1.2).
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
ZSTD_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
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


def read_documents(path: str, *, text_field: str = "text") -> Iterator[Document]:
    """The documents of one shard, in file order, in bounded memory."""
    rows = _read_parquet(path, text_field) if path.endswith(".parquet") else _read_text_lines(path, text_field)
    for line, text in rows:
        if not isinstance(text, str):
            raise ShardError(
                f"{path}:{line}: field {text_field!r} is {type(text).__name__}, not a string. "
                "Repair or remove this line, or name another text field."
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair; no tokenizer can read it
            raise ShardError(
                f"{path}:{line}: the text is not valid Unicode ({error}). Repair or remove this line."
            ) from error
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
    with _open(path) as stream:
        number = 0
        while True:
            number += 1
            try:
                line = stream.readline(MAX_LINE_BYTES + 1)
            except OSError as error:
                raise ShardError(
                    f"{path}:{number}: the compressed data is cut off or damaged here ({error}). "
                    "Fetch or write the file again."
                ) from error
            if not line:
                return
            if len(line) > MAX_LINE_BYTES:
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


def _read_text_lines(path: str, text_field: str) -> Iterator[tuple[int, Any]]:
    for line, record in read_records(path):
        if text_field not in record:
            raise ShardError(
                f"{path}:{line}: no field {text_field!r} (there are: {', '.join(sorted(record)) or 'none'}). "
                "Repair or remove this line, or name another text field."
            )
        yield line, record[text_field]


def _open(path: str) -> io.BufferedReader:
    """Open the file's decompressed bytes.

    Arrow's zstd stream and not zstandard's: zstandard's `stream_reader` ends a cut-off frame like a whole one, with no
    error. Arrow also reads several frames in a row, and refuses windows above libzstd's default of 128 MiB.
    """
    source = _local(path)
    if not path.endswith((*ZSTD_SUFFIXES, ".jsonl")):
        raise ShardError(f"{path}: not a kind of file that is read here. Known are {_named_suffixes()}.")
    if not source.is_file():
        raise ShardError(f"{path}: there is no such file. Check the path.")
    if not path.endswith(ZSTD_SUFFIXES):
        return source.open("rb")
    with source.open("rb") as file:
        magic = file.read(4)
    if magic != ZSTD_MAGIC and int.from_bytes(magic, "little") not in ZSTD_SKIPPABLE:
        raise ShardError(
            f"{path}:1: not zstd, or empty. Compress it with `zstd`, or rename it to .jsonl if it is plain text."
        )
    return io.BufferedReader(pa.input_stream(str(source), compression="zstd"), buffer_size=2**20)


def _read_parquet(path: str, text_field: str) -> Iterator[tuple[int, Any]]:
    source = _local(path)
    if not source.is_file():
        raise ShardError(f"{path}: there is no such file. Check the path.")
    line = 0
    try:
        with pq.ParquetFile(source) as file:
            if text_field not in file.schema_arrow.names:
                raise ShardError(
                    f"{path}: no column {text_field!r} (there are: {', '.join(file.schema_arrow.names)}). "
                    "Name another text field."
                )
            for batch in file.iter_batches(batch_size=PARQUET_BATCH_ROWS, columns=[text_field]):
                for text in batch.column(0).to_pylist():
                    line += 1
                    yield line, text
    except (pa.ArrowException, OSError) as error:
        raise ShardError(
            f"{path}:{line + 1}: not Parquet, cut off or damaged ({error}). Fetch or write the file again."
        ) from error


def _local(path: str) -> Path:
    if "://" in path:
        raise ShardError(f"{path}: a remote address where a local path is needed. Open it through storage first.")
    return Path(path)


def _named_suffixes() -> str:
    return f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
