"""Where does a copy lie that is needed for a while, and who takes it away when its owner was
killed?

In a folder `memlm-<pid>-<random>` for temporary files, whose lock the owner holds for as long as
it lives. The lock of a killed process is nobody's, whatever its pid means by then or in another
container, so who next needs a folder removes it.
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
    """A folder on this node's disk, gone after the block. Those of processes that were killed go
    before it."""
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
            with suppress(OSError), local.locked(parent / found[1], wait=False):  # else its owner lives, or is not us
                shutil.rmtree(parent / found[1], ignore_errors=True)
