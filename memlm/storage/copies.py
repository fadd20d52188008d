"""Temporary copies on this node's disk, removed even if their owner was killed.

They lie in a folder `memlm-<pid>-<random>` among the temporary files, whose lock the owner holds
for as long as it lives. A killed process no longer holds its lock, even if its pid has been reused
or belongs to another container, so the next process that needs a folder removes that one.
"""

import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from memlm.storage import local

_LOCK = re.compile(rf"\.(memlm-\d+-[0-9a-f]{{32}}){re.escape(local.LOCK)}")


@contextmanager
def folder_for_copies() -> Iterator[Path]:
    """A folder on this node's disk that is removed after the block. First removes the folders of
    processes that were killed."""
    parent = Path(tempfile.gettempdir())
    _sweep(parent)
    path = parent / f"memlm-{os.getpid()}-{uuid.uuid4().hex}"
    with local.on_disk(path), local.locked(path):
        try:
            path.mkdir(mode=0o700)
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def _sweep(parent: Path) -> None:
    for found in map(_LOCK.fullmatch, os.listdir(parent)):
        if found:
            # Raises BlockingIOError if the owner is alive, PermissionError if it is another user.
            with suppress(OSError), local.locked(parent / found[1], wait=False):
                shutil.rmtree(parent / found[1], ignore_errors=True)
