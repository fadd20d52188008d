"""Small files that results rest on and no manifest names: a trial of the ledger, how long a
stage took.

Each is a JSON object with the digest of all else that it holds, so that a number that was
changed is noticed. Those without one are of runs made before records had digests, and are read
as they are.
"""

from collections.abc import Mapping
from typing import Any

from memlm.storage.errors import REMAKE, DamagedArtifact
from memlm.storage.manifests import digest_of, plain
from memlm.storage.objects import read_json, write_json

DIGEST = "digest"


def write_record(uri: str, record: Mapping[str, Any]) -> None:
    """A reader sees the old one or the new one."""
    content = plain("record", dict(record))
    write_json(uri, {**content, DIGEST: digest_of(content)})


def read_record(uri: str) -> dict[str, Any]:
    """Raises StorageError where nothing is there, DamagedArtifact where it is not what was
    written."""
    content = read_json(uri)
    if not isinstance(content, dict):
        raise DamagedArtifact("record", uri, f"is a JSON {type(content).__name__}, not an object", REMAKE)
    digest = content.pop(DIGEST, None)
    if digest is not None and digest != digest_of(content):
        raise DamagedArtifact("record", uri, "does not match its own digest: it was changed or is damaged", REMAKE)
    return content
