"""Artifacts: a directory of files that is there whole or not at all, and is checked whenever it
is read.

The manifest says what made it and gives every file's size and sha256. It is written last, so a
directory without one was never finished:

    write_artifact: fill a draft -> hash, fsync -> manifest -> rename to its name (disk)
                                                -> upload to content-<digest>/, then create
                                                manifest.json if none is (S3)
    open_artifact:  manifest -> (S3: download into this node's cache) -> check sizes and sha256 -> local directory

Copies in the cache stay, for the next process that opens them, but for those of
`artifact_for_a_while`.

Work is executed at least once, so a second writer may finish the same artifact: the first whole
one stays, a damaged one is replaced, and what memlm did not write in its folder stays there
(`replacing`). A folder that holds anything but an artifact is never written to. On S3 the files
lie in a folder named after what they and their manifest hold, and only one manifest can be
created; so two that commit different bytes at the same moment never mix, and the one that lost
finds the winner's, whole. What a loser or a killed writer uploaded is never read, and goes with
`delete`.
"""

import fcntl
import hashlib
import logging
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from memlm.storage import local
from memlm.storage.errors import REMAKE, DamagedArtifact, StorageError
from memlm.storage.leases import Lease
from memlm.storage.local import Found
from memlm.storage.manifests import FORMAT, MANIFEST, README, Manifest, is_ours, parse, plain
from memlm.storage.objects import store_of
from memlm.storage.places import is_remote, join
from memlm.storage.replacing import replace_damaged
from memlm.storage.views import view_of

log = logging.getLogger(__name__)
COMMITS = 20
"""How often a writer that met others comes back to see who won."""


@dataclass(kw_only=True)
class Draft:
    path: Path  # the local directory to fill
    details: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT
    """The format of the manifest; another one only where an older artifact is written again,
    byte for byte."""

    def measure(self) -> dict[str, dict[str, Any]]:
        """Size and sha256 of each file that is there so far, as the manifest will hold them."""
        return _measure_all(self.path)


@dataclass(frozen=True, kw_only=True)
class _Vacancy:
    """A new artifact may go there: over the damaged one with the manifest of this version, or
    where none is."""

    damaged: str | None = None
    old: Manifest | None = None
    """What the damaged one says of itself, where that can be believed."""


def has_artifact(uri: str) -> bool:
    return _find(uri) is not None


def has_own_manifest(uri: str) -> bool:
    """Whether memlm wrote the manifest there; it may be damaged."""
    found = _find(uri)
    return found is not None and _is_own(found)


def read_manifest(uri: str, kind: str | None = None, *, digest: str | None = None) -> Manifest:
    """What is there says of itself. With a digest, it must be that very artifact, as it was when
    its digest was read."""
    found = _find(uri)
    if found is None:
        remedy = (
            f"Run its stage; a model that save_pretrained wrote becomes a checkpoint by: memlm adopt {shlex.quote(uri)}"
        )
        raise StorageError("artifact", uri, f"has no {MANIFEST}: never made, or never finished", remedy)
    manifest = _parsed(found, uri)
    if kind is not None and manifest.kind != kind:
        raise StorageError("artifact", uri, f"is of kind {manifest.kind!r}, not {kind!r}", "Name another artifact.")
    if digest is not None and manifest.digest != digest:
        rule = f"was replaced: its digest is {manifest.digest[:16]} now, and {digest[:16]} is the one to be read"
        raise StorageError("artifact", uri, rule, "Find out who writes there, then run the command again.")
    return manifest


@contextmanager
def write_artifact(
    uri: str,
    *,
    kind: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, str] | None = None,
    lease: Lease | None = None,
) -> Iterator[Draft]:
    """Give a draft directory to fill; on a clean exit it becomes the artifact `uri`, on an
    exception nothing does.

    With a lease, it must still be ours when the work begins and when it is committed: LeaseLost
    otherwise.
    """
    wanted = Manifest(kind=kind, config=plain("config", config), inputs=plain("inputs", inputs or {}), files={})
    if not is_remote(uri):
        uri = str(
            local.resolved(uri)
        )  # links may change while the work is done; what was inspected is what is replaced
    _vacancy(uri, wanted)  # raises before work is done
    if lease is not None:
        lease.renew()
    upload = hashlib.sha256(uri.encode()).hexdigest()
    with _scratch(_cache() / upload if is_remote(uri) else Path(uri)) as path:
        draft = Draft(path=path)
        yield draft
        details = draft.details if lease is None else {**draft.details, "epoch": lease.epoch}
        manifest = replace(wanted, files=draft.measure(), details=plain("details", details), format=draft.format)
        if not manifest.files:
            raise StorageError("artifact", uri, "no file was written", "Fill the draft's path inside the block.")
        (path / MANIFEST).write_bytes(manifest.to_json())
        if is_remote(uri):
            _commit_to_s3(path, uri, manifest, lease)
        else:
            _commit_to_disk(path, uri, manifest, lease)


def add_manifest(folder: str, *, kind: str, config: Mapping[str, Any], names: Sequence[str]) -> Manifest:
    """Make an artifact of a folder on a disk as it is: of these files in it. Raises StorageError
    if it is one already."""
    uri = str(local.resolved(folder))
    files = {}
    for name in names:
        found = _measured(Path(uri), name)
        if found is None:
            raise StorageError("file", f"{uri}/{name}", "is a link or no plain file", "Copy what it points to.")
        files[name] = found
    if not files:
        raise StorageError("artifact", uri, "no file was named", "Name another folder.")
    manifest = Manifest(kind=kind, config=plain("config", config), inputs={}, files=files)
    if not local.create(join(uri, MANIFEST), manifest.to_json()):
        raise StorageError("artifact", uri, f"has a {MANIFEST} already", "Name another folder.")
    return manifest


def open_artifact(uri: str, *, kind: str | None = None, digest: str | None = None) -> Path:
    """A local directory that shows the files of the manifest, each checked against it just now,
    and no others.

    With a digest, as `read_manifest`: for who opens what another process chose.
    """
    manifest = read_manifest(uri, kind, digest=digest)
    return view_of(_download(uri, manifest) if is_remote(uri) else _verified(local.resolved(uri), manifest), manifest)


def address_of_file(uri: str, name: str) -> str:
    """Where one file of a finished artifact lies, for readers that know nothing of artifacts."""
    return _key(uri, read_manifest(uri), name) if is_remote(uri) else join(uri, name)


@contextmanager
def artifact_for_a_while(uri: str, *, kind: str | None = None) -> Iterator[Path]:
    """As `open_artifact`, for what is read once: a copy that was made on this node goes with the
    last block that reads it.

    No process may have it open in the other way meanwhile.
    """
    manifest = read_manifest(uri, kind)
    if not is_remote(uri):
        yield view_of(_verified(local.resolved(uri), manifest), manifest)
        return
    with _shared_copy(uri, manifest) as (path, readers):
        try:
            yield path
        finally:
            try:
                with local.locked(local.scratch_of(path)):  # nobody brings or checks it
                    fcntl.flock(readers, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
            except BlockingIOError:  # others still read it
                pass
            except OSError as error:
                log.warning("%s could not be deleted: %s", path, error)


@contextmanager
def _shared_copy(uri: str, manifest: Manifest) -> Iterator[tuple[Path, int]]:
    """A copy with a lock on its folder, of which each reader has a share."""
    while True:
        path = _download(uri, manifest)
        try:
            readers = os.open(path, os.O_RDONLY)
        except FileNotFoundError:  # its last reader went at that moment
            continue
        try:
            fcntl.flock(readers, fcntl.LOCK_SH)
            if local.is_at(readers, path):
                yield path, readers
                return
        finally:
            os.close(readers)


def _is_own(manifest: Found) -> bool:
    return bool(manifest.sha256) or is_ours(manifest.body)


def _find(uri: str) -> Found | None:
    """The manifest's file."""
    return store_of(uri).read(join(uri if is_remote(uri) else str(local.resolved(uri)), MANIFEST))


def _parsed(found: Found, uri: str) -> Manifest:
    if found.is_damaged:
        raise DamagedArtifact("artifact", uri, f"{MANIFEST} is not what was written", REMAKE)
    return parse(found.body, uri)


def _vacancy(uri: str, wanted: Manifest) -> _Vacancy | None:
    """None if a whole artifact made the same way is there; one made another way, and anything
    else, is refused."""
    found = _find(uri)
    if found is None:
        if not is_remote(uri):
            _require_empty(Path(uri))
        return _Vacancy()
    if not _is_own(found):
        rule = f"holds a {MANIFEST} that memlm did not write"
        raise StorageError("uri", uri, rule, "Give another path.")
    there = None
    try:
        there = _parsed(found, uri)
        changed = [name for name in ("kind", "config", "inputs") if getattr(there, name) != getattr(wanted, name)]
        if changed:
            rule = f"already holds an artifact ({there.kind}) made with another {', '.join(changed)}"
            raise StorageError("uri", uri, rule, "Give this run another name, or move the artifact away.")
        _download(uri, there) if is_remote(uri) else _verified(Path(uri), there)
        return None
    except DamagedArtifact:
        if there is not None and there.is_adopted:
            rule = (
                "holds a model that was adopted and has changed since; memlm did not write it and does not replace it"
            )
            raise StorageError("uri", uri, rule, "Give another path.") from None
        return _Vacancy(damaged=found.version, old=there)


def _require_empty(place: Path) -> None:
    with local.on_disk(place):
        if os.path.lexists(place) and (not place.is_dir() or os.listdir(place)):
            raise StorageError("uri", place, "is not empty and holds no artifact", "Give another path.")
        for above in place.parents:
            found = local.read(str(above / MANIFEST)) if (above / MANIFEST).is_file() else None
            if found is not None and is_ours(found.body):
                raise StorageError("uri", place, f"lies inside the artifact {above}", "Give a path outside of it.")


def _commit_to_disk(path: Path, uri: str, manifest: Manifest, lease: Lease | None) -> None:
    """The scratch directory's lock is held: nobody else on this file system is here."""
    for inner in [*path.rglob("*"), path]:
        local.sync(inner)
    if lease is not None:
        lease.renew()
    vacancy = _vacancy(uri, manifest)
    if vacancy is None:
        return
    if vacancy.damaged is None:
        os.rename(path, uri)  # over nothing or an empty folder; the system refuses any other
    else:
        replace_damaged(Path(uri), path, vacancy.old)
    local.sync(Path(uri).parent)


def _commit_to_s3(path: Path, uri: str, manifest: Manifest, lease: Lease | None) -> None:
    """One manifest wins. That a writer lost it learns from what stands there: the same, another
    whole one, or a refusal."""
    if not _vacancy(uri, manifest):
        return
    from memlm.storage.s3 import transfer

    readme = [README] if (path / README).is_file() else []
    transfer.upload({_key(uri, manifest, name): path / name for name in (*manifest.files, *readme)})
    store, place, body = store_of(uri), join(uri, MANIFEST), manifest.to_json()
    for _ in range(COMMITS):
        if lease is not None:
            lease.renew()
        vacancy = _vacancy(uri, manifest)
        if vacancy is None:
            return
        won = store.replace(place, body, vacancy.damaged) if vacancy.damaged else store.create(place, body)
        if won:
            return
    raise StorageError("uri", uri, "is committed and damaged again and again", "Find out who else writes there.")


def _key(uri: str, manifest: Manifest, name: str) -> str:
    """Where a file of an artifact lies on S3. The folder is, below, the very directory that was
    written."""
    return join(uri, f"content-{manifest.digest[:16]}", name)


def _download(uri: str, manifest: Manifest) -> Path:
    """Bring an artifact to this node once; the copy is checked each time like any other
    directory."""
    target = _cache() / manifest.digest
    with _scratch(target) as path:  # a lock too: of several processes on a node one downloads
        if target.exists():
            try:
                return _verified(target, manifest)
            except DamagedArtifact:
                shutil.rmtree(target)
        _fetch(uri, manifest, path)
        (path / MANIFEST).write_bytes(manifest.to_json())
        os.rename(path, target)
    return target


def _fetch(uri: str, manifest: Manifest, folder: Path) -> None:
    from memlm.storage.s3 import transfer

    wanted = []
    for name, expected in manifest.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        wanted.append(transfer.Download(_key(uri, manifest, name), folder / name, expected["sha256"]))
    try:
        whole = transfer.download_all(wanted)
    except FileNotFoundError as error:
        raise DamagedArtifact("file", error, "is in the manifest but not there", REMAKE) from error
    damaged = [each.uri for each, good in zip(wanted, whole, strict=True) if not good]
    if damaged:
        rule = "its size or sha256 is not the one in the manifest"
        raise DamagedArtifact("file", ", ".join(damaged), rule, REMAKE)


def _measure(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _measure_all(directory: Path) -> dict[str, dict[str, Any]]:
    """Every file but the manifest and the README. Links are refused: what they point to may
    change."""
    left_out = (directory / MANIFEST, directory / README)
    paths = [path for path in sorted(directory.rglob("*")) if path not in left_out]
    for path in paths:
        if path.is_symlink():
            raise StorageError("file", path, "is a link; artifacts hold plain files only", "Copy what it points to.")
    return {path.relative_to(directory).as_posix(): _measure(path) for path in paths if path.is_file()}


def _verified(directory: Path, manifest: Manifest) -> Path:
    """The directory, if all that the manifest names is there and as it says."""
    wrong = sorted(name for name, expected in manifest.files.items() if _measured(directory, name) != expected)
    if wrong:
        rule, remedy = f"missing or changed: {', '.join(wrong)}", REMAKE
        if manifest.is_adopted:
            remedy = f"Bring back what was there, or move its {MANIFEST} away and run: memlm adopt {shlex.quote(str(directory))}"
        raise DamagedArtifact("artifact", directory, rule, remedy)
    return directory


def _measured(directory: Path, name: str) -> dict[str, Any] | None:
    return _measure(directory / name) if local.is_plain_file(directory, name) else None


def _cache() -> Path:
    """Where this node keeps its copies of what is on S3."""
    return Path(os.environ.get("MEMLM_CACHE") or Path.home() / ".cache" / "memlm").expanduser().absolute()


@contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """The temporary directory next to `target`: one writer at a time, and what a killed one left
    is cleared."""
    path = local.scratch_of(target)
    with local.on_disk(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        with local.locked(path) as left_behind:
            local.clear_scratch(path, left_behind=left_behind)
            try:
                path.mkdir()
                yield path
            finally:
                shutil.rmtree(path, ignore_errors=True)  # it has been renamed when all went well
