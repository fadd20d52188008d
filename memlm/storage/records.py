"""Small files that results depend on but no manifest lists: a trial in the ledger, the duration of
a stage.

Each is a JSON object that includes a digest of its other fields, so that a changed number is
noticed. Records without a digest come from runs older than this format, and are read as they are.
"""

from collections.abc import Mapping
from typing import Any

from memlm.storage.errors import REMAKE, DamagedArtifact
from memlm.storage.manifests import digest_of, plain
from memlm.storage.objects import read_json, write_json

DIGEST = "digest"


def write_record(uri: str, record: Mapping[str, Any]) -> None:
    """Write a record. A reader sees the old one or the new one."""
    content = plain("record", dict(record))
    write_json(uri, {**content, DIGEST: digest_of(content)})


def read_record(uri: str) -> dict[str, Any]:
    """Read a record. Raises StorageError if it does not exist, DamagedArtifact if it differs from
    what was written."""
    content = read_json(uri)
    if not isinstance(content, dict):
        raise DamagedArtifact("record", uri, f"is a JSON {type(content).__name__}, not an object", REMAKE)
    digest = content.pop(DIGEST, None)
    if digest is not None and digest != digest_of(content):
        raise DamagedArtifact("record", uri, "does not match its own digest: it was changed or damaged", REMAKE)
    return content
