"""Commits in the presence of other writers, faults and kills."""

import json
import os
from pathlib import Path

import pytest

from memlm import storage
from memlm.storage import DamagedArtifact, StorageError, local
from memlm.storage.s3 import client as s3
from tests.support.faults import FAULTS, FaultyProxy, plain_client


def write(uri: str, text: str, config: int = 1) -> None:
    with storage.write_artifact(uri, kind="k", config={"seed": config}) as draft:
        (draft.path / "file").write_text(text)


def text_of(uri: str) -> str:
    return (storage.open_artifact(uri) / "file").read_text()


def keys(proxy: FaultyProxy, bucket: str) -> list[str]:
    listed = plain_client(proxy).list_objects_v2(Bucket=s3.split(bucket)[0])
    return [item["Key"] for item in listed.get("Contents", [])]


@pytest.mark.parametrize("fault", FAULTS)
def test_no_fault_at_the_manifest_loses_or_doubles_a_commit(bucket: str, proxy: FaultyProxy, fault: str) -> None:
    proxy.stall_seconds = 0.2  # then the connection is closed
    proxy.plan(only="model/manifest.json", planned=["", "", fault, fault])  # after two checks that the name is free
    write(f"{bucket}/model", "ours")
    assert sum(proxy.injected.values()) >= 1
    proxy.plan()
    assert text_of(f"{bucket}/model") == "ours"
    assert len(keys(proxy, bucket)) == 2


@pytest.mark.parametrize("config", [1, 2])
def test_a_rival_that_commits_at_the_last_moment(
    bucket: str, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, config: int
) -> None:
    """The rival's whole commit happens between our last check and our write, so ours must give
    way."""
    uri, create, met = f"{bucket}/model", s3.create, []

    def after_the_rival(place: str, body: bytes) -> bool:
        if not met:
            met.append(place)
            with monkeypatch.context() as other_node:
                other_node.setenv("MEMLM_CACHE", str(tmp_path / "other"))
                write(uri, "rival", config)
        return create(place, body)

    monkeypatch.setattr(s3, "create", after_the_rival)
    if config == 1:
        write(uri, "ours")
    else:
        with pytest.raises(StorageError, match="already holds an artifact .* another config"):
            write(uri, "ours")
    assert text_of(uri) == "rival"
    assert len(keys(proxy, bucket)) == 3  # our files stay next to it, unread,
    storage.delete(uri)
    assert keys(proxy, bucket) == []  # until it is deleted


def test_a_damaged_manifest_is_replaced_once(bucket: str, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    write(f"{bucket}/model", "first")
    plain_client(proxy).put_object(Bucket=s3.split(bucket)[0], Key="model/manifest.json", Body=b"{}")
    with pytest.raises(DamagedArtifact, match="is not a manifest"):
        storage.open_artifact(f"{bucket}/model")
    replaced = []

    def spy(uri: str, body: bytes, version: str, replace=s3.replace) -> bool:
        replaced.append(version)
        return replace(uri, body, version)

    monkeypatch.setattr(s3, "replace", spy)
    write(f"{bucket}/model", "second")
    assert text_of(f"{bucket}/model") == "second"
    assert replaced == ['"99914b932bd37a50b983c5e7c90ae93b"']  # the MD5 of {}


def test_files_on_s3_equal_the_directory_that_was_written(bucket: str, proxy: FaultyProxy) -> None:
    with storage.write_artifact(f"{bucket}/model", kind="k", config={}) as draft:
        (draft.path / "config.json").write_text("{}")
        (draft.path / "part").mkdir()
        (draft.path / "part" / "weights").write_text("w")
    digest = storage.read_manifest(f"{bucket}/model").digest
    folder = f"model/content-{digest[:16]}"
    assert keys(proxy, bucket) == [f"{folder}/config.json", f"{folder}/part/weights", "model/manifest.json"]
    assert storage.list_names(bucket) == ["model"]


def test_delete_removes_remains_of_killed_writers_and_nothing_else(tmp_path: Path) -> None:
    write(str(tmp_path / "a"), "x")
    left = f".a.{'0' * 32}{local.TEMPORARY}"
    for name in (left, ".a.partial", ".a.b.partial", ".ab.partial"):
        (tmp_path / name).mkdir()
    storage.delete(str(tmp_path / "a"))
    assert sorted(os.listdir(tmp_path)) == [".a.b.partial", ".ab.partial"]
    assert storage.list_names(str(tmp_path)) == []


def test_delete_spares_an_artifact_that_is_being_written(tmp_path: Path) -> None:
    uri = str(tmp_path / "a")
    with storage.write_artifact(uri, kind="k", config={}) as draft:
        (draft.path / "file").write_text("x")
        storage.delete(uri)
    assert text_of(uri) == "x"


def test_no_locks_stay(tmp_path: Path) -> None:
    write(str(tmp_path / "a"), "x")
    local.create(str(tmp_path / "b"), b"b")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_conditional_writes_on_a_disk(tmp_path: Path) -> None:
    uri = str(tmp_path / "folder" / "x")
    assert local.create(uri, b"first") and not local.create(uri, b"second")
    found = local.read(uri)
    assert found is not None and found.body == b"first"
    assert local.replace(uri, b"third", found.version) and not local.replace(uri, b"fourth", found.version)
    assert Path(uri).read_bytes() == b"third"
    assert not local.replace(str(tmp_path / "none"), b"x", found.version)
    assert os.listdir(tmp_path / "folder") == ["x"]


def test_a_read_only_folder_can_be_read(tmp_path: Path) -> None:
    """Reading creates no file next to the one that is read."""
    storage.write_json(str(tmp_path / "x.json"), 1)
    before = os.stat(tmp_path).st_mtime_ns
    assert storage.read_json(str(tmp_path / "x.json")) == 1
    assert os.stat(tmp_path).st_mtime_ns == before


def test_a_bit_flip_at_rest_is_reported(bucket: str, proxy: FaultyProxy) -> None:
    write(f"{bucket}/model", "text")
    client, name = plain_client(proxy), s3.split(bucket)[0]
    body = json.loads(client.get_object(Bucket=name, Key="model/manifest.json")["Body"].read())
    client.put_object(Bucket=name, Key="model/manifest.json", Body=json.dumps({**body, "config": {"seed": 2}}).encode())
    with pytest.raises(DamagedArtifact, match="does not match its own digest"):
        storage.open_artifact(f"{bucket}/model")
