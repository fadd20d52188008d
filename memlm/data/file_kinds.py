"""The kind of a file by its name: JSON lines, JSON, CSV or Parquet, and its compression. Upper and
lower case are equivalent."""

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

Content = Literal["lines", "json", "csv", "parquet"]
Compression = Literal["", "zstd", "gzip"]

CONTENTS: dict[str, Content] = {
    ".jsonl": "lines",
    ".ndjson": "lines",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
}
COMPRESSIONS: dict[str, Compression] = {".zst": "zstd", ".zstd": "zstd", ".gz": "gzip"}
"""DCLM's copy on the hub uses .zst, its copy on S3 .zstd; C4's and Dolma's shards end in
.json.gz."""
SHARD_SUFFIXES = ".jsonl, .ndjson (plain, .zst, .zstd or .gz), .json.zst, .json.gz or .parquet"
QUESTION_SUFFIXES = ".jsonl, .ndjson, .json (plain, .zst, .zstd or .gz), .csv or .parquet"
TEXT_SUFFIXES = (".md", ".markdown", ".txt")
SYSTEM_FOLDERS = frozenset(
    [
        "$recycle.bin",
        "#recycle",
        "#snapshot",
        "@eadir",
        "@recycle",
        "system volume information",
        "__macosx",
        "__pycache__",
        "_change_data",
        "_delta_log",
        "_spark_metadata",
        "_temporary",
        "lost+found",
    ]
)
"""Folders that operating systems and table formats put next to data, with files that look like
data; in lower case, although their spelling varies."""


class ShardError(ValueError):
    """A file, or a folder of files, cannot be read as it is."""


@dataclass(frozen=True)
class FileKind:
    content: Content
    compression: Compression = ""


def kind_of(name: str) -> FileKind | None:
    """The kind given by the suffixes of the name; None for unsupported kinds."""
    suffixes = PurePosixPath(name.lower()).suffixes
    compression = COMPRESSIONS.get(suffixes[-1], "") if suffixes else ""
    inner = suffixes[:-1] if compression else suffixes
    content = CONTENTS.get(inner[-1]) if inner else None
    if content is None or (compression and content in ("csv", "parquet")):
        return None
    return FileKind(content, compression)


def is_text(name: str) -> bool:
    """Whether the name is that of a plain text document."""
    return name.lower().endswith(TEXT_SUFFIXES)


def is_shard(name: str) -> bool:
    """Whether the file is read as part of a corpus. Next to shards, plain .json usually holds
    metadata; compressed .json holds lines."""
    kind = kind_of(name)
    return kind is not None and (
        kind.content in ("lines", "parquet") or (kind.content == "json" and bool(kind.compression))
    )


def hidden_part(name: str) -> str:
    """The part of a relative name up to the first component that is hidden or a system folder;
    empty if there is none."""
    path = PurePosixPath(name)
    for depth, part in enumerate(path.parts, start=1):
        if part.startswith((".", "~$")) or part.lower() in SYSTEM_FOLDERS:
            whole = depth == len(path.parts)
            return "/".join(path.parts[:depth]) + ("" if whole else "/")
    return ""
