"""The bytes of a file, plain or compressed, are read as a stream, in bounded memory, and never
fewer than were written.

What is cut off or damaged stops with place, cause and remedy, and so does a decompression bomb.
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

# DCLM's shards grow 3- to 4-fold, very regular text 50-fold; a bomb grows 1,000-fold (gzip) or
# 32,000-fold (zstd).
MAX_RATIO = 128
MAX_RATIO_FROM_BYTES = 256 * 2**20
"""What a small file may hold at least: it may repeat itself."""
MAX_HELD_FROM_BYTES = 32 * 2**20
"""The same for a file that is held in memory whole, as questions are."""
MAX_SHARD_BYTES = 64 * 2**30
MAX_WINDOW_BYTES = 2**27
"""The largest window of a zstd frame: libzstd's own limit, since a reader takes as much memory
as the window."""
ZSTD_MAGIC, GZIP_MAGIC = b"\x28\xb5\x2f\xfd", b"\x1f\x8b"
ZSTD_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
"""The first four bytes of a frame without content (RFC 8878, section 3.1.2)."""
DAMAGE = (OSError, EOFError, zlib.error)
"""What a stream of compressed bytes raises where it is cut off or damaged."""


def open_bytes(path: str, name: str) -> io.BufferedIOBase:
    """The file's bytes, decompressed as its name says. Raises ShardError; the stream raises
    DAMAGE."""
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
    # Arrow's stream and not zstandard's, whose `stream_reader` ends a cut-off frame like a whole
    # one, with no error.
    return io.BufferedReader(pa.input_stream(str(source), compression="zstd"), buffer_size=2**20)


def require_file(path: Path, name: str) -> None:
    if path.is_dir():
        raise ShardError(f"{name}: is a folder, and one file is needed. Give the path of a file in it.")
    if not path.is_file():
        raise ShardError(f"{name}: there is no such file. Check the path.")


def refuse_damage(name: str, number: int, error: Exception) -> NoReturn:
    """Raises ShardError for a compressed stream that stopped in line `number`, with the remedy
    that helps."""
    if "too much memory" in str(error):
        raise ShardError(
            f"{name}:{number}: its zstd window is larger than {MAX_WINDOW_BYTES // 2**20} MiB, the most that is read here, since each "
            "reader takes as much memory. Decompress it with `zstd -d --long=31` and compress it again without --long."
        ) from error
    raise ShardError(
        f"{name}:{number}: the compressed data is cut off or damaged here ({error}). Fetch or write the file again."
    ) from error


def most_bytes(path: str, *, least: int = 0) -> float:
    """What may come out of a compressed file of this size at most; infinite for a plain one.
    `least` of any, where it is given."""
    kind = kind_of(path)
    if not os.path.isfile(path) or not (kind and (kind.compression or kind.content == "parquet")):
        return math.inf
    return min(MAX_SHARD_BYTES, max(least or MAX_RATIO_FROM_BYTES, MAX_RATIO * os.path.getsize(path)))


def require_no_bomb(name: str, number: int, read: float, most: float) -> None:
    if read > most:
        raise ShardError(
            f"{name}:{number}: a decompression bomb: more than {most:.0f} bytes come out of it (at most {MAX_RATIO} times its size, and "
            f"{MAX_SHARD_BYTES} in all). Check where it comes from; if it is what it should be, split it or store it uncompressed."
        )


def _refuse_uncompressed(name: str, compression: str) -> NoReturn:
    raise ShardError(
        f"{name}:1: not {compression}, or empty. Compress it with `{compression}`, or leave the last suffix off its name if it is plain text."
    )
