"""Where do questions lie, and in what kind of file? A path, an object on S3 or a data set on the hub -> rows, each with its place.

    path, s3://bucket/key            .jsonl .jsonl.zst .jsonl.zstd .json .csv .parquet
    hf://owner/name[/config][:split]@commit      through the datasets library

A row that cannot be read is named and passed on, so that the reader of the set decides how many are too many; a file that is
cut off or damaged stops at once.
"""

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from memlm import storage
from memlm.credentials import HUB as HUB_TOKENS
from memlm.credentials import tidy, without_secrets
from memlm.data.hub import COMMIT, HUB, HUB_TIMEOUT_SECONDS
from memlm.data.question_records import QuestionError
from memlm.data.shards import PARQUET_BATCH_ROWS, ZSTD_SUFFIXES, ShardError, parse_record, read_lines

HUB_FORM = "hf://owner/name[/config][:split]@commit"
HUB_URI = re.compile(
    r"hf://(?P<name>[\w.-]+/[\w.-]+)(?:/(?P<config>[^/:@]+))?(?::(?P<split>[^:@]+))?(?:@(?P<commit>[^@]*))?"
)
JSON_LINES = (*ZSTD_SUFFIXES, ".jsonl")
QUESTION_SUFFIXES = (*JSON_LINES, ".json", ".csv", ".parquet")


@dataclass(frozen=True)
class Row:
    """One record as its source holds it."""

    source: str
    line: int
    """In the file from 1; the number of the record where a source has no lines."""
    values: dict[str, Any]


@dataclass(frozen=True)
class Malformed:
    """A record that does not fit, and why."""

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
            yield from _file_rows(path, source)
        except ShardError as error:
            raise ShardError(str(error).replace(str(path), source)) from error


def source_content(source: str) -> bytes:
    """What names the content of a source: the bytes of a file, or the address of a hub data set, whose commit is pinned."""
    if source.startswith(HUB):
        _parse_hub(source)
        return source.encode()
    with storage.local_file(source) as path:
        if not path.is_file():
            raise ShardError(f"{source}: there is no such file. Check the path.")
        return path.read_bytes()


def _file_rows(path: Path, source: str) -> Iterator[Row | Malformed]:
    if not source.endswith(QUESTION_SUFFIXES):
        raise ShardError(
            f"{source}: not a kind of file that holds questions. Known are {', '.join(QUESTION_SUFFIXES)}, and {HUB_FORM}."
        )
    if not path.is_file():
        raise ShardError(f"{source}: there is no such file. Check the path.")
    if source.endswith(JSON_LINES):
        yield from _json_lines(path, source)
    elif source.endswith(".json"):
        yield from _json_array(path, source)
    elif source.endswith(".csv"):
        yield from _csv_rows(path, source)
    else:
        yield from _parquet_rows(path, source)


def _json_lines(path: Path, source: str) -> Iterator[Row | Malformed]:
    for number, line in read_lines(str(path)):
        if not line.strip():
            continue
        try:
            yield Row(source, number, parse_record(source, number, line))
        except ShardError as error:
            yield Malformed(source, number, str(error).removeprefix(f"{source}:{number}: "))


def _json_array(path: Path, source: str) -> Iterator[Row | Malformed]:
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{source}: not JSON ({error}). Fetch or write the file again.") from error
    if not isinstance(records, list):
        raise ShardError(
            f"{source}: a JSON {type(records).__name__}, not a list of objects. Store the records as a list, or one a line as .jsonl."
        )
    for number, record in enumerate(records, start=1):
        if isinstance(record, dict):
            yield Row(source, number, record)
        else:
            yield Malformed(
                source, number, f"a JSON {type(record).__name__}, not an object. Repair or remove this record."
            )


def _csv_rows(path: Path, source: str) -> Iterator[Row | Malformed]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, strict=True)
        line = 1
        try:
            for values in reader:
                line, last = reader.line_num, line
                if None in values or None in values.values():
                    reason = f"not as many fields as the {len(reader.fieldnames or ())} of the header. Repair or remove this line."
                    yield Malformed(source, last + 1, reason)
                else:
                    yield Row(source, last + 1, values)
        except (csv.Error, UnicodeDecodeError) as error:
            raise ShardError(
                f"{source}:{line + 1}: not CSV in UTF-8 ({error}). Fetch or write the file again."
            ) from error


def _parquet_rows(path: Path, source: str) -> Iterator[Row]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=PARQUET_BATCH_ROWS):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(source, number, values)
    except (pa.ArrowException, OSError) as error:
        raise ShardError(
            f"{source}:{number + 1}: not Parquet, cut off or damaged ({error}). Fetch or write the file again."
        ) from error


def _parse_hub(source: str) -> dict[str, str | None]:
    found = HUB_URI.fullmatch(source)
    if found is None:
        raise QuestionError(f"{source}: not a hub data set's address. Write {HUB_FORM}.")
    commit = found["commit"]
    if not commit or not COMMIT.fullmatch(commit):
        pinned = f"{commit!r}, which may come to name other data" if commit else "missing, so the data may change"
        raise QuestionError(
            f"{source}: the revision is {pinned}. Write {HUB_FORM} with the 40 digits of a commit, which the data set's history on the hub shows."
        )
    return found.groupdict()


def _hub_rows(source: str) -> Iterator[Row]:
    place = _parse_hub(source)
    tidy(*HUB_TOKENS)
    # A second of imports that nothing but the hub needs.
    from datasets import DatasetDict, load_dataset
    from huggingface_hub import HfApi, constants

    try:
        if not constants.HF_HUB_OFFLINE:  # then the library answers from its cache or says that it has none
            # One question first, answered at once: the download itself retries for most of a minute without a network.
            HfApi().dataset_info(place["name"] or "", revision=place["commit"], timeout=HUB_TIMEOUT_SECONDS)
        loaded = load_dataset(
            place["name"],
            place["config"],
            split=place["split"],
            revision=place["commit"],
            trust_remote_code=False,
        )
    except Exception as error:  # the hub's client and the library raise what lies below them, of a dozen kinds
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise QuestionError(
            f"{source}: could not be loaded from the hub: {without_secrets(reason).rstrip('.')}. "
            f"Give the path of a local copy instead ({', '.join(QUESTION_SUFFIXES)}), or mend the address or the network."
        ) from error
    if isinstance(loaded, DatasetDict):
        if len(loaded) > 1:
            raise QuestionError(f"{source}: has the splits {', '.join(loaded)}. Name one: {HUB_FORM}.")
        (loaded,) = loaded.values()
    for number, values in enumerate(loaded, start=1):
        yield Row(source, number, values)
