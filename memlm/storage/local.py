"""Single files on a disk, read and written so that a crash or a competing writer leaves either the
old file or the new one.

A file is written next to its name, forced to the disk and renamed. Conditional writes hold a lock
on the name meanwhile, so the locks of a file system shared by several nodes must work across
nodes (`probe` tests them on one).

The place that is checked must be the place that is changed. A path is therefore resolved once
(`resolved`, `entry`) and only the result is used: `made/../models` is either refused or means one
folder, never two. Small files and locks are plain files; links, pipes and devices at their names
are not memlm's, and are refused.
"""

import errno
import fcntl
import hashlib
import logging
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from memlm.storage.errors import StorageError
from memlm.storage.places import PARTIAL

log = logging.getLogger(__name__)
TEMPORARY = f".tmp{PARTIAL}"  # suffix of temporary files next to their final names
LOCK = f"{PARTIAL}.lock"  # suffix of locks


@dataclass(frozen=True, kw_only=True)
class Found:
    """One small object as it was at one moment."""

    body: bytes
    version: str  # changes whenever the body does
    age_seconds: float = 0  # time since it was written, by the store's clock; 0 unless requested
    sha256: str = ""  # digest of the bytes that the writer sent, if recorded

    @property
    def is_damaged(self) -> bool:
        """Whether the body differs from what the writer sent."""
        return bool(self.sha256) and self.sha256 != hashlib.sha256(self.body).hexdigest()


def read(uri: str, *, with_age: bool = False) -> Found | None:
    path = entry(uri)
    with on_disk(path):
        try:
            with os.fdopen(_open_plain(path, os.O_RDONLY), "rb") as file:
                body, written = file.read(), os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return None
        age = _now(path) - written if with_age else 0
    return Found(body=body, version=hashlib.sha256(body).hexdigest(), age_seconds=age)


def write(uri: str, body: bytes) -> None:
    path = entry(uri)
    with _written(path, body) as partial:
        os.rename(partial, path)


def create(uri: str, body: bytes) -> bool:
    """Write only if nothing is there. Returns whether this call wrote it."""
    path = entry(uri)
    with _written(path, body) as partial, locked(path):
        try:
            os.link(partial, path)
        except FileExistsError:
            return False
    return True


def replace(uri: str, body: bytes, version: str) -> bool:
    """Write only over exactly this version. Returns whether this call wrote it."""
    path = entry(uri)
    with _written(path, body) as partial, locked(path):
        found = read(str(path))
        if found is None or found.version != version:
            return False
        os.rename(partial, path)
    return True


def list_names(uri: str) -> list[str]:
    path = resolved(uri)
    with on_disk(path):
        names = os.listdir(path) if path.exists() else []
    return sorted(name for name in names if not (name.startswith(".") and PARTIAL in name))


def delete(uri: str) -> None:
    """Delete a tree or a file, and what killed writers left next to it. A link is left alone, and
    so is its target."""
    path = entry(uri)
    if not path.parent.exists():
        return
    if path.is_symlink():
        log.warning("%s is a link and was left as it is", path)
        return
    with on_disk(path):
        _remove_atomically(path)
        clear_remains(path)


def clear_remains(path: Path) -> None:
    """Remove what killed writers of `path` left next to it, unless a writer is active there."""
    ours = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{32}}{re.escape(TEMPORARY)}")
    with on_disk(path):
        for left in [path.with_name(name) for name in os.listdir(path.parent) if ours.fullmatch(name)]:
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
        with suppress(OSError, StorageError), locked(scratch_of(path), wait=False) as left_behind:
            clear_scratch(scratch_of(path), left_behind=left_behind)


def clear_scratch(path: Path, *, left_behind: bool) -> None:
    """Remove what a killed writer left at `path`. memlm's writers always leave a lock together
    with the folder: a folder without a lock belongs to somebody else."""
    if not os.path.lexists(path):
        return
    if left_behind:
        shutil.rmtree(path)
    elif path.is_symlink() or not path.is_dir() or os.listdir(path):
        rule = "would be the artifact's temporary folder, but memlm did not make it"
        raise StorageError("folder", path, rule, "Rename it, or give the artifact another name.")
    else:
        path.rmdir()


def _remove_atomically(path: Path) -> None:
    """Remove a tree or a file, renaming it first so that it vanishes in one step."""
    doomed = _temporary_name(path)
    if path.exists():
        os.rename(path, doomed)
        shutil.rmtree(doomed) if doomed.is_dir() else doomed.unlink()


@contextmanager
def no_new_folders(path: Path) -> Iterator[None]:
    """Remove folders at and above `path` that the block made, unless they are in use by then."""
    with on_disk(path):
        new = [each for each in (path, *path.parents) if not each.exists()]
    try:
        yield
    finally:
        for folder in new:
            with suppress(OSError):  # in use, or never created
                folder.rmdir()


def resolved(uri: str | Path) -> Path:
    """The real path of a folder: all links followed, no `..` left.

    Raises StorageError for the root folder and for links that lead in a circle.
    """
    path = Path(os.path.realpath(Path(uri)))  # a double slash after a circle of links would lead to the root folder
    if not path.name:
        raise StorageError("uri", uri, "is the root folder", "Name a folder in it.")
    if any(each.is_symlink() for each in (path, *path.parents)):
        raise StorageError(
            "uri", uri, "contains links that lead in a circle", "Correct the links, or give another path."
        )
    return path


def entry(uri: str | Path) -> Path:
    """A path whose folder is resolved but whose name is kept, so that a link is seen as one."""
    path = Path(uri)
    if path.name in ("", ".."):
        return resolved(path)
    return Path(os.path.realpath(path.parent), path.name)


def is_plain_file(folder: Path, name: str) -> bool:
    """Whether `name` below the folder is a regular file, and no part of `name` is a link."""
    path = folder / name
    return path.is_file() and os.path.realpath(path) == os.path.join(os.path.realpath(folder), name)


def scratch_of(target: Path) -> Path:
    """The temporary folder in which the artifact `target` is assembled."""
    return target.with_name(f".{target.name}{PARTIAL}")


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of `path` against other processes and threads. Yields whether the lock's file
    was left by a holder that was killed.

    The lock's file is removed afterwards. Raises BlockingIOError if others hold the lock and
    `wait` is False, StorageError if the lock's name belongs to something else.
    """
    lock = path.with_name(f".{path.name.removeprefix('.')}{LOCK}")
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle, is_new = _open_lock(lock)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if not is_at(handle, lock):  # the previous holder removed the file that we waited for
                continue
            try:
                yield not is_new
            finally:
                lock.unlink()
            return
        finally:
            os.close(handle)


def _open_lock(lock: Path) -> tuple[int, bool]:
    """The lock's file, and whether it is new. A lock's file is empty: a file with content is not
    ours to remove."""
    while True:
        try:
            return os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), True
        except FileExistsError:
            pass
        try:
            handle = _open_plain(lock, os.O_RDWR)
        except FileNotFoundError:  # its holder removed it at that moment
            continue
        if os.fstat(handle).st_size:
            os.close(handle)
            raise StorageError("lock", lock, "is not empty, so it is not memlm's", "Rename it, or use another folder.")
        return handle, False


def _open_plain(path: Path, flags: int) -> int:
    """A handle of a plain file, opened without following a link or waiting at a pipe."""
    try:
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise _not_plain(path) from None
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _not_plain(path)
    return handle


def _not_plain(path: Path) -> StorageError:
    return StorageError("file", path, "is a link, a pipe or a folder, not a plain file", "Put a plain file there.")


@contextmanager
def on_disk(path: Path) -> Iterator[None]:
    """Name the place and the remedy when a disk is full or not accessible, even if a library wraps
    the system's error in its own."""
    try:
        yield
    except Exception as error:
        number = getattr(error, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
            raise StorageError("storage", path, "no space left", "Free some, or choose a larger disk.") from error
        if number in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
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
    """The body in a temporary file next to `path`, already on the disk; the block moves it into
    place."""
    partial = _temporary_name(path)
    with on_disk(path):
        if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
            raise _not_plain(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(body)
            sync(partial)
            yield partial
            sync(path.parent)
        finally:
            partial.unlink(missing_ok=True)


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY}")


def is_at(handle: int, path: Path) -> bool:
    """Whether the open file still has this name."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _now(path: Path) -> float:
    """The time by the file system's clock, which may be another machine's."""
    touched = _temporary_name(path)
    try:
        touched.touch()
        return touched.stat().st_mtime
    finally:
        touched.unlink(missing_ok=True)
