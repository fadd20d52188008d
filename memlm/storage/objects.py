"""Read and write one small file, on either kind of place."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from memlm.outside import reading
from memlm.storage import local
from memlm.storage.copies import folder_for_copies
from memlm.storage.errors import REMAKE, DamagedArtifact, StorageError
from memlm.storage.local import Found
from memlm.storage.manifests import MANIFEST, encode
from memlm.storage.places import is_remote, join


class Store(Protocol):
    """Operations on small files that both kinds of place support. `s3` and `local` implement it."""

    def read(self, uri: str, *, with_age: bool = False) -> Found | None: ...

    def write(self, uri: str, body: bytes) -> None: ...

    def create(self, uri: str, body: bytes) -> bool: ...

    def replace(self, uri: str, body: bytes, version: str) -> bool: ...

    def list_names(self, uri: str) -> list[str]: ...

    def delete(self, uri: str) -> None: ...


def store_of(uri: str) -> Store:
    if not is_remote(uri):
        return local
    from memlm.storage.s3 import client as s3  # imports boto3, which a folder on a disk does not need

    return s3


def write_json(uri: str, value: Any) -> None:
    """Write one small object. A reader sees the old one or the new one."""
    write_bytes(uri, encode("value", value))


def write_bytes(uri: str, body: bytes) -> None:
    """Write one small file. A reader sees the old one or the new one."""
    store_of(uri).write(uri, body)


def read_bytes(uri: str) -> bytes | None:
    """Content of one small file; None if it does not exist. Raises DamagedArtifact."""
    found = store_of(uri).read(uri)
    if found is not None and found.is_damaged:
        raise DamagedArtifact("uri", uri, "differs from what was written", REMAKE)
    return found.body if found is not None else None


def read_json(uri: str) -> Any:
    body = read_bytes(uri)
    if body is None:
        raise StorageError("uri", uri, "does not exist", "Check the name, or run the stage that writes it.")
    with reading(lambda reason: StorageError("uri", uri, f"is not JSON ({reason})", REMAKE)):
        return json.loads(body)


@contextmanager
def local_file(uri: str) -> Iterator[Path]:
    """One file to read: a path itself, or a temporary copy, with the same name, of an object on
    S3."""
    if not is_remote(uri):
        yield Path(uri)
        return
    from memlm.storage.s3 import transfer

    with folder_for_copies() as folder:
        path = folder / uri.rpartition("/")[2]
        try:
            if not transfer.download(uri, path):
                raise DamagedArtifact("uri", uri, "differs from what was written", REMAKE)
        except FileNotFoundError as error:
            raise StorageError("uri", uri, "does not exist", "Check the bucket and the name.") from error
        yield path


def list_names(uri: str) -> list[str]:
    """Sorted names directly under `uri`, without unfinished files."""
    return store_of(uri).list_names(uri)


def delete(uri: str) -> None:
    """Remove a tree or one object, if it exists, together with remains of its unfinished writers.
    From the first step on it no longer counts as an artifact."""
    if is_remote(uri):
        from memlm.storage.s3 import client as s3

        if s3.split(uri)[1]:
            s3.delete_object(join(uri, MANIFEST))
    store_of(uri).delete(uri)
