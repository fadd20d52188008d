"""Which objects lie below a prefix on S3, and which bytes are they? As the store itself lists them, at any depth.

Beside `storage`, which knows artifacts of our own: these objects are other people's, and may change.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import boto3
from botocore import exceptions as aws
from botocore.config import Config

from memlm.storage import StorageError

T = TypeVar("T")


@dataclass(frozen=True)
class StoredObject:
    name: str
    """Below the prefix that was listed."""
    bytes: int
    etag: str
    """Another one means other content."""


def list_objects(uri: str) -> list[StoredObject]:
    """All objects at or below `s3://bucket/prefix`, in the order of their keys. Raises StorageError."""
    bucket, prefix = _parts(uri)

    def all_pages(client: Any) -> list[StoredObject]:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/" if prefix else "")
        start = len(prefix) + 1 if prefix else 0
        return [
            StoredObject(found["Key"][start:], found["Size"], found["ETag"].strip('"'))
            for page in pages
            for found in page.get("Contents", [])
        ]

    return _call(uri, all_pages)


def stat_object(uri: str) -> StoredObject:
    """What lies at `uri` now. Raises StorageError, also if nothing does."""
    bucket, key = _parts(uri)
    found = _call(uri, lambda client: client.head_object(Bucket=bucket, Key=key))
    return StoredObject(key.rpartition("/")[2], found["ContentLength"], found["ETag"].strip('"'))


def _parts(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key.strip("/")


def _call(uri: str, call: Callable[[Any], T]) -> T:
    settings = Config(connect_timeout=5, read_timeout=60, retries={"mode": "standard", "max_attempts": 8})
    client = boto3.session.Session().client("s3", endpoint_url=os.environ.get("AWS_ENDPOINT_URL_S3"), config=settings)
    try:
        return call(client)
    except (aws.ClientError, aws.BotoCoreError) as error:
        remedy = "Check the bucket, the name, your rights on it, AWS_ENDPOINT_URL_S3 and the credentials."
        raise StorageError("uri", uri, f"S3: {error}", remedy) from error
