"""Read the bytes of a plain or compressed file as a stream, in bounded memory and without silent
loss.

Truncated or damaged files and decompression bombs raise an error with place, cause and remedy.
"""

import gzip
import io
import math
import os
import zlib
from pathlib import Path
from typing import NoReturn

import pyarrow as pa

from memlm.data.file_kinds import ShardError, kind_of

# DCLM's shards expand 3- to 4-fold and very regular text 50-fold, but a bomb 1,000-fold (gzip) or
# 32,000-fold (zstd).
MAX_RATIO = 128
MAX_RATIO_FROM_BYTES = 256 * 2**20
"""Content that any file may have, however small, because it may be repetitive."""
MAX_HELD_FROM_BYTES = 32 * 2**20
"""The same for a file that is held in memory as a whole, such as a file of questions."""
MAX_SHARD_BYTES = 64 * 2**30
MAX_WINDOW_BYTES = 2**27
"""Largest accepted window of a zstd frame, which is libzstd's own limit: a reader needs as much
memory as the window."""
ZSTD_MAGIC, GZIP_MAGIC = b"\x28\xb5\x2f\xfd", b"\x1f\x8b"
ZSTD_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
"""The first four bytes of a frame without content (RFC 8878, section 3.1.2)."""
STREAM_ERRORS = (OSError, EOFError, zlib.error)
"""Errors raised by a compressed stream that is truncated or damaged."""


def open_bytes(path: str, name: str) -> io.BufferedIOBase:
    """The file's bytes, decompressed according to its name. Raises ShardError; reading the stream
    may raise STREAM_ERRORS."""
    source, kind = Path(path), kind_of(path)
    compression = kind.compression if kind else ""
    require_file(source, name)
    try:
        with source.open("rb") as file:
            start = file.read(4)
        if not compression:
            return source.open("rb")
    except OSError as error:
        raise ShardError(f"{name}: cannot be opened ({error.strerror}). Allow this user to read it.") from error
    if compression == "gzip":
        if not start.startswith(GZIP_MAGIC):
            _refuse_uncompressed(name, "gzip")
        return gzip.open(source, "rb")
    if start != ZSTD_MAGIC and int.from_bytes(start, "little") not in ZSTD_SKIPPABLE:
        _refuse_uncompressed(name, "zstd")
    # Arrow's stream, because zstandard's `stream_reader` ends a truncated frame like a complete
    # one, without an error.
    return io.BufferedReader(pa.input_stream(str(source), compression="zstd"), buffer_size=2**20)


def require_file(path: Path, name: str) -> None:
    if path.is_dir():
        raise ShardError(f"{name}: is a folder, but a file is needed. Give the path of a file in it.")
    if not path.is_file():
        raise ShardError(f"{name}: does not exist. Check the path.")


def refuse_damage(name: str, number: int, error: Exception) -> NoReturn:
    """Raise ShardError, with a suitable remedy, for a compressed stream that broke off in line
    `number`."""
    if "too much memory" in str(error):
        raise ShardError(
            f"{name}:{number}: its zstd window is larger than {MAX_WINDOW_BYTES // 2**20} MiB, the most that memlm accepts, since each "
            "reader needs as much memory. Decompress it with `zstd -d --long=31` and compress it again without --long."
        ) from error
    raise ShardError(
        f"{name}:{number}: the compressed data is truncated or damaged here ({error}). Download or write the file again."
    ) from error


def max_bytes(path: str, *, at_least: int = 0) -> float:
    """Upper limit for the content of a compressed file of this size; infinite for a plain file.
    `at_least` is allowed for every file, if given."""
    kind = kind_of(path)
    if not os.path.isfile(path) or not (kind and (kind.compression or kind.content == "parquet")):
        return math.inf
    return min(MAX_SHARD_BYTES, max(at_least or MAX_RATIO_FROM_BYTES, MAX_RATIO * os.path.getsize(path)))


def require_no_bomb(name: str, number: int, read: float, limit: float) -> None:
    if read > limit:
        raise ShardError(
            f"{name}:{number}: a decompression bomb: its content exceeds {limit:.0f} bytes (the limit is {MAX_RATIO} times its size, and "
            f"{MAX_SHARD_BYTES} in all). Check its origin; if its content is right, split it or store it uncompressed."
        )


def _refuse_uncompressed(name: str, compression: str) -> NoReturn:
    raise ShardError(
        f"{name}:1: not {compression}, or empty. Compress it with `{compression}`, or remove the last suffix of its name if it is plain text."
    )
