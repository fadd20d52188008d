"""Replace a damaged artifact on a disk without losing anything that memlm did not write.

    set the damaged folder aside -> rename the new one to its name
                                 -> remove the files that the old manifest lists
                                 -> move back the others, unless the new artifact has a file of
                                    that name

Files that then remain, because nothing says who wrote them, stay aside in NAME.replaced-1, which
the log names. A crash in between loses nothing: the old files are in one place or the other.
"""

import logging
import os
from pathlib import Path

from memlm.storage import local
from memlm.storage.manifests import MANIFEST, Manifest

log = logging.getLogger(__name__)


def replace_damaged(target: Path, new: Path, old: Manifest | None) -> None:
    """Rename the folder `new` to `target`, which holds a damaged artifact; `old` is its manifest,
    if that can be trusted."""
    aside = _free_name(target)
    with local.on_disk(target):
        os.rename(target, aside)
        os.rename(new, target)
        remove_named(aside, old)
        _move_back(aside, target)
    if aside.exists():
        log.warning(
            "%s was damaged and has been remade; files that memlm may not have written are in %s", target, aside
        )


def remove_named(folder: Path, manifest: Manifest | None) -> None:
    """Remove the files that an artifact's manifest lists, the manifest, and folders that are empty
    then. Keep everything of an adopted model, which somebody else wrote."""
    if manifest is None or manifest.is_adopted:
        return
    for name in (*manifest.files, MANIFEST):
        if local.is_plain_file(folder, name):
            (folder / name).unlink()
    for above in sorted({folder / parent for name in manifest.files for parent in Path(name).parents}, reverse=True):
        remove_if_empty(above)


def _move_back(aside: Path, target: Path) -> None:
    """Move each entry back to its old place, if that is free."""
    for folder, folders, files in os.walk(aside, topdown=False):
        for here in (Path(folder, name) for name in (*files, *folders)):
            there = target / here.relative_to(aside)
            if os.path.lexists(here) and not os.path.lexists(there) and _make_folders(there.parent):
                os.rename(here, there)
            remove_if_empty(here)
    remove_if_empty(aside)


def _make_folders(path: Path) -> bool:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):  # the new artifact has a file there
        return False
    return True


def remove_if_empty(path: Path) -> None:
    """Remove an empty folder; anything else stays."""
    if path.is_dir() and not path.is_symlink() and not os.listdir(path):
        path.rmdir()


def _free_name(target: Path) -> Path:
    number = 1
    while os.path.lexists(found := target.with_name(f"{target.name}.replaced-{number}")):
        number += 1
    return found
