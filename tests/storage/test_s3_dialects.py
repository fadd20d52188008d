"""Variants of S3: proxies that omit the size of a body, and servers that refuse S3's checksum
headers."""

import hashlib
import os
from pathlib import Path

import pytest

from memlm import storage
from memlm.storage import StorageError, retries
from memlm.storage.s3 import client as s3
from memlm.storage.s3 import foreign, transfer
from tests.support.faults import FaultyProxy

PART = 64 << 10
CHECKSUM_HEADERS = ("x-amz-checksum-", "x-amz-sdk-checksum-", "x-amz-trailer")
"""Backblaze's error: "Unsupported header 'x-amz-checksum-crc32' received for this API call"."""


@pytest.fixture(params=["chunked", "undeclared", "no checksums", "no ranges"])
def store(request: pytest.FixtureRequest, bucket: str, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "no checksums":
        proxy.refuses = CHECKSUM_HEADERS
    elif request.param == "no ranges":
        proxy.drops, proxy.sizes = ("Range",), "chunked"
    else:
        proxy.sizes = request.param
    monkeypatch.setattr(transfer, "PART_BYTES", PART)
    return bucket


def test_the_store_can_be_relied_on(store: str) -> None:
    assert storage.probe(store).faults == []


@pytest.mark.parametrize("body", [b"", b"text"])
def test_small_objects(store: str, body: bytes) -> None:
    uri = f"{store}/x"
    assert storage.read_bytes(uri) is None
    storage.write_bytes(uri, body)
    assert storage.read_bytes(uri) == body
    with storage.local_file(uri) as path:
        assert path.read_bytes() == body
    assert not s3.create(uri, b"other")
    found = s3.read(uri)
    assert found is not None and s3.replace(uri, b"new", found.version) and storage.read_bytes(uri) == b"new"
    assert storage.list_names(store) == ["x"]
    assert foreign.stat_object(uri) == storage.StoredObject("x", 3, hashlib.md5(b"new").hexdigest())
    storage.delete(uri)
    assert foreign.stat_object(uri) is None


@pytest.mark.parametrize("size", [0, 1, PART, 3 * PART + 17])
def test_large_files(store: str, tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(body := os.urandom(size))
    transfer.upload({f"{store}/file": tmp_path / "file"})
    for sha256 in (hashlib.sha256(body).hexdigest(), None):
        assert transfer.download(f"{store}/file", tmp_path / "came", sha256)
        assert (tmp_path / "came").read_bytes() == body


def test_artifacts_and_leases(store: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with storage.lease(f"{store}/lease", owner="a"):
        with storage.write_artifact(f"{store}/model", kind="k", config={}) as draft:
            (draft.path / "weights").write_bytes(body := os.urandom(2 * PART))
    monkeypatch.setenv("MEMLM_CACHE", str(tmp_path / "another node"))
    assert (storage.open_artifact(f"{store}/model") / "weights").read_bytes() == body
    assert storage.acquire(f"{store}/lease", owner="b").epoch == 2


@pytest.mark.parametrize("fault", ["cut", "slow", "flip_down", "flip_up", "lost"])
def test_faults_in_transit_change_nothing(store: str, proxy: FaultyProxy, tmp_path: Path, fault: str) -> None:
    """If no size is given, a truncated body may look complete."""
    proxy.stall_seconds = 0.3
    (tmp_path / "file").write_bytes(body := os.urandom(2 * PART))
    proxy.plan(planned=[fault] * 2)
    with retries.using_policy(retries.RetryPolicy(silence_seconds=2)):
        storage.write_bytes(f"{store}/x", b"small")
        proxy.plan(only="GET", planned=[fault] * 2)
        assert storage.read_bytes(f"{store}/x") == b"small"
        transfer.upload({f"{store}/file": tmp_path / "file"})
        for sha256 in (hashlib.sha256(body).hexdigest(), None):
            proxy.plan(only="GET", planned=[fault] * 2)
            assert transfer.download(f"{store}/file", tmp_path / "came", sha256)
            assert (tmp_path / "came").read_bytes() == body


def test_every_body_has_a_checksum_that_all_stores_know(bucket: str, proxy: FaultyProxy, tmp_path: Path) -> None:
    proxy.checks_sums, proxy.refuses = True, CHECKSUM_HEADERS
    (tmp_path / "file").write_bytes(os.urandom(2 * PART))
    for write in (
        lambda: storage.write_bytes(f"{bucket}/x", b"text"),
        lambda: s3.create(f"{bucket}/y", b"text"),
        lambda: transfer.upload({f"{bucket}/file": tmp_path / "file"}),
    ):
        proxy.plan(only="PUT", planned=["flip_up"])
        write()
        assert proxy.injected == {"flip_up": 1, "BadDigest": 1}


def test_a_store_without_conditional_writes_is_reported_at_once(bucket: str, proxy: FaultyProxy) -> None:
    proxy.plan(answer=(501, "NotImplemented", {}), only="PUT")
    with pytest.raises(StorageError, match="lacks a part of S3 that memlm needs.*conditional writes"):
        storage.probe(bucket)
    assert proxy.requests <= 3


def test_leases_work_on_a_store_that_gives_no_times(bucket: str, proxy: FaultyProxy) -> None:
    proxy.hides = ("Date", "Last-Modified")
    uri = f"{bucket}/lease.json"
    storage.acquire(uri, owner="dead", ttl_seconds=1)
    assert storage.acquire(uri, owner="next", wait_seconds=1).epoch == 2


def test_a_missing_part_of_an_answer_is_named() -> None:
    message = str(s3.explain_error(KeyError("ETag"), "s3://bucket/x"))
    assert message.startswith("uri s3://bucket/x: S3: its answer has no 'ETag'. Check ")
