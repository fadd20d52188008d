"""How are single files on a disk read and written, so that a crash or a rival leaves the old one or the new one?

A file is written beside its name, forced to the disk and renamed. Conditional writes hold a lock of the name meanwhile,
so on a file system of several nodes its locks must work over nodes (`probe` tries them on one).
"""

import errno
import fcntl
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from memlm.storage.errors import StorageError
from memlm.storage.places import PARTIAL

BESIDE = f".tmp{PARTIAL}"  # ends the names of what is written beside its place
LOCK = f"{PARTIAL}.lock"  # and of locks


@dataclass(frozen=True, kw_only=True)
class Found:
    """One small object as it was at one moment."""

    body: bytes
    version: str  # changes whenever the body does
    age_seconds: float = 0  # since it was written, by the store's own clock; where it was asked for
    sha256: str = ""  # of what the writer sent, where that is recorded

    @property
    def is_damaged(self) -> bool:
        """Whether this is not what the writer sent."""
        return bool(self.sha256) and self.sha256 != hashlib.sha256(self.body).hexdigest()


def read(uri: str, *, with_age: bool = False) -> Found | None:
    path = Path(uri)
    with on_disk(path):
        try:
            with path.open("rb") as file:
                body, written = file.read(), os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return None
        age = _now(path) - written if with_age else 0
    return Found(body=body, version=hashlib.sha256(body).hexdigest(), age_seconds=age)


def write(uri: str, body: bytes) -> None:
    path = absolute(uri)
    with _written(path, body) as partial:
        os.rename(partial, path)


def create(uri: str, body: bytes) -> bool:
    """Write where nothing is; whether this call did."""
    path = absolute(uri)
    with _written(path, body) as partial, locked(path):
        try:
            os.link(partial, path)
        except FileExistsError:
            return False
    return True


def replace(uri: str, body: bytes, version: str) -> bool:
    """Write over exactly this version; whether this call did."""
    path = absolute(uri)
    with _written(path, body) as partial, locked(path):
        found = read(str(path))
        if found is None or found.version != version:
            return False
        os.rename(partial, path)
    return True


def list_names(uri: str) -> list[str]:
    with on_disk(Path(uri)):
        names = os.listdir(uri) if os.path.exists(uri) else []
    return sorted(name for name in names if not (name.startswith(".") and PARTIAL in name))


def delete(uri: str) -> None:
    """A tree or a file, and what killed writers of it left beside it."""
    path = absolute(uri)
    if not path.parent.exists():
        return
    bury(path)
    ours = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{32}}{re.escape(BESIDE)}")
    with on_disk(path):
        for left in [path.with_name(name) for name in os.listdir(path.parent) if ours.fullmatch(name)]:
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
        with suppress(BlockingIOError), locked(scratch_of(path), wait=False):  # else somebody is at work there
            shutil.rmtree(scratch_of(path), ignore_errors=True)


def bury(path: Path) -> None:
    """Take a tree or a file away at one stroke, then remove it."""
    grave = _beside(path)
    with on_disk(path):
        if path.exists():
            os.rename(path, grave)
            shutil.rmtree(grave) if grave.is_dir() else grave.unlink()


@contextmanager
def no_new_folders(path: Path) -> Iterator[None]:
    """Folders at and above `path` that the block makes are gone after it, where nobody else uses them by then."""
    with on_disk(path):
        new = [each for each in (path, *path.parents) if not each.exists()]
    try:
        yield
    finally:
        for folder in new:
            with suppress(OSError):  # in use, or never made
                folder.rmdir()


def absolute(uri: str) -> Path:
    return Path(os.path.abspath(uri))


def scratch_of(target: Path) -> Path:
    """Where the artifact `target` is put together."""
    return target.with_name(f".{target.name}{PARTIAL}")


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Alone with `path`, among processes and threads. The lock's file goes with its holder; BlockingIOError: not now."""
    lock = path.with_name(f".{path.name.removeprefix('.')}{LOCK}")
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with lock.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if not is_at(file.fileno(), lock):  # the holder before us removed what we waited on
                continue
            try:
                yield
            finally:
                lock.unlink()
            return


@contextmanager
def on_disk(path: Path) -> Iterator[None]:
    """Name the place and the remedy when a disk is full or closed to us, also when a library's own error says so."""
    try:
        yield
    except Exception as error:
        number = getattr(error, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
            raise StorageError("storage", path, "no space left", "Free some, or choose a larger disk.") from error
        if number in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise StorageError("storage", path, str(error), "Choose a directory that you may write to.") from error
        raise


def sync(path: Path) -> None:
    """Force a file or a directory to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _written(path: Path, body: bytes) -> Iterator[Path]:
    """The body in a file beside `path`, on the disk for good; the block puts it into place."""
    partial = _beside(path)
    with on_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(body)
            sync(partial)
            yield partial
            sync(path.parent)
        finally:
            partial.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}{BESIDE}")


def is_at(handle: int, path: Path) -> bool:
    """Whether the open file is still what has this name."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _now(path: Path) -> float:
    """By the file system's clock, which may be another machine's."""
    touched = _beside(path)
    try:
        touched.touch()
        return touched.stat().st_mtime
    finally:
        touched.unlink(missing_ok=True)
