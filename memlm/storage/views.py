"""Views of an artifact whose folder holds other files too: folders of links to the files that its
manifest lists.

People and programs may add a README.md, .gitattributes or a notebook's checkpoints to a model's
folder. Readers that list a folder, or look for files of known names as transformers does, would
take such files for a part of the model.
"""

import atexit
import os
from contextlib import ExitStack
from pathlib import Path

from memlm.storage.copies import folder_for_copies
from memlm.storage.manifests import MANIFEST, README, Manifest

_open_views = ExitStack()
_views: dict[tuple[int, Path, str], Path] = {}


def view_of(directory: Path, manifest: Manifest) -> Path:
    """The directory itself if it holds only the manifest's files; else a folder of links, which
    exists until this process ends."""
    if not _has_others(directory, manifest):
        return directory
    key = os.getpid(), directory, manifest.digest
    if key not in _views:
        if not _views:
            atexit.register(_close, os.getpid())
        folder = _open_views.enter_context(folder_for_copies()) / directory.name
        for name in (*manifest.files, MANIFEST):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(directory / name)
        _views[key] = folder
    return _views[key]


def _close(owner: int) -> None:
    if os.getpid() == owner:  # a forked child must not remove its parent's views
        _open_views.close()


def _has_others(directory: Path, manifest: Manifest) -> bool:
    found = (path.relative_to(directory).as_posix() for path in directory.rglob("*") if not path.is_dir())
    return any(name not in manifest.files and name not in (MANIFEST, README) for name in found)
