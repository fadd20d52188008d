"""The list of a corpus's shards, and the check that they are still the ones that were listed.

    folder                                      the files at any depth
    s3://bucket/prefix                          the objects below it, such as DCLM's copy on S3
    hf://datasets/owner/name@commit[/folder]    the files of a data set at one commit

The listing of a remote store is kept as an artifact, so that every later run reads the same
shards: listing a store is slow, and its content may change. The node that reads a shard fetches
it, one at a time, and removes it afterwards.
"""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from memlm import hub, storage
from memlm.data.file_kinds import ShardError
from memlm.data.folders import Report, list_shards, require_shards, split_names
from memlm.kinds import LISTING_FILE

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file of a corpus, as it was listed."""

    root: str
    """Address of the corpus."""
    name: str
    """Path relative to the root; the same in every copy of the corpus."""
    bytes: int
    version: str = ""
    """The store's identifier of the content: an S3 etag, a digest on the hub; empty for a local
    file."""

    @property
    def uri(self) -> str:
        return f"{self.root.rstrip('/')}/{self.name}" if self.name else self.root

    @property
    def identity(self) -> dict[str, str | int]:
        """Identifies the content. A local file is identified by its file name and size, because
        its folder may be moved."""
        if not self.version:
            return {"shard": os.path.basename(self.uri), "bytes": self.bytes}
        return {"shard": self.name, "bytes": self.bytes, "version": self.version}


class ChangedShard(ShardError):
    """A store holds other content under a shard's name than when it was listed."""


def is_stored(path: str) -> bool:
    """Whether the address is a remote store's, whose listing is kept."""
    return "://" in path


def list_corpus(path: str, *, report: Report = logger.warning) -> list[Shard]:
    """All shards at an address, sorted by name. Other files there are reported by reason and name.

    Raises ShardError, HubError or StorageError.
    """
    if not is_stored(path):
        root = path.rstrip("/") or path
        return [
            Shard(root=root, name="" if found == root else os.path.relpath(found, root), bytes=os.path.getsize(found))
            for found in list_shards(root, report=report)
        ]
    listed: dict[str, tuple[int, str]] = {}
    if path.startswith(hub.HUB):
        listed = {file.name: (file.bytes, file.version) for file in hub.list_files(path)}
    elif storage.is_remote(path):
        listed = {stored.name: (stored.bytes, stored.etag) for stored in storage.list_objects(path)}
    names, left_out = split_names(sorted(listed))
    require_shards(path, names, left_out, report)
    return [Shard(root=path, name=name, bytes=listed[name][0], version=listed[name][1]) for name in names]


def sample_shards(shards: Sequence[Shard], *, fraction: float, seed: int) -> list[Shard]:
    """About this fraction of the shards. Whether a shard is chosen depends only on seed and name,
    so a larger sample contains a smaller one."""
    if fraction == 1:
        return list(shards)
    return [shard for shard in shards if _draw(seed, shard.name) < fraction]


def _draw(seed: int, name: str) -> float:
    """A uniform number in [0, 1)."""
    return int.from_bytes(sha256(f"{seed} {name}".encode()).digest()[:6], "big") / 2**48


def write_listing(folder: Path, shards: Sequence[Shard]) -> None:
    lines = (json.dumps({key: value for key, value in asdict(shard).items() if key != "root"}) for shard in shards)
    (folder / LISTING_FILE).write_text("".join(f"{line}\n" for line in lines))


def read_listing(folder: Path, root: str) -> list[Shard]:
    with (folder / LISTING_FILE).open() as lines:
        return [Shard(root=root, **json.loads(line)) for line in lines]


@contextmanager
def open_shard(shard: Shard) -> Iterator[Path]:
    """The shard on this node's disk; a downloaded copy is removed afterwards. Raises ChangedShard
    if it is not what was listed."""
    if not is_stored(shard.root):
        _require_listed(shard, os.path.getsize(shard.uri) if os.path.isfile(shard.uri) else None)
        yield Path(shard.uri)
    elif shard.root.startswith(hub.HUB):
        with hub.temporary_copy(shard.root, shard.name, shard.version) as path:
            yield path
    else:
        with storage.local_file(shard.uri) as path:
            # Checked after the download, so the downloaded bytes are of this version.
            now = storage.stat_object(shard.uri)
            _require_listed(shard, now.bytes if now else None, now.etag if now else None)
            _require_listed(shard, path.stat().st_size)
            yield path


def _require_listed(shard: Shard, size: int | None, version: str | None = None) -> None:
    if (size, version or shard.version) == (shard.bytes, shard.version):
        return
    now = "gone" if size is None else f"{size} bytes{', ' + version if version else ''}"
    listed = f"{shard.bytes} bytes{', ' + shard.version if shard.version else ''}"
    raise ChangedShard(
        f"{shard.uri}: changed since it was listed: {listed} then, {now} now. "
        "Restore the listed version, or give another --run-name to list the corpus again."
    )
