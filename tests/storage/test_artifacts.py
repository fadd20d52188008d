import errno
import json
import multiprocessing
import os
import pickle
import signal
import threading
from pathlib import Path

import pytest

from memlm import storage
from memlm.storage import DamagedArtifact, StorageError
from tests.support.faults import FaultyProxy, plain_client


def write(uri: str, text: str = "blocks", **changes: object) -> None:
    settings: dict = {"kind": "blocks", "config": {"seed": 1, "sizes": (2, 3)}, "inputs": {"corpus": "abc"}, **changes}
    with storage.write_artifact(uri, **settings) as draft:
        (draft.path / "part").mkdir()
        (draft.path / "part" / "0.bin").write_text(text)
        (draft.path / "vocabulary.txt").write_text("words")
        draft.details["seconds"] = 1.5


def place_of(proxy: FaultyProxy, uri: str, name: str) -> dict[str, str]:
    """Location of an artifact's file on S3."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    listed = plain_client(proxy).list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/content-")
    [key] = [item["Key"] for item in listed["Contents"] if item["Key"].endswith(f"/{name}")]
    return {"Bucket": bucket, "Key": key}


def files_under(path: str | Path) -> set[str]:
    return {str(file.relative_to(path)) for file in Path(path).rglob("*") if file.is_file()}


def test_a_replaced_artifact_is_not_opened_by_its_old_digest(root: str) -> None:
    uri = storage.join(root, "checkpoint")
    write(uri, "weights")
    digest = storage.read_manifest(uri).digest
    assert (storage.open_artifact(uri, digest=digest) / "part" / "0.bin").read_text() == "weights"
    storage.delete(uri)
    write(uri, "other weights")
    for read in (storage.open_artifact, storage.read_manifest):
        with pytest.raises(
            StorageError, match=rf"checkpoint: was replaced: its digest is .*, but {digest[:16]} was expected"
        ):
            read(uri, kind="blocks", digest=digest)
    assert (storage.open_artifact(uri) / "part" / "0.bin").read_text() == "other weights"


def test_each_file_of_an_artifact_has_an_address_of_its_own(root: str) -> None:
    uri = storage.join(root, "corpus")
    write(uri)
    for name, content in {"part/0.bin": b"blocks", "vocabulary.txt": b"words"}.items():
        assert storage.read_bytes(storage.address_of_file(uri, name)) == content


def test_a_file_can_be_read_in_place_or_as_a_copy(root: str, proxy: FaultyProxy) -> None:
    uri = storage.join(root, "set.jsonl")
    storage.write_bytes(uri, b"line" * 5000)
    if storage.is_remote(uri):
        proxy.plan(only="GET", planned=["cut"])  # and the read is retried
    with storage.local_file(uri) as path:
        assert path.name == "set.jsonl"
        assert path.read_bytes() == b"line" * 5000
    assert path.exists() == (not storage.is_remote(uri))


def test_an_artifact_opened_temporarily_leaves_no_copy(root: str, tmp_path: Path) -> None:
    uri, kept = storage.join(root, "partial"), storage.join(root, "kept")
    write(uri)
    write(kept, text="other")
    copy = storage.open_artifact(kept)
    for _ in range(2):
        with storage.open_artifact_temporarily(uri, kind="blocks") as path:
            assert files_under(path) == {"part/0.bin", "vocabulary.txt", "manifest.json"}
        assert path.exists() == (not storage.is_remote(uri))
    assert files_under(copy) == files_under(storage.open_artifact(uri))
    with pytest.raises(RuntimeError), storage.open_artifact_temporarily(uri) as path:
        raise RuntimeError
    assert path.exists() == (not storage.is_remote(uri)) and copy.exists()
    assert [name for name in os.listdir(path.parent) if name.startswith(".")] == []


def test_the_last_reader_deletes_a_copy_and_a_half_deleted_one_is_downloaded_again(bucket: str) -> None:
    uri = f"{bucket}/state"
    write(uri)
    with storage.open_artifact_temporarily(uri) as first:
        with storage.open_artifact_temporarily(uri) as second:
            assert second == first
        assert files_under(first) == {"part/0.bin", "vocabulary.txt", "manifest.json"}
        (first / "manifest.json").unlink()  # as if a reader was killed while it deleted the copy
        with storage.open_artifact_temporarily(uri) as again:
            assert (again / "vocabulary.txt").read_text() == "words"
    assert not first.exists()


def test_a_missing_file_on_s3_is_reported(bucket: str) -> None:
    with pytest.raises(StorageError, match="none.jsonl: does not exist"):
        with storage.local_file(f"{bucket}/none.jsonl"):
            raise AssertionError("not reached")


def test_an_artifact_is_read_as_written(root: str) -> None:
    uri = storage.join(root, "blocks")
    assert not storage.has_artifact(uri)
    write(uri)
    path = storage.open_artifact(uri, kind="blocks")
    assert path.is_absolute()
    assert (path / "part" / "0.bin").read_text() == "blocks"
    assert files_under(path) == {"part/0.bin", "vocabulary.txt", "manifest.json"}
    manifest = storage.read_manifest(uri, "blocks")
    assert manifest.config == {"seed": 1, "sizes": [2, 3]}
    assert manifest.details == {"seconds": 1.5}
    assert manifest.files["vocabulary.txt"]["bytes"] == 5
    assert storage.list_names(root) == ["blocks"]


def test_digest_depends_on_content_but_not_on_details(tmp_path: Path) -> None:
    digests = []
    for number, (text, seconds) in enumerate([("a", 1.0), ("a", 2.0), ("b", 1.0)]):
        with storage.write_artifact(str(tmp_path / str(number)), kind="k", config={}) as draft:
            (draft.path / "file").write_text(text)
            draft.details["seconds"] = seconds
        digests.append(storage.read_manifest(str(tmp_path / str(number))).digest)
    assert digests[0] == digests[1] != digests[2]


def test_an_exception_leaves_nothing(root: str) -> None:
    uri = storage.join(root, "blocks")
    with pytest.raises(KeyError), storage.write_artifact(uri, kind="k", config={}) as draft:
        (draft.path / "file").write_text("half")
        raise KeyError("stop")
    assert not storage.has_artifact(uri)
    assert storage.list_names(root) == []
    assert not draft.path.exists()


def test_wrong_kind_is_refused(root: str) -> None:
    write(storage.join(root, "blocks"))
    with pytest.raises(StorageError, match="is of kind 'blocks', not 'counts'"):
        storage.open_artifact(storage.join(root, "blocks"), kind="counts")


def test_missing_artifact_is_named(root: str) -> None:
    with pytest.raises(StorageError, match=r"none: has no manifest.json.*Run its stage"):
        storage.open_artifact(storage.join(root, "none"))


@pytest.mark.parametrize("change", ["flip", "cut", "missing", "manifest", "not json"])
def test_damage_on_a_disk_is_found(tmp_path: Path, change: str) -> None:
    uri = str(tmp_path / "blocks")
    write(uri)
    file, manifest = Path(uri, "part", "0.bin"), Path(uri, "manifest.json")
    match change:
        case "flip":
            file.write_text("clocks")
        case "cut":
            file.write_text("block")
        case "missing":
            file.unlink()
        case "manifest":
            manifest.write_text(manifest.read_text().replace('"seed": 1', '"seed": 2'))
        case "not json":
            manifest.write_text(manifest.read_text()[:-9])
    with pytest.raises(DamagedArtifact, match="blocks"):
        storage.open_artifact(uri)
    write(uri)  # a damaged artifact may be remade
    assert (storage.open_artifact(uri) / "part" / "0.bin").read_text() == "blocks"


def test_a_manifest_cannot_lead_out_of_its_artifact(bucket: str, tmp_path: Path) -> None:
    entry = {"bytes": 3, "sha256": "0" * 64}
    manifest = storage.Manifest(kind="k", config={}, inputs={}, files={"../../evil": entry})
    storage.write_json(f"{bucket}/x/manifest.json", {**vars(manifest), "digest": manifest.digest})
    with pytest.raises(DamagedArtifact, match="leads out of"):
        storage.open_artifact(f"{bucket}/x")


def test_the_first_complete_artifact_stays(root: str) -> None:
    uri = storage.join(root, "blocks")
    write(uri, "first")
    write(uri, "again")
    assert (storage.open_artifact(uri) / "part" / "0.bin").read_text() == "first"


def test_another_config_is_refused_before_work(root: str) -> None:
    uri = storage.join(root, "blocks")
    write(uri)
    with pytest.raises(StorageError, match="made with another config.*another name"):
        with storage.write_artifact(uri, kind="blocks", config={"seed": 2}, inputs={"corpus": "abc"}):
            pytest.fail("the block must not be entered")


def test_a_directory_that_is_not_ours_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("three years")
    with pytest.raises(StorageError, match="is not empty and holds no artifact"):
        write(str(tmp_path))
    assert files_under(tmp_path) == {"thesis.tex"}


def test_values_json_cannot_hold_are_refused_before_work(tmp_path: Path) -> None:
    for config in ({"path": object()}, {"lr": float("nan")}):
        with pytest.raises(StorageError, match="config .* is not JSON"):
            write(str(tmp_path / "x"), config=config)


def test_links_and_empty_artifacts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is a link"):
        with storage.write_artifact(str(tmp_path / "x"), kind="k", config={}) as draft:
            (draft.path / "link").symlink_to("/etc/hostname")
    with pytest.raises(StorageError, match="no file was written"):
        with storage.write_artifact(str(tmp_path / "x"), kind="k", config={}):
            pass
    assert storage.list_names(str(tmp_path)) == []


def _die_while_writing(uri: str) -> None:
    with storage.write_artifact(
        uri, kind="blocks", config={"seed": 1, "sizes": (2, 3)}, inputs={"corpus": "abc"}
    ) as draft:
        (draft.path / "old.bin").write_text("left over")
        (draft.path / "manifest.json").write_text("{}")
        os.kill(os.getpid(), signal.SIGKILL)


def test_remains_of_a_killed_writer_are_no_artifact_and_the_next_writer_clears_them(tmp_path: Path) -> None:
    uri = str(tmp_path / "runs" / "blocks")
    writer = multiprocessing.get_context("fork").Process(target=_die_while_writing, args=(uri,))
    writer.start()
    writer.join()
    assert writer.exitcode == -signal.SIGKILL
    assert any("old.bin" in name for name in files_under(tmp_path))
    assert storage.list_names(str(tmp_path / "runs")) == []
    assert not storage.has_artifact(uri)
    write(uri)
    assert not any("old.bin" in name for name in files_under(tmp_path))
    assert files_under(storage.open_artifact(uri)) == {"part/0.bin", "vocabulary.txt", "manifest.json"}


def test_of_many_writers_at_once_one_wins_and_all_end(root: str) -> None:
    uri = storage.join(root, "blocks")
    threads = [threading.Thread(target=write, args=(uri, f"writer{n}")) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (storage.open_artifact(uri) / "part" / "0.bin").read_text().startswith("writer")


def test_a_full_disk_names_the_place_and_the_remedy(tmp_path: Path) -> None:
    uri = str(tmp_path / "blocks")
    with pytest.raises(StorageError, match=r"\.blocks\.partial: no space left\. Free some") as caught:
        with storage.write_artifact(uri, kind="k", config={}) as draft:
            (draft.path / "weights").symlink_to("/dev/full")
            (draft.path / "weights").write_text("0" * 10_000)
    assert isinstance(caught.value.__cause__, OSError) and caught.value.__cause__.errno == errno.ENOSPC
    assert not storage.has_artifact(uri)


def test_a_full_disk_is_recognised_in_a_library_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no space left"):
        with storage.write_artifact(str(tmp_path / "x"), kind="k", config={}):
            raise RuntimeError("I/O error: No space left on device (os error 28)")


def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Choose a directory"):
        write(str(tmp_path / "file" / "x"))


def test_json_round_trip_and_replacement(root: str) -> None:
    uri = storage.join(root, "ledger", "trial.json")
    for value in ({"a": [1, 2.5, None]}, {"a": "é"}):
        storage.write_json(uri, value)
        assert storage.read_json(uri) == value
    assert storage.list_names(storage.join(root, "ledger")) == ["trial.json"]
    with pytest.raises(StorageError, match="does not exist"):
        storage.read_json(storage.join(root, "other.json"))
    with pytest.raises(StorageError, match="is not JSON"):
        storage.write_json(uri, float("inf"))


def test_cut_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": ')
    with pytest.raises(StorageError, match="is not JSON"):
        storage.read_json(str(tmp_path / "x.json"))


def test_listed_names_are_sorted_and_not_nested(root: str) -> None:
    for name in ("b/1.json", "a.json", "b/2.json", "c"):
        storage.write_json(storage.join(root, name), 0)
    assert storage.list_names(root) == ["a.json", "b", "c"]
    assert storage.list_names(storage.join(root, "b")) == ["1.json", "2.json"]
    assert storage.list_names(storage.join(root, "absent")) == []


def test_delete_removes_the_tree_and_nothing_else(root: str) -> None:
    for name in ("step_1", "step_10"):
        write(storage.join(root, name))
    storage.delete(storage.join(root, "step_1"))
    storage.delete(storage.join(root, "absent"))
    assert storage.list_names(root) == ["step_10"]
    storage.open_artifact(storage.join(root, "step_10"))
    storage.write_json(storage.join(root, "one.json"), 1)
    storage.delete(storage.join(root, "one.json"))
    assert storage.list_names(root) == ["step_10"]


def test_a_bucket_is_never_deleted_whole(bucket: str) -> None:
    storage.write_json(f"{bucket}/a.json", 1)
    with pytest.raises(StorageError, match="whole bucket"):
        storage.delete(bucket)
    assert storage.list_names(bucket) == ["a.json"]


@pytest.mark.parametrize("fault", ["cut", "flip_down"])
def test_corrupted_bodies_are_read_again(bucket: str, proxy: FaultyProxy, fault: str) -> None:
    write(f"{bucket}/blocks", "x" * 100_000)
    proxy.plan(only="GET", planned=[fault] * 4)
    path = storage.open_artifact(f"{bucket}/blocks")
    assert proxy.injected == {fault: 4}
    assert (path / "part" / "0.bin").read_text() == "x" * 100_000


def test_reading_again_is_bounded(bucket: str, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    write(f"{bucket}/blocks")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    proxy.plan(only="GET", planned=["cut"] * 1000)
    with pytest.raises(StorageError, match="blocks"):
        storage.open_artifact(f"{bucket}/blocks")
    assert proxy.injected == {"cut": 2}


@pytest.mark.parametrize("change", ["changed", "gone"])
def test_damage_on_s3_is_found(bucket: str, proxy: FaultyProxy, change: str) -> None:
    write(f"{bucket}/blocks")
    s3, place = plain_client(proxy), place_of(proxy, f"{bucket}/blocks", "part/0.bin")
    s3.put_object(**place, Body=b"clocks") if change == "changed" else s3.delete_object(**place)
    with pytest.raises(DamagedArtifact, match="part/0.bin"):
        storage.open_artifact(f"{bucket}/blocks")
    write(f"{bucket}/blocks")  # a damaged artifact may be remade
    storage.open_artifact(f"{bucket}/blocks")


def test_a_node_downloads_once_and_repairs_its_copy(bucket: str, proxy: FaultyProxy) -> None:
    write(f"{bucket}/blocks")
    path = storage.open_artifact(f"{bucket}/blocks")
    plain_client(proxy).delete_object(**place_of(proxy, f"{bucket}/blocks", "part/0.bin"))
    assert storage.open_artifact(f"{bucket}/blocks") == path  # from the cache
    write(f"{bucket}/blocks_again")
    (path / "part" / "0.bin").write_text("clocks")
    again = storage.open_artifact(f"{bucket}/blocks_again")  # same digest, same copy
    assert again == path and (again / "part" / "0.bin").read_text() == "blocks"


def test_a_missing_server_or_bucket_is_reported(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageError, match="no-such-bucket does not exist.*NoSuchBucket"):
        write("s3://no-such-bucket/x")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match="AWS_ENDPOINT_URL_S3"):
        storage.has_artifact(f"{bucket}/blocks")


def test_names_that_are_refused() -> None:
    for uri in ("", "gs://bucket/x", "file:///x", "s3:///x"):
        with pytest.raises(StorageError, match="must be a local path or s3://"):
            storage.is_remote(uri)
    for name in ("..", "a/../../b", "/etc", ""):
        with pytest.raises(StorageError, match="leads out of"):
            storage.join("s3://bucket", name)
    assert storage.join("s3://bucket/a/", "b", "c/d") == "s3://bucket/a/b/c/d"
    with pytest.raises(StorageError, match="storage runs: must be absolute.*Give an absolute path"):
        storage.require_absolute("runs", "storage")
    assert storage.require_absolute("/runs", "storage") == "/runs"
    assert storage.require_absolute("s3://b/runs", "storage") == "s3://b/runs"


def test_errors_can_be_passed_between_processes() -> None:
    error = pickle.loads(pickle.dumps(DamagedArtifact("file", "x", "rule", "remedy")))
    assert (type(error), error.field, str(error)) == (DamagedArtifact, "file", "file x: rule. remedy")


def test_manifest_is_plain_json_for_other_tools(tmp_path: Path) -> None:
    write(str(tmp_path / "blocks"))
    content = json.loads((tmp_path / "blocks" / "manifest.json").read_text())
    assert content.keys() == {"kind", "config", "inputs", "files", "details", "digest", "details_digest", "format"}
