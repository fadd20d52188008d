"""Places: a local path, or `s3://bucket/prefix`."""

import os

from memlm.storage.errors import StorageError

PARTIAL = ".partial"  # part of the hidden names of unfinished files; never listed


def is_remote(uri: str) -> bool:
    """Whether `uri` is on S3. Every function calls this first, so an unknown scheme never becomes
    a directory."""
    if not uri or ("://" in uri and not uri.startswith("s3://")) or uri.startswith("s3:///"):
        raise StorageError("uri", repr(uri), "must be a local path or s3://bucket/prefix", "Correct it.")
    if "\0" in uri:
        raise StorageError("uri", repr(uri), "holds a NUL character, which no path can", "Correct it.")
    if not uri.startswith("s3://"):
        return False
    if any(part in (".", "..") for part in uri.split("/")):
        raise StorageError("uri", repr(uri), "must not contain '.' or '..': S3 has no folders", "Write out the prefix.")
    return True


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
