"""Delete what memlm made and no longer needs, and keep what others put there.

Everybody with access may write to a run's folder, so only files that memlm is known to have
written are removed from a tree: files that a manifest names, drafts of killed writers, and single
files whose names only memlm gives.
"""

import os
import re
from pathlib import Path

from memlm.storage import local
from memlm.storage.errors import DamagedArtifact
from memlm.storage.manifests import MANIFEST, Manifest, parse
from memlm.storage.places import PARTIAL, is_remote, join
from memlm.storage.replacing import remove_if_empty, remove_named

_CONTENT = re.compile(r"(.*/)?content-[0-9a-f]{16}/.+")
_DRAFT = re.compile(rf"\.(.+?)(\.[0-9a-f]{{32}}\.tmp)?{re.escape(PARTIAL)}(\.partial\.lock)?")


def delete_made(uri: str, *, loose: str = "") -> None:
    """Remove the artifacts at and below `uri`, single files below it whose names match `loose`,
    and folders that are empty afterwards.

    An artifact whose manifest cannot be read stays, because nothing says which of its files are
    memlm's.
    """
    names = re.compile(loose) if loose else None
    if is_remote(uri):
        _delete_from_s3(uri, names)
        return
    root = local.resolved(uri)
    with local.on_disk(root):
        if not root.is_dir():
            return
        for folder, _, files in os.walk(root, topdown=False):
            here = Path(folder)
            if MANIFEST in files:
                remove_named(here, _readable_manifest(here))
            for name in files:
                if names is not None and names.fullmatch(name) and local.is_plain_file(here, name):
                    (here / name).unlink(missing_ok=True)
            _clear_drafts(here)
            if here != root or not Path(uri).is_symlink():
                remove_if_empty(here)
        local.clear_remains(root)


def _readable_manifest(folder: Path) -> Manifest | None:
    found = local.read(str(folder / MANIFEST))
    try:
        return parse(found.body, str(folder)) if found is not None else None
    except DamagedArtifact:
        return None


def _clear_drafts(folder: Path) -> None:
    """Remove the drafts of writers that were killed in this folder."""
    if folder.is_dir():
        for target in {match[1] for name in os.listdir(folder) if (match := _DRAFT.fullmatch(name))}:
            local.clear_remains(folder / target)


def _delete_from_s3(uri: str, loose: re.Pattern[str] | None) -> None:
    """Delete manifests first, so that from then on nothing there counts as an artifact."""
    from memlm.storage.s3 import client as s3

    names = s3.all_names(uri)
    made = [name for name in names if _CONTENT.fullmatch(name)]
    folders = {re.split(r"(?:^|/)content-[0-9a-f]{16}/", name)[0] for name in made}
    manifests = [name for name in names if name.rpartition("/")[2] == MANIFEST and name.rpartition("/")[0] in folders]
    matching = [name for name in names if loose is not None and loose.fullmatch(name.rpartition("/")[2])]
    for group in (manifests, [*made, *(name for name in matching if name not in made)]):
        s3.delete_objects([join(uri, name) for name in group])
    s3.abort_uploads(uri)
