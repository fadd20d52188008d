"""Single files on a disk, read and written so that a crash or a rival leaves the old one or the
new one.

A file is written next to its name, forced to the disk and renamed. Conditional writes hold a
lock of the name meanwhile, so on a file system of several nodes its locks must work over nodes
(`probe` tries them on one).

What is checked and what is changed must be one and the same place, so a path is resolved once
(`resolved`, `entry`) and only the result is used: `made/../models` is refused or means one
folder, never two. Small files and locks are plain files; a link, a pipe or a device at such a
name is nobody's that memlm knows, and is refused.
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
    """Write where nothing is; whether this call did."""
    path = entry(uri)
    with _written(path, body) as partial, locked(path):
        try:
            os.link(partial, path)
        except FileExistsError:
            return False
    return True


def replace(uri: str, body: bytes, version: str) -> bool:
    """Write over exactly this version; whether this call did."""
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
    """A tree or a file, and what killed writers of it left next to it. A link is left alone, and
    so is what it points to."""
    path = entry(uri)
    if not path.parent.exists():
        return
    if path.is_symlink():
        log.warning("%s is a link and was left as it is", path)
        return
    with on_disk(path):
        _bury(path)
        clear_remains(path)


def clear_remains(path: Path) -> None:
    """Remove what killed writers of `path` left next to it, unless somebody is at work there."""
    ours = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{32}}{re.escape(BESIDE)}")
    with on_disk(path):
        for left in [path.with_name(name) for name in os.listdir(path.parent) if ours.fullmatch(name)]:
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
        with suppress(OSError, StorageError), locked(scratch_of(path), wait=False) as left_behind:
            clear_scratch(scratch_of(path), left_behind=left_behind)


def clear_scratch(path: Path, *, left_behind: bool) -> None:
    """Remove what a killed writer left at `path`. A writer's folder and its lock go together:
    without one it is another's."""
    if not os.path.lexists(path):
        return
    if left_behind:
        shutil.rmtree(path)
    elif path.is_symlink() or not path.is_dir() or os.listdir(path):
        rule = "is where the artifact would be put together, and memlm did not make it"
        raise StorageError("folder", path, rule, "Rename it, or give the artifact another name.")
    else:
        path.rmdir()


def _bury(path: Path) -> None:
    """Take a tree or a file away at one stroke, then remove it."""
    grave = _beside(path)
    if path.exists():
        os.rename(path, grave)
        shutil.rmtree(grave) if grave.is_dir() else grave.unlink()


@contextmanager
def no_new_folders(path: Path) -> Iterator[None]:
    """Folders at and above `path` that the block makes are gone after it, where nobody else uses
    them by then."""
    with on_disk(path):
        new = [each for each in (path, *path.parents) if not each.exists()]
    try:
        yield
    finally:
        for folder in new:
            with suppress(OSError):  # in use, or never made
                folder.rmdir()


def resolved(uri: str | Path) -> Path:
    """A folder as the operating system finds it: all links followed, no `..` left.

    Raises StorageError for the root folder and where links lead in a circle.
    """
    path = Path(os.path.realpath(Path(uri)))  # a double slash behind a circle of links would lead to the root folder
    if not path.name:
        raise StorageError("uri", uri, "is the root folder", "Name a folder in it.")
    if any(each.is_symlink() for each in (path, *path.parents)):
        raise StorageError(
            "uri", uri, "contains links that lead in a circle", "Correct the links, or give another path."
        )
    return path


def entry(uri: str | Path) -> Path:
    """A name in a folder: the folder resolved, the name as it is, so that a link is seen as one."""
    path = Path(uri)
    if path.name in ("", ".."):
        return resolved(path)
    return Path(os.path.realpath(path.parent), path.name)


def is_plain_file(folder: Path, name: str) -> bool:
    """Whether `name` below the folder is a regular file, reached through no link."""
    path = folder / name
    return path.is_file() and os.path.realpath(path) == os.path.join(os.path.realpath(folder), name)


def scratch_of(target: Path) -> Path:
    """Where the artifact `target` is put together."""
    return target.with_name(f".{target.name}{PARTIAL}")


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Alone with `path`, among processes and threads; gives whether the lock's file was left by
    a holder that was killed.

    The lock's file goes with its holder. Raises BlockingIOError where others hold it and `wait`
    is False, StorageError where the lock's name belongs to something else.
    """
    lock = path.with_name(f".{path.name.removeprefix('.')}{LOCK}")
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle, is_new = _open_lock(lock)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if not is_at(handle, lock):  # the holder before us removed what we waited on
                continue
            try:
                yield not is_new
            finally:
                lock.unlink()
            return
        finally:
            os.close(handle)


def _open_lock(lock: Path) -> tuple[int, bool]:
    """The lock's file, and whether it is new. A lock's file is empty: one that holds something
    is not ours to remove."""
    while True:
        try:
            return os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), True
        except FileExistsError:
            pass
        try:
            handle = _open_plain(lock, os.O_RDWR)
        except FileNotFoundError:  # its holder went at that moment
            continue
        if os.fstat(handle).st_size:
            os.close(handle)
            raise StorageError(
                "lock", lock, "holds something, so it is not memlm's", "Rename it, or use another folder."
            )
        return handle, False


def _open_plain(path: Path, flags: int) -> int:
    """A file's handle, without following a link and without waiting at a pipe."""
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
    """Name the place and the remedy when a disk is full or closed to us, also when a library's
    own error says so."""
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
    """The body in a file next to `path`, on the disk for good; the block puts it into place."""
    partial = _beside(path)
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
