"""Every class of fault, in uploads and downloads, of small objects and of parts."""

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from memlm import storage
from memlm.storage import StorageError, retries
from memlm.storage.s3 import client as s3
from memlm.storage.s3 import transfer
from tests.support.faults import FAULTS, FaultyProxy, plain_client

PART = 64 << 10
EVERY_FAULT = [pytest.param(fault, marks=[pytest.mark.slow] if fault == "slow" else []) for fault in FAULTS]


@pytest.fixture(autouse=True)
def small_parts_and_few_retries(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(transfer, "PART_BYTES", PART)
    changed = retries.RetryPolicy(attempts=12, silence_seconds=0.8, min_bytes_per_second=50_000)
    with retries.using_policy(changed):
        yield


def stored(proxy: FaultyProxy, uri: str) -> bytes:
    bucket, key = s3.split(uri)
    return plain_client(proxy).get_object(Bucket=bucket, Key=key)["Body"].read()


def unfinished(proxy: FaultyProxy, bucket: str) -> list[str]:
    listed = plain_client(proxy).list_multipart_uploads(Bucket=s3.split(bucket)[0])
    return [upload["Key"] for upload in listed.get("Uploads", [])]


@pytest.mark.parametrize("fault", EVERY_FAULT)
@pytest.mark.parametrize("on", ["?uploads", "partNumber=2", "POST /", "HEAD"])
def test_a_large_file_is_uploaded_intact(bucket: str, proxy: FaultyProxy, tmp_path: Path, fault: str, on: str) -> None:
    """`on` is the request that fails: the beginning of an upload, a part, its end (and beginning),
    a check."""
    if on == "HEAD" and fault in ("flip_up", "flip_down"):
        return  # has no bodies
    (tmp_path / "file").write_bytes(body := os.urandom(3 * PART + 17))
    proxy.plan(only=on, planned=[fault, fault] if on == "POST /" else [fault])
    transfer.upload({f"{bucket}/file": tmp_path / "file"})
    assert stored(proxy, f"{bucket}/file") == body


@pytest.mark.parametrize("fault", EVERY_FAULT)
def test_a_large_file_is_downloaded_intact(bucket: str, proxy: FaultyProxy, tmp_path: Path, fault: str) -> None:
    (tmp_path / "file").write_bytes(body := os.urandom(3 * PART + 17))
    transfer.upload({f"{bucket}/file": tmp_path / "file"})
    for sha256 in (hashlib.sha256(body).hexdigest(), None):  # with a manifest's digest, and without one
        proxy.plan(only="GET", planned=[fault] * 3)
        assert transfer.download(f"{bucket}/file", tmp_path / "came", sha256)
        assert (tmp_path / "came").read_bytes() == body
        assert proxy.injected[fault] == 3 or fault == "flip_up"


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 3 * PART])
def test_sizes_around_the_part_size(bucket: str, proxy: FaultyProxy, tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(body := os.urandom(size))
    transfer.upload({f"{bucket}/file": tmp_path / "file"})
    assert transfer.download(f"{bucket}/file", tmp_path / "came", hashlib.sha256(body).hexdigest())
    assert (tmp_path / "came").read_bytes() == stored(proxy, f"{bucket}/file") == body


def test_damage_at_rest_is_told_from_damage_in_transit(bucket: str, proxy: FaultyProxy, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(body := os.urandom(3 * PART))
    transfer.upload({f"{bucket}/file": tmp_path / "file"})
    changed = bytearray(body)
    changed[PART + 5] ^= 4
    plain_client(proxy).put_object(Bucket=s3.split(bucket)[0], Key="file", Body=bytes(changed))
    proxy.plan(only="GET", planned=["flip_down"])
    assert not transfer.download(f"{bucket}/file", tmp_path / "came", hashlib.sha256(body).hexdigest())
    assert (tmp_path / "came").read_bytes() == bytes(changed)
    assert proxy.requests <= 12  # not all attempts are spent on it


@pytest.mark.parametrize("fault", EVERY_FAULT)
def test_small_objects(bucket: str, proxy: FaultyProxy, fault: str) -> None:
    uri = f"{bucket}/x.json"
    proxy.plan(planned=[fault])
    storage.write_json(uri, {"a": 1})
    assert stored(proxy, uri) == b'{\n "a": 1\n}'
    proxy.plan(planned=[fault, fault])
    assert storage.read_json(uri) == {"a": 1}
    proxy.plan(planned=[fault, fault])
    assert storage.list_names(bucket) == ["x.json"]
    proxy.plan(planned=[fault, fault])
    storage.delete(uri)
    proxy.plan()
    assert storage.list_names(bucket) == []


@pytest.mark.parametrize("fault", EVERY_FAULT)
def test_no_fault_loses_or_doubles_a_conditional_write(bucket: str, proxy: FaultyProxy, fault: str) -> None:
    uri = f"{bucket}/x"
    proxy.plan(planned=[fault])
    assert s3.create(uri, b"first")
    assert stored(proxy, uri) == b"first"
    proxy.plan(planned=[fault])
    assert not s3.create(uri, b"second")
    version = plain_client(proxy).head_object(Bucket=s3.split(uri)[0], Key="x")["ETag"]
    proxy.plan(planned=[fault])
    assert s3.replace(uri, b"third", version)
    proxy.plan(planned=[fault])
    assert not s3.replace(uri, b"fourth", version)
    assert stored(proxy, uri) == b"third"
    assert not s3.replace(f"{bucket}/none", b"x", version)


def test_a_corrupted_write_without_acknowledgement_is_repaired(bucket: str, proxy: FaultyProxy) -> None:
    """Two faults at once: the stored object is nobody's body, but carries our metadata."""
    uri = f"{bucket}/x"
    proxy.plan(planned=["flip_up+lost"])
    assert s3.create(uri, b"first" * 9)
    assert stored(proxy, uri) == b"first" * 9
    version = plain_client(proxy).head_object(Bucket=s3.split(uri)[0], Key="x")["ETag"]
    proxy.plan(planned=["flip_up+lost"])
    assert s3.replace(uri, b"second" * 9, version)
    assert stored(proxy, uri) == b"second" * 9


@pytest.mark.parametrize("changed", [b"<IsTruncated>", b"<MaxKeys>1", b"<Contents>", b"<Key>"])
def test_an_unreadable_listing_is_retried(bucket: str, proxy: FaultyProxy, changed: bytes) -> None:
    """Whatever error the SDK raises: its parser's own, or that of int() for '1p00'."""
    storage.write_json(f"{bucket}/x.json", 1)
    proxy.plan(only="list-type", planned=["flip_down"])
    proxy.flips_after = changed
    assert storage.list_names(bucket) == ["x.json"]
    assert proxy.injected == {"flip_down": 1}


def test_a_garbled_answer_about_a_vanished_upload(bucket: str, proxy: FaultyProxy, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(body := os.urandom(3 * PART))
    upload = transfer._Upload(f"{bucket}/file", tmp_path / "file", 3 * PART)
    upload.begin()
    plain_client(proxy).abort_multipart_upload(Bucket=s3.split(bucket)[0], Key="file", UploadId=upload.id)
    proxy.plan(only="PUT", planned=["flip_down"])
    proxy.flips_after = b"<Error"
    upload.send(0)
    assert upload.is_gone and not upload.finish()
    assert proxy.injected == {"flip_down": 1}
    transfer.upload({f"{bucket}/file": tmp_path / "file"})
    assert stored(proxy, f"{bucket}/file") == body


def test_every_reader_notices_a_corrupted_upload(bucket: str, proxy: FaultyProxy, tmp_path: Path) -> None:
    """Holds even where the checksum matches the content, because the store itself received the
    changed body."""
    place = {"Bucket": s3.split(bucket)[0], "Key": "x.json"}
    storage.write_json(f"{bucket}/x.json", {"a": 1})
    sent = plain_client(proxy).head_object(**place)["Metadata"]
    plain_client(proxy).put_object(**place, Body=b'{"a": 2}', Metadata=sent)
    for use in (storage.read_json, lambda uri: storage.local_file(uri).__enter__()):
        with pytest.raises(storage.DamagedArtifact, match="x.json: differs from what was written"):
            use(f"{bucket}/x.json")


def test_a_conflict_of_two_commits_is_retried(bucket: str, proxy: FaultyProxy) -> None:
    proxy.plan(planned=["409", "409"])
    assert s3.create(f"{bucket}/x", b"ours")
    assert proxy.injected == {"409": 2}


def test_an_unfinished_upload_leaves_no_parts_behind(bucket: str, proxy: FaultyProxy, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(os.urandom(3 * PART))
    proxy.plan(only="partNumber=3", answer=(403, "AccessDenied", {}))
    with pytest.raises(StorageError, match="no right"):
        transfer.upload({f"{bucket}/file": tmp_path / "file"})
    proxy.plan()
    assert unfinished(proxy, bucket) == []


def test_delete_aborts_only_unfinished_uploads_below_it(bucket: str, proxy: FaultyProxy) -> None:
    for key in ("run/model/weights", "run/model2/weights"):
        plain_client(proxy).create_multipart_upload(Bucket=s3.split(bucket)[0], Key=key)
    storage.delete(f"{bucket}/run/model")
    assert unfinished(proxy, bucket) == ["run/model2/weights"]


def test_a_file_overwritten_while_it_is_read_is_never_a_mixture(
    bucket: str, proxy: FaultyProxy, tmp_path: Path
) -> None:
    old, new = (bytes([number]) * (2 * PART) for number in range(2))
    place = {"Bucket": s3.split(bucket)[0], "Key": "file"}
    plain_client(proxy).put_object(**place, Body=old)
    download = transfer.Download(f"{bucket}/file", tmp_path / "came")
    download.begin()
    download.fetch(0)
    plain_client(proxy).put_object(**place, Body=new)
    with pytest.raises(s3.PreconditionFailed):
        download.fetch(PART)
    assert transfer.download(f"{bucket}/file", tmp_path / "came")
    assert (tmp_path / "came").read_bytes() == new


def test_a_body_corrupted_at_every_attempt_is_detected_at_the_end(
    bucket: str, proxy: FaultyProxy, tmp_path: Path
) -> None:
    """After several attempts the ETag is assumed not to be an MD5, and the object is read back."""
    (tmp_path / "file").write_bytes(body := os.urandom(1000))
    proxy.plan(only="PUT", planned=["flip_up"] * (transfer.MAX_RESENDS + 1))
    transfer.upload({f"{bucket}/file": tmp_path / "file"})
    assert stored(proxy, f"{bucket}/file") == body
    assert proxy.injected == {"flip_up": transfer.MAX_RESENDS + 1}


def test_retries_end(bucket: str, proxy: FaultyProxy) -> None:
    proxy.plan(share=1, faults=("503",))
    with retries.using_policy(retries.RetryPolicy(attempts=3)), pytest.raises(StorageError, match="SlowDown"):
        storage.list_names(bucket)
    assert proxy.requests == 3
    proxy.plan(share=1, faults=("503",))
    with retries.using_policy(retries.RetryPolicy(deadline_seconds=0)), pytest.raises(StorageError, match="SlowDown"):
        storage.list_names(bucket)
    assert proxy.requests == 1
