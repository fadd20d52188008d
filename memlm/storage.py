"""How do the stages hand their products to each other, on a disk or on S3, so that nothing half-written is ever read?

An artifact is a directory of files plus `manifest.json`, which says what made it and gives every file's size and
sha256. The manifest is written last, so a directory without one was never finished:

    write_artifact: fill a draft -> hash, fsync -> manifest -> rename to its name (disk) / upload, manifest last (S3)
    open_artifact:  manifest -> (S3: download into this node's cache) -> check sizes and sha256 -> local directory

Work is executed at least once, so a second writer may finish the same artifact: the first whole one stays, a damaged
one is replaced. Two that upload different bytes to one S3 prefix at the same moment cannot be kept apart; what they
leave does not verify, and is not loaded.
"""

import errno
import fcntl
import functools
import hashlib
import json
import os
import random
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import boto3
from boto3.exceptions import Boto3Error, RetriesExceededError
from botocore import exceptions as aws
from botocore.config import Config

MANIFEST = "manifest.json"
PARTIAL = ".partial"  # in the (hidden) names of what is not finished; never listed
ATTEMPTS = 6  # for bodies; botocore itself retries what fails before the first byte of a body
REMAKE = "Delete it and run its stage again."


class StorageError(ValueError):
    """What storage refuses or cannot do: which field, its value, the rule, the remedy."""

    def __init__(self, field: str, value: object, rule: str, remedy: str) -> None:
        super().__init__(field, value, rule, remedy)  # all four, so that it survives pickling between processes
        self.field, self.value, self.rule, self.remedy = field, value, rule, remedy

    def __str__(self) -> str:
        return f"{self.field} {self.value}: {self.rule}. {self.remedy}"


class DamagedArtifact(StorageError):
    """The bytes are not those that were written. An older artifact may still be whole."""


_CUT = (aws.ResponseStreamingError, aws.ReadTimeoutError, aws.IncompleteReadError, RetriesExceededError)
_CHANGED = (aws.FlexibleChecksumError, DamagedArtifact)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    kind: str
    config: dict[str, Any]
    inputs: dict[str, str]
    files: dict[str, dict[str, Any]]  # name below the artifact -> bytes, sha256
    details: dict[str, Any] = field(default_factory=dict)  # timings, counts: not in the digest

    @property
    def digest(self) -> str:
        content = {name: value for name, value in vars(self).items() if name != "details"}
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def to_json(self) -> bytes:
        return _encode("manifest", {**vars(self), "digest": self.digest})


@dataclass(frozen=True, kw_only=True)
class Draft:
    path: Path  # the local directory to fill
    details: dict[str, Any] = field(default_factory=dict)


def is_remote(uri: str) -> bool:
    """Whether `uri` is on S3. Every function asks here first, so an unknown scheme never becomes a directory."""
    if not uri or ("://" in uri and not uri.startswith("s3://")) or uri.startswith("s3:///"):
        raise StorageError("uri", repr(uri), "must be a local path or s3://bucket/prefix", "Correct it.")
    return uri.startswith("s3://")


def require_absolute(uri: str, field: str) -> str:
    if not is_remote(uri) and not os.path.isabs(uri):
        rule = "must be absolute, because workers run in other directories and on other machines"
        raise StorageError(field, uri, rule, "Give an absolute path that all nodes share, or s3://bucket/prefix.")
    return uri


def join(uri: str, *parts: str) -> str:
    is_remote(uri)
    for name in parts:
        if "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
            raise StorageError("name", repr(name), f"leads out of {uri}", "Use a relative name without '..'.")
    return "/".join([uri.rstrip("/"), *parts])


def has_artifact(uri: str) -> bool:
    return _get(join(uri, MANIFEST)) is not None


def read_manifest(uri: str, kind: str | None = None) -> Manifest:
    body = _get(join(uri, MANIFEST))
    if body is None:
        raise StorageError("artifact", uri, f"has no {MANIFEST}: never made, or never finished", "Run its stage.")
    try:
        content = json.loads(body)
        digest = content.pop("digest")
        manifest = Manifest(**content)
        join(uri, *manifest.files)  # refuses names that lead out of the artifact
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedArtifact("artifact", uri, f"{MANIFEST} is not a manifest ({error!r})", REMAKE) from error
    if digest != manifest.digest:
        raise DamagedArtifact("artifact", uri, f"{MANIFEST} does not match its own digest", REMAKE)
    if kind is not None and manifest.kind != kind:
        raise StorageError("artifact", uri, f"is of kind {manifest.kind!r}, not {kind!r}", "Name another artifact.")
    return manifest


@contextmanager
def write_artifact(
    uri: str, *, kind: str, config: Mapping[str, Any], inputs: Mapping[str, str] | None = None
) -> Iterator[Draft]:
    """Give a draft directory to fill; on a clean exit it becomes the artifact `uri`, on an exception nothing does."""
    plan = Manifest(kind=kind, config=_plain("config", config), inputs=_plain("inputs", inputs or {}), files={})
    _is_free(uri, plan)  # raises before work is done
    upload = hashlib.sha256(uri.encode()).hexdigest()
    with _scratch(_cache() / upload if is_remote(uri) else Path(os.path.abspath(uri))) as path:
        draft = Draft(path=path)
        yield draft
        manifest = replace(plan, files=_measure_all(path), details=_plain("details", draft.details))
        if not manifest.files:
            raise StorageError("artifact", uri, "no file was written", "Fill the draft's path inside the block.")
        (path / MANIFEST).write_bytes(manifest.to_json())
        for inner in [*path.rglob("*"), path]:
            _sync(inner)
        if _is_free(uri, plan):
            _publish(path, uri, [*manifest.files, MANIFEST])


def open_artifact(uri: str, *, kind: str | None = None) -> Path:
    """A local directory whose every file was checked against the manifest just now."""
    manifest = read_manifest(uri, kind)
    return _download(uri, manifest) if is_remote(uri) else _verified(Path(uri).absolute(), manifest)


def write_json(uri: str, value: Any) -> None:
    """One small object. A reader sees the old one or the new one."""
    write_bytes(uri, _encode("value", value))


def write_bytes(uri: str, body: bytes) -> None:
    """One small file. A reader sees the old one or the new one."""
    if is_remote(uri):
        _s3(uri, lambda bucket, key: bucket.put_object(Key=key, Body=body))
        return
    path = Path(os.path.abspath(uri))
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PARTIAL}")
    with _disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(body)
        _sync(partial)
        os.rename(partial, path)
        _sync(path.parent)


def read_json(uri: str) -> Any:
    body = _get(uri)
    if body is None:
        raise StorageError("uri", uri, "nothing is there", "Check the name, or run the stage that writes it.")
    try:
        return json.loads(body)
    except ValueError as error:
        raise StorageError("uri", uri, f"is not JSON ({error})", REMAKE) from error


@contextmanager
def local_file(uri: str) -> Iterator[Path]:
    """One file to read: a path itself, or an object on S3 as a temporary copy of the same name."""
    if not is_remote(uri):
        yield Path(uri)
        return
    with tempfile.TemporaryDirectory(prefix="memlm-") as folder:
        path = Path(folder) / uri.rpartition("/")[2]
        try:
            _s3(uri, lambda bucket, key: bucket.download_file(key, str(path)))
        except FileNotFoundError as error:
            raise StorageError("uri", uri, "nothing is there", "Check the bucket and the name.") from error
        yield path


def list_names(uri: str) -> list[str]:
    """Sorted names directly under `uri`, without what is not finished."""
    if not is_remote(uri):
        with _disk(Path(uri)):
            names = os.listdir(uri) if os.path.exists(uri) else []
        return sorted(name for name in names if not (name.startswith(".") and PARTIAL in name))

    def all_pages(bucket: Any, key: str) -> list[str]:
        pages = bucket.meta.client.get_paginator("list_objects_v2")
        found = pages.paginate(Bucket=bucket.name, Prefix=key and f"{key}/", Delimiter="/")
        return list(found.search("[Contents[].Key, CommonPrefixes[].Prefix][][]"))

    return sorted(name.rstrip("/").rpartition("/")[2] for name in _s3(uri, all_pages))


def delete(uri: str) -> None:
    """Remove a tree or one object, if it is there. What goes is no artifact any more from the first step on."""
    if is_remote(uri):
        if "/" not in uri.removeprefix("s3://").rstrip("/"):
            raise StorageError("uri", uri, "is a whole bucket", "Name a prefix in it.")
        _s3(join(uri, MANIFEST), lambda bucket, key: bucket.Object(key).delete())
        _s3(uri, lambda bucket, key: [bucket.Object(key).delete(), bucket.objects.filter(Prefix=f"{key}/").delete()])
        return
    path = Path(os.path.abspath(uri))
    grave = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PARTIAL}")
    with _disk(path):
        if path.exists():
            os.rename(path, grave)
            shutil.rmtree(grave) if grave.is_dir() else grave.unlink()


def _is_free(uri: str, plan: Manifest) -> bool:
    """Whether a new artifact may go to `uri`: False if a whole one made the same way is there; others are refused."""
    if not has_artifact(uri):
        if not is_remote(uri) and list_names(uri):
            raise StorageError("uri", uri, "is not empty and holds no artifact", "Give another path, or delete it.")
        return True
    try:
        found = read_manifest(uri)
        changed = [name for name in ("kind", "config", "inputs") if getattr(found, name) != getattr(plan, name)]
        if changed:
            rule = f"already holds an artifact ({found.kind}) made with another {', '.join(changed)}"
            raise StorageError("uri", uri, rule, "Give this run another name, or delete the artifact.")
        return not open_artifact(uri)
    except DamagedArtifact:
        return True


def _publish(path: Path, uri: str, names: list[str]) -> None:
    if not is_remote(uri):
        delete(uri)
        os.rename(path, uri)
        return _sync(Path(uri).absolute().parent)

    def upload(name: str) -> None:
        _s3(join(uri, name), lambda bucket, key: bucket.upload_file(str(path / name), key))

    for name in names:  # the manifest last
        upload(name)


def _download(uri: str, manifest: Manifest) -> Path:
    """Bring an artifact to this node once; the copy is checked each time like any other directory."""
    target = _cache() / manifest.digest
    with _scratch(target) as path:  # a lock too: of several processes on a node one downloads
        if target.exists():
            try:
                return _verified(target, manifest)
            except DamagedArtifact:
                shutil.rmtree(target)
        for name, expected in manifest.files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            _download_file(join(uri, name), path / name, expected)
        (path / MANIFEST).write_bytes(manifest.to_json())
        os.rename(path, target)
    return target


def _download_file(uri: str, path: Path, expected: dict[str, Any]) -> None:
    def once(bucket: Any, key: str) -> None:
        bucket.download_file(key, str(path))
        if _measure(path) != expected:
            raise DamagedArtifact("file", uri, "its size or sha256 is not the one in the manifest", REMAKE)

    try:
        _s3(uri, once)
    except FileNotFoundError as error:
        raise DamagedArtifact("file", uri, "is in the manifest but not there", REMAKE) from error


def _measure(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _measure_all(directory: Path) -> dict[str, dict[str, Any]]:
    """Every file but the manifest. Links are refused: what they point to may change."""
    paths = [path for path in sorted(directory.rglob("*")) if path != directory / MANIFEST]
    for path in paths:
        if path.is_symlink():
            raise StorageError("file", path, "is a link; artifacts hold plain files only", "Copy what it points to.")
    return {path.relative_to(directory).as_posix(): _measure(path) for path in paths if path.is_file()}


def _verified(directory: Path, manifest: Manifest) -> Path:
    """Files that the manifest does not name are refused too: a reader that lists the directory would take them in."""
    found, expected = _measure_all(directory), manifest.files
    wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    if wrong:
        raise DamagedArtifact("artifact", directory, f"missing, added or changed: {', '.join(wrong)}", REMAKE)
    return directory


def _get(uri: str) -> bytes | None:
    """The bytes of one small object; None when there is none."""
    try:
        if is_remote(uri):
            return bytes(_s3(uri, lambda bucket, key: bucket.Object(key).get()["Body"].read()))
        with _disk(Path(uri)):
            return Path(uri).read_bytes()
    except FileNotFoundError:
        return None


def _s3(uri: str, call: Callable[[Any, str], Any]) -> Any:
    """Call with bucket and key. Bodies that were cut, changed or stalled are read again, with full jitter."""
    name, _, key = uri.removeprefix("s3://").partition("/")
    bucket = _resource(os.environ.get("AWS_ENDPOINT_URL_S3"), threading.get_ident()).Bucket(name)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return call(bucket, key.strip("/"))
        except (aws.ClientError, aws.BotoCoreError, Boto3Error, DamagedArtifact) as error:
            if attempt < ATTEMPTS and isinstance(error, (*_CUT, *_CHANGED)):
                time.sleep(random.uniform(0, min(10, 0.1 * 2**attempt)))
            elif isinstance(error, DamagedArtifact):
                raise
            elif isinstance(error, aws.ClientError) and error.response["Error"]["Code"] in ("404", "NoSuchKey"):
                raise FileNotFoundError(uri) from error
            else:
                remedy = "Check the bucket, your rights on it, AWS_ENDPOINT_URL_S3 and the credentials."
                raise StorageError("uri", uri, f"S3: {error}", remedy) from error


@functools.cache
def _resource(endpoint: str | None, thread: int) -> Any:
    """One per thread, as boto3 demands, and per endpoint."""
    settings = Config(connect_timeout=5, read_timeout=60, retries={"mode": "standard", "max_attempts": 5})
    return boto3.session.Session().resource("s3", endpoint_url=endpoint, config=settings)


def _cache() -> Path:
    """Where this node keeps its copies of what is on S3."""
    return Path(os.environ.get("MEMLM_CACHE") or Path.home() / ".cache" / "memlm").absolute()


@contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """The temporary directory beside `target`: one writer at a time, and what a killed one left is cleared."""
    path = target.with_name(f".{target.name}{PARTIAL}")
    with _disk(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f"{path.name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                if path.exists():
                    shutil.rmtree(path)
                path.mkdir()
                yield path
            finally:
                shutil.rmtree(path, ignore_errors=True)  # it has been renamed when all went well


@contextmanager
def _disk(path: Path) -> Iterator[None]:
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


def _encode(field: str, value: Any) -> bytes:
    """Strict JSON. Scalars of NumPy and torch become floats."""
    try:
        return json.dumps(value, allow_nan=False, default=float, indent=1, sort_keys=True).encode()
    except (TypeError, ValueError) as error:
        remedy = "Use finite numbers, strings, lists and dicts."
        raise StorageError(field, repr(value), f"is not JSON ({error})", remedy) from error


def _plain(field: str, value: Any) -> Any:
    """The value as it will be read back: tuples become lists."""
    return json.loads(_encode(field, value))


def _sync(path: Path) -> None:
    """Force a file or a directory to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
