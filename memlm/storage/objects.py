"""How is one small file read and written, wherever it is?"""

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
    """What both kinds of place can do with a small file. `s3` and `local` are two."""

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
    """One small object. A reader sees the old one or the new one."""
    write_bytes(uri, encode("value", value))


def write_bytes(uri: str, body: bytes) -> None:
    """One small file. A reader sees the old one or the new one."""
    store_of(uri).write(uri, body)


def read_bytes(uri: str) -> bytes | None:
    """One small file; None if there is none. Raises DamagedArtifact."""
    found = store_of(uri).read(uri)
    if found is not None and found.is_damaged:
        raise DamagedArtifact("uri", uri, "is not what was written", REMAKE)
    return found.body if found is not None else None


def read_json(uri: str) -> Any:
    body = read_bytes(uri)
    if body is None:
        raise StorageError("uri", uri, "nothing is there", "Check the name, or run the stage that writes it.")
    with reading(lambda reason: StorageError("uri", uri, f"is not JSON ({reason})", REMAKE)):
        return json.loads(body)


@contextmanager
def local_file(uri: str) -> Iterator[Path]:
    """One file to read: a path itself, or an object on S3 as a temporary copy of the same name."""
    if not is_remote(uri):
        yield Path(uri)
        return
    from memlm.storage.s3 import transfer

    with folder_for_copies() as folder:
        path = folder / uri.rpartition("/")[2]
        try:
            if not transfer.download(uri, path):
                raise DamagedArtifact("uri", uri, "is not what was written", REMAKE)
        except FileNotFoundError as error:
            raise StorageError("uri", uri, "nothing is there", "Check the bucket and the name.") from error
        yield path


def list_names(uri: str) -> list[str]:
    """Sorted names directly under `uri`, without what is not finished."""
    return store_of(uri).list_names(uri)


def delete(uri: str) -> None:
    """Remove a tree or one object, if it is there, and what unfinished writers of it left. What
    goes is no artifact any more from the first step on."""
    if is_remote(uri):
        from memlm.storage.s3 import client as s3

        if s3.split(uri)[1]:
            s3.delete_object(join(uri, MANIFEST))
    store_of(uri).delete(uri)
