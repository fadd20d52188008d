"""List other people's objects below a prefix on S3, and identify their content.

They are not memlm's, so they have no manifest and may change. The store's own name, size and etag
have to suffice.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class StoredObject:
    name: str
    """Relative to the prefix that was listed."""
    bytes: int
    etag: str
    """Changes whenever the content does."""


def list_objects(uri: str) -> list[StoredObject]:
    """All objects at or below `s3://bucket/prefix`, at any depth, in the order of their keys.
    Raises StorageError."""
    from memlm.storage.s3 import client as s3  # imports boto3, which only S3 needs

    _, key = s3.split(uri)
    start = len(key) + 1 if key else 0
    pages = s3.pages(uri, Prefix=key and f"{key}/")
    return [
        StoredObject(found["Key"][start:], int(found["Size"]), found["ETag"].strip('"'))
        for page in pages
        for found in page.get("Contents", [])
    ]


def stat_object(uri: str) -> StoredObject | None:
    """The object at `uri` now, or None. Raises StorageError if the store cannot be asked."""
    from memlm.storage.s3 import client as s3

    try:
        found = s3.request(uri, s3.head)
    except FileNotFoundError:
        return None
    return StoredObject(s3.split(uri)[1].rpartition("/")[2], int(found["ContentLength"]), found["ETag"].strip('"'))
