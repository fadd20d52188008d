"""Read the rows of question files: a path, an object on S3 or a data set on the hub -> rows, each
with its place.

    path, s3://bucket/key                        JSON lines or a list, plain or compressed; CSV;
                                                 Parquet (file_kinds.py)
    hf://owner/name[/config][:split]@commit      through the datasets library

A row that cannot be read is passed on with its place, so that the caller decides how many are too
many; a truncated or damaged file is an error at once.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memlm import storage
from memlm.credentials import HUB as HUB_TOKENS
from memlm.credentials import strip_credentials, without_secrets
from memlm.data import parquet
from memlm.data.compression import (
    MAX_HELD_FROM_BYTES,
    STREAM_ERRORS,
    max_bytes,
    open_bytes,
    refuse_damage,
    require_file,
    require_no_bomb,
)
from memlm.data.corpus.shards import BOM, MAX_LINE_BYTES, parse_record, read_lines
from memlm.data.file_kinds import QUESTION_SUFFIXES, ShardError, is_text, kind_of
from memlm.data.questions.records import QuestionError
from memlm.extras import needed_for
from memlm.hub import COMMIT, HUB, HUB_TIMEOUT_SECONDS

BYTES_OF_A_RECORD, BYTES_OF_AN_OBJECT, BYTES_OF_AN_ELEMENT = 700, 72, 32
"""Minimum sizes in memory: of a question with its id and place, of a list or object of JSON, and of
an element between two commas."""
RECORDS_BETWEEN_CHECKS = 4096
HUB_FORM = "hf://owner/name[/config][:split]@commit"
HUB_URI = re.compile(
    r"hf://(?P<name>[\w.-]+/[\w.-]+)(?:/(?P<config>[^/:@]+))?(?::(?P<split>[^:@]+))?(?:@(?P<commit>[^@]*))?"
)


@dataclass(frozen=True)
class Row:
    """One record as its source stores it."""

    source: str
    line: int
    """Line in the file, from 1; number of the record if the source has no lines."""
    values: dict[str, Any]


@dataclass(frozen=True)
class Malformed:
    """A record that does not fit, with the reason."""

    source: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.source}:{self.line}: {self.reason}"


def read_rows(source: str) -> Iterator[Row | Malformed]:
    """All records of a path, an s3:// object or a hub data set, in their order."""
    if source.startswith(HUB):
        yield from _hub_rows(source)
        return
    with storage.local_file(source) as path:
        try:
            limit = max_bytes(str(path))
            for number, row in enumerate(_file_rows(path, source), start=1):
                if not number % RECORDS_BETWEEN_CHECKS:
                    require_no_bomb(source, number, BYTES_OF_A_RECORD * number, limit)
                yield row
        except ShardError as error:
            raise ShardError(str(error).replace(str(path), source)) from error


def source_content(source: str) -> bytes:
    """Bytes that identify the content of a source: the content of a file, or the address of a hub
    data set, which includes its commit."""
    if source.startswith(HUB):
        _parse_hub(source)
        return source.encode()
    with storage.local_file(source) as path:
        require_file(path, source)
        return path.read_bytes()


def _file_rows(path: Path, source: str) -> Iterator[Row | Malformed]:
    kind = kind_of(source)
    if kind is None:
        as_document = " To learn a text as a document, name it in questions.documents.path." if is_text(source) else ""
        raise ShardError(
            f"{source}: not a supported kind of question file. Use {QUESTION_SUFFIXES}, or {HUB_FORM}.{as_document}"
        )
    require_file(path, source)
    if kind.content == "lines":
        yield from _json_lines(source, read_lines(str(path), at_least=MAX_HELD_FROM_BYTES))
    elif kind.content == "json":
        yield from _json(path, source)
    elif kind.content == "csv":
        yield from _csv_rows(path, source)
    else:
        for number, values in enumerate(parquet.rows(str(path), source), start=1):
            yield Row(source, number, values)


def _json_lines(source: str, lines: Iterable[tuple[int, bytes]]) -> Iterator[Row | Malformed]:
    is_first = True
    for number, line in lines:
        if not line.strip():
            continue
        if is_first and line.strip().startswith(b"[") and (b"{" in line or b"]" not in line):
            raise ShardError(
                f"{source}: begins like a JSON list, not with one object per line. Give it a name that ends in .json."
            )
        is_first = False
        try:
            yield Row(source, number, parse_record(source, number, line))
        except ShardError as error:
            yield Malformed(source, number, str(error).removeprefix(f"{source}:{number}: "))


def _json(path: Path, source: str) -> Iterator[Row | Malformed]:
    """A list of objects; or lines of JSON, whose files are often named .json too."""
    content = _content(path, source).removeprefix(BOM)
    objects, elements = content.count(b"{") + content.count(b"["), content.count(b",")
    held = BYTES_OF_AN_OBJECT * objects + BYTES_OF_AN_ELEMENT * elements
    require_no_bomb(source, 1, held, max_bytes(str(path)))
    try:
        text = content.decode().strip()
        first, end = json.JSONDecoder().raw_decode(text)
    except UnicodeDecodeError as error:
        raise ShardError(
            f"{source}: not UTF-8 ({error.reason} at byte {error.start}). Store the file as UTF-8."
        ) from error
    except (ValueError, RecursionError) as error:
        is_cut_off = isinstance(error, json.JSONDecodeError) and not text[error.pos :].strip()
        remedy = "It ends too early: download or write the file again." if is_cut_off else "Repair it there."
        raise ShardError(f"{source}: not JSON ({error}). {remedy}") from error
    if end < len(text):
        yield from _json_lines(source, enumerate(content.split(b"\n"), start=1))
        return
    if isinstance(first, dict):  # a single record, unless it contains the list of records
        lists = [
            key for key, value in first.items() if isinstance(value, list) and value and isinstance(value[0], dict)
        ]
        if lists:
            raise ShardError(
                f"{source}: a JSON object that holds a list of objects as {lists[0][:40]!r}. Store only that list."
            )
        first = [first]
    if not isinstance(first, list):
        raise ShardError(
            f"{source}: a JSON {type(first).__name__}, not a list of objects. Store the records as a list, or one a line as .jsonl."
        )
    for number, record in enumerate(first, start=1):
        if isinstance(record, dict):
            yield Row(source, number, record)
        else:
            yield Malformed(
                source, number, f"a JSON {type(record).__name__}, not an object. Repair or remove this record."
            )


def _content(path: Path, source: str) -> bytes:
    """All bytes, decompressed."""
    limit, content = max_bytes(str(path), at_least=MAX_HELD_FROM_BYTES), bytearray()
    with open_bytes(str(path), source) as stream:
        try:
            while part := stream.read(2**20):
                content += part
                require_no_bomb(source, 1, len(content), limit)
        except STREAM_ERRORS as error:
            refuse_damage(source, content.count(b"\n") + 1, error)
    return bytes(content)


def _csv_rows(path: Path, source: str) -> Iterator[Row | Malformed]:
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))  # for the whole process; the default is 128 KiB
    line = 0
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            names = reader.fieldnames or ()
            if twice := [name for name, count in Counter(names).items() if count > 1]:
                raise ShardError(f"{source}:1: the header names {twice[0]!r} more than once. Rename or remove one.")
            if len(names) == 1 and (other := next((mark for mark in ";\t|" if mark in names[0]), "")):
                raise ShardError(f"{source}:1: the fields are separated by {other!r}. Separate them by commas.")
            line = reader.line_num
            for values in reader:
                line, last = reader.line_num, line
                if None in values or None in values.values():
                    reason = f"not as many fields as the header, which has {len(names)}. Repair or remove this line."
                    yield Malformed(source, last + 1, reason)
                else:
                    yield Row(source, last + 1, values)
    except UnicodeDecodeError as error:
        raise ShardError(
            f"{source}:{line + 1}: not UTF-8 ({error.reason}) in this line or after it. Store the file as UTF-8."
        ) from error
    except csv.Error as error:
        raise ShardError(
            f"{source}:{line + 1}: not CSV ({error}). Close the quotes of the record that begins here, double each quote within a field, and "
            f"keep each field below {MAX_LINE_BYTES} characters."
        ) from error
    except OSError as error:
        raise ShardError(f"{source}: cannot be opened ({error.strerror}). Allow this user to read it.") from error


def _parse_hub(source: str) -> dict[str, str | None]:
    found = HUB_URI.fullmatch(source)
    if found is None:
        raise QuestionError(f"{source}: not a hub data set's address. Write {HUB_FORM}.")
    commit = found["commit"]
    if not commit or not COMMIT.fullmatch(commit):
        pinned = f"{commit!r}, which may later refer to other data" if commit else "missing, so the data may change"
        raise QuestionError(
            f"{source}: the revision is {pinned}. Write {HUB_FORM} with the 40 digits of a commit, which the data set's history on the hub shows."
        )
    return found.groupdict()


def _hub_rows(source: str) -> Iterator[Row]:
    place = _parse_hub(source)
    strip_credentials(*HUB_TOKENS)
    # Imported here, because it takes a second and only the hub needs it.
    with needed_for("an hf:// address of questions"):
        from datasets import DatasetDict, load_dataset
    from huggingface_hub import HfApi, constants

    try:
        if not constants.HF_HUB_OFFLINE:  # offline, the library uses its cache or says that it has none
            # Ask the hub first, with a short timeout: without a network the download itself would
            # retry for most of a minute.
            HfApi().dataset_info(place["name"] or "", revision=place["commit"], timeout=HUB_TIMEOUT_SECONDS)
        loaded = load_dataset(
            place["name"],
            place["config"],
            split=place["split"],
            revision=place["commit"],
            trust_remote_code=False,
        )
    except Exception as error:  # the hub's client and the library let a dozen kinds of lower-level errors through
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise QuestionError(
            f"{source}: could not be loaded from the hub: {without_secrets(reason).rstrip('.')}. "
            f"Give the path of a local copy instead ({QUESTION_SUFFIXES}), or correct the address, or check the network."
        ) from error
    if isinstance(loaded, DatasetDict):
        if len(loaded) > 1:
            raise QuestionError(f"{source}: has the splits {', '.join(loaded)}. Name one: {HUB_FORM}.")
        (loaded,) = loaded.values()
    for number, values in enumerate(loaded, start=1):
        yield Row(source, number, values)
