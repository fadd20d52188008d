"""Artifacts: directories of files that are either complete or absent, and are checked whenever
they are read.

The manifest says how the artifact was made and gives every file's size and sha256. It is written
last, so a directory without one was never finished:

    write_artifact: fill a draft -> hash, fsync -> manifest -> rename to its name (disk)
                                                -> upload to content-<digest>/, then create
                                                manifest.json if there is none (S3)
    open_artifact:  manifest -> (S3: download into this node's cache) -> check sizes and sha256
                    -> local directory

Copies in the cache stay for the next process that opens them, except those made by
`open_artifact_temporarily`.

Work is executed at least once, so a second writer may finish the same artifact: the first complete
one stays, a damaged one is replaced, and other people's files in its folder stay there
(`replacing`). A folder that holds anything but an artifact is never written to. On S3 the files
lie in a folder named after the digest of their content and manifest, and only one manifest can be
created. Two writers that commit different bytes at the same moment therefore never mix, and the
loser finds the winner's complete artifact. Uploads of a loser or a killed writer are never read;
`delete` removes them.
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
from memlm.storage.local import Found
from memlm.storage.manifests import FORMAT, MANIFEST, README, Manifest, is_ours, parse, plain
from memlm.storage.objects import store_of
from memlm.storage.places import is_remote, join
from memlm.storage.replacing import replace_damaged
from memlm.storage.views import view_of

log = logging.getLogger(__name__)
MAX_COMMIT_ATTEMPTS = 20
"""How often a writer that met a competing commit tries again."""


@dataclass(kw_only=True)
class Draft:
    path: Path  # the local directory to fill
    details: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT
    """Format of the manifest. Differs from the default only where an older artifact is rewritten
    byte for byte."""

    def measure(self) -> dict[str, dict[str, Any]]:
        """Size and sha256 of each file written so far, as the manifest will hold them."""
        return _measure_all(self.path)


@dataclass(frozen=True, kw_only=True)
class _Vacancy:
    """Permission to write an artifact: over the damaged one with the manifest of version
    `damaged`, or into an empty place."""

    damaged: str | None = None
    old: Manifest | None = None
    """Manifest of the damaged artifact, where it can be trusted."""


def has_artifact(uri: str) -> bool:
    return _find(uri) is not None


def has_own_manifest(uri: str) -> bool:
    """Whether memlm wrote the manifest there, even if it is damaged."""
    found = _find(uri)
    return found is not None and _is_by_memlm(found)


def read_manifest(uri: str, kind: str | None = None, *, digest: str | None = None) -> Manifest:
    """The manifest of the artifact at `uri`. With a digest, it must be the same artifact that had
    this digest, and not one that replaced it."""
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
        rule = f"was replaced: its digest is {manifest.digest[:16]} now, but {digest[:16]} was expected"
        raise StorageError("artifact", uri, rule, "Find out who writes there, then run the command again.")
    return manifest


@contextmanager
def write_artifact(
    uri: str,
    *,
    kind: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, str] | None = None,
) -> Iterator[Draft]:
    """Give a draft directory to fill; on a clean exit it becomes the artifact `uri`, on an
    exception nothing changes."""
    wanted = Manifest(kind=kind, config=plain("config", config), inputs=plain("inputs", inputs or {}), files={})
    if not is_remote(uri):
        # Links may change during the work; the resolved path is both inspected and replaced.
        uri = str(local.resolved(uri))
    _vacancy(uri, wanted)  # raises before work is done
    upload = hashlib.sha256(uri.encode()).hexdigest()
    with _scratch(_cache() / upload if is_remote(uri) else Path(uri)) as path:
        draft = Draft(path=path)
        yield draft
        manifest = replace(wanted, files=draft.measure(), details=plain("details", draft.details), format=draft.format)
        if not manifest.files:
            raise StorageError("artifact", uri, "no file was written", "Fill the draft's path inside the block.")
        (path / MANIFEST).write_bytes(manifest.to_json())
        if is_remote(uri):
            _commit_to_s3(path, uri, manifest)
        else:
            _commit_to_disk(path, uri, manifest)


def add_manifest(folder: str, *, kind: str, config: Mapping[str, Any], names: Sequence[str]) -> Manifest:
    """Make an artifact of the named files of a folder on a disk, as they are. Raises StorageError
    if the folder is an artifact already."""
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
    """A local directory with exactly the files of the manifest, each just checked against it.

    A digest is checked as in `read_manifest`, for artifacts that another process chose.
    """
    manifest = read_manifest(uri, kind, digest=digest)
    return view_of(_download(uri, manifest) if is_remote(uri) else _verified(local.resolved(uri), manifest), manifest)


def address_of_file(uri: str, name: str) -> str:
    """Address of one file of a finished artifact, for readers that know nothing of artifacts."""
    return _key(uri, read_manifest(uri), name) if is_remote(uri) else join(uri, name)


@contextmanager
def open_artifact_temporarily(uri: str, *, kind: str | None = None) -> Iterator[Path]:
    """Like `open_artifact`, for artifacts that are read only once: a copy made on this node is
    deleted when its last reader leaves the block.

    No process may hold it open through `open_artifact` meanwhile.
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
                with local.locked(local.scratch_of(path)):  # nobody is downloading or checking it
                    fcntl.flock(readers, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
            except BlockingIOError:  # others still read it
                pass
            except OSError as error:
                log.warning("%s could not be deleted: %s", path, error)


@contextmanager
def _shared_copy(uri: str, manifest: Manifest) -> Iterator[tuple[Path, int]]:
    """A copy in the cache, and the open handle of its folder, on which each reader holds a shared
    lock."""
    while True:
        path = _download(uri, manifest)
        try:
            readers = os.open(path, os.O_RDONLY)
        except FileNotFoundError:  # its last reader deleted it at that moment
            continue
        try:
            fcntl.flock(readers, fcntl.LOCK_SH)
            if local.is_at(readers, path):
                yield path, readers
                return
        finally:
            os.close(readers)


def _is_by_memlm(manifest: Found) -> bool:
    return bool(manifest.sha256) or is_ours(manifest.body)


def _find(uri: str) -> Found | None:
    """The manifest's file."""
    return store_of(uri).read(join(uri if is_remote(uri) else str(local.resolved(uri)), MANIFEST))


def _parsed(found: Found, uri: str) -> Manifest:
    if found.is_damaged:
        raise DamagedArtifact("artifact", uri, f"{MANIFEST} differs from what was written", REMAKE)
    return parse(found.body, uri)


def _vacancy(uri: str, wanted: Manifest) -> _Vacancy | None:
    """The free place for an artifact; None if it is there already, complete and made in the same
    way. Refuses a place that holds anything else."""
    found = _find(uri)
    if found is None:
        if not is_remote(uri):
            _require_empty(Path(uri))
        return _Vacancy()
    if not _is_by_memlm(found):
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


def _commit_to_disk(path: Path, uri: str, manifest: Manifest) -> None:
    """Commit while holding the scratch directory's lock: no other writer on this file system is
    here."""
    for inner in [*path.rglob("*"), path]:
        local.sync(inner)
    vacancy = _vacancy(uri, manifest)
    if vacancy is None:
        return
    if vacancy.damaged is None:
        os.rename(path, uri)  # over nothing or an empty folder; the system refuses any other
    else:
        replace_damaged(Path(uri), path, vacancy.old)
    local.sync(Path(uri).parent)


def _commit_to_s3(path: Path, uri: str, manifest: Manifest) -> None:
    """Commit the one manifest that wins. A loser learns it from what is there now: the same
    artifact, another complete one, or one that must not be replaced."""
    if not _vacancy(uri, manifest):
        return
    from memlm.storage.s3 import transfer

    readme = [README] if (path / README).is_file() else []
    transfer.upload({_key(uri, manifest, name): path / name for name in (*manifest.files, *readme)})
    store, place, body = store_of(uri), join(uri, MANIFEST), manifest.to_json()
    for _ in range(MAX_COMMIT_ATTEMPTS):
        vacancy = _vacancy(uri, manifest)
        if vacancy is None:
            return
        won = store.replace(place, body, vacancy.damaged) if vacancy.damaged else store.create(place, body)
        if won:
            return
    raise StorageError("uri", uri, "is damaged again after each commit", "Find out what else writes there.")


def _key(uri: str, manifest: Manifest, name: str) -> str:
    """Address of an artifact's file on S3. Below `content-...`, the folder is the directory that
    was written."""
    return join(uri, f"content-{manifest.digest[:16]}", name)


def _download(uri: str, manifest: Manifest) -> Path:
    """Bring an artifact to this node once; the copy is checked each time like any other
    directory."""
    target = _cache() / manifest.digest
    with _scratch(target) as path:  # also a lock: only one of several processes on a node downloads
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
        raise DamagedArtifact("file", error, "is in the manifest but missing", REMAKE) from error
    damaged = [each.uri for each, good in zip(wanted, whole, strict=True) if not good]
    if damaged:
        rule = "its size or sha256 is not the one in the manifest"
        raise DamagedArtifact("file", ", ".join(damaged), rule, REMAKE)


def _measure(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _measure_all(directory: Path) -> dict[str, dict[str, Any]]:
    """Size and sha256 of every file except the manifest and the README. Links are refused, because
    their targets may change."""
    left_out = (directory / MANIFEST, directory / README)
    paths = [path for path in sorted(directory.rglob("*")) if path not in left_out]
    for path in paths:
        if path.is_symlink():
            raise StorageError("file", path, "is a link; artifacts hold plain files only", "Copy what it points to.")
    return {path.relative_to(directory).as_posix(): _measure(path) for path in paths if path.is_file()}


def _verified(directory: Path, manifest: Manifest) -> Path:
    """The directory, if every file in the manifest is there and unchanged."""
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
    """Folder of this node's copies of artifacts on S3."""
    return Path(os.environ.get("MEMLM_CACHE") or Path.home() / ".cache" / "memlm").expanduser().absolute()


@contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """A temporary directory next to `target`, for one writer at a time. Removes what a killed
    writer left there."""
    path = local.scratch_of(target)
    with local.on_disk(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        with local.locked(path) as left_behind:
            local.clear_scratch(path, left_behind=left_behind)
            try:
                path.mkdir()
                yield path
            finally:
                shutil.rmtree(path, ignore_errors=True)  # after a success it has been renamed already
