"""Manifests of artifacts: how each was made, from which inputs, and every file's size and
sha256."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from memlm.outside import reading
from memlm.storage.errors import REMAKE, DamagedArtifact, StorageError
from memlm.storage.places import join

MANIFEST = "manifest.json"
README = "README.md"
"""A note for people in an artifact's folder. They may change it, so no manifest lists it and no
reader treats it as part of the artifact."""
FORMAT = 2
"""The format that is written. Format 1 can still be read, but has no digest of the details."""
ADOPTED = "adopted"
"""Config key of a folder that was adopted in place: the kind of model that somebody else wrote
there."""
_FIELDS = ("kind", "config", "inputs", "files")
_BEGINNING = b'{\n "config": '
"""Beginning of every manifest that memlm writes, so that a truncated or changed one can still be
distinguished from another program's."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    kind: str
    config: dict[str, Any]
    inputs: dict[str, str]
    files: dict[str, dict[str, Any]]  # name below the artifact -> bytes, sha256
    details: dict[str, Any] = field(default_factory=dict)
    """Timings and counts. They have their own digest, because the artifact's identity does not
    depend on them."""
    format: int = FORMAT
    """Format of the file. Format 1 does not name itself and has no digest of the details."""

    @property
    def digest(self) -> str:
        """Digest that identifies the artifact, the same in every format."""
        return digest_of({name: getattr(self, name) for name in _FIELDS})

    @property
    def is_adopted(self) -> bool:
        """Whether memlm found the files instead of writing them, so that it must neither replace
        nor remove any."""
        return ADOPTED in self.config and not self.inputs

    def to_json(self) -> bytes:
        content = {**vars(self), "digest": self.digest, "details_digest": digest_of(self.details)}
        if self.format == 1:
            del content["format"], content["details_digest"]
        return encode("manifest", content)


def digest_of(content: Mapping[str, Any]) -> str:
    """SHA-256 of plain JSON, independent of the order of its fields."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def is_ours(body: bytes) -> bool:
    """Whether memlm wrote this manifest, as far as one can tell if it is damaged."""
    if body.startswith(_BEGINNING) or _BEGINNING.startswith(body):
        return True
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return False
    if not content:  # it is empty, so nothing is lost with it
        return True
    return isinstance(content, dict) and content.keys() >= {*_FIELDS, "digest"}


def parse(body: bytes, uri: str) -> Manifest:
    """The manifest of the artifact `uri`. Raises DamagedArtifact if it is not a manifest, or not as
    it was written."""

    def refuse(reason: str) -> DamagedArtifact:
        return DamagedArtifact("artifact", uri, f"{MANIFEST} is not a manifest ({reason})", REMAKE)

    with reading(refuse):
        content = json.loads(body)
        digest, details_digest = content.pop("digest"), content.pop("details_digest", None)
        manifest = Manifest(**{"format": 1, **content})
        try:
            join(uri, *manifest.files)
        except StorageError as error:  # a name that leads out of the artifact
            raise refuse(str(error)) from error
        fields = (manifest.config, manifest.inputs, manifest.files, manifest.details, *manifest.files.values())
        if not isinstance(manifest.kind, str) or not all(isinstance(field, dict) for field in fields):
            raise refuse("its fields have wrong types")
        if manifest.format not in range(1, FORMAT + 1):
            rule = f"{MANIFEST} has format {manifest.format!r}, and this memlm reads 1 to {FORMAT}"
            raise DamagedArtifact("artifact", uri, rule, "Use the memlm that wrote it, or a newer one.")
        expected, expected_details = manifest.digest, digest_of(manifest.details)
    if digest != expected:
        raise DamagedArtifact("artifact", uri, f"{MANIFEST} does not match its own digest", REMAKE)
    if details_digest != (expected_details if manifest.format > 1 else None):
        raise DamagedArtifact("artifact", uri, f"the details in {MANIFEST} do not match their digest", REMAKE)
    return manifest


def encode(field: str, value: Any) -> bytes:
    """Strict JSON. Scalars of NumPy and torch become floats."""
    try:
        return json.dumps(value, allow_nan=False, default=float, indent=1, sort_keys=True).encode()
    except (TypeError, ValueError) as error:
        remedy = "Use finite numbers, strings, lists and dicts."
        raise StorageError(field, repr(value), f"is not JSON ({error})", remedy) from error


def plain(field: str, value: Any) -> Any:
    """The value as JSON would return it: tuples become lists."""
    return json.loads(encode(field, value))
