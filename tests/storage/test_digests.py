"""Every number that results depend on is covered by a digest, and older runs without digests can
still be read."""

import json
from pathlib import Path

import pytest

from memlm import storage
from memlm.storage import DamagedArtifact, StorageError
from memlm.storage.manifests import FORMAT, Manifest, parse

OLD = b"""{
 "config": {
  "seed": 1
 },
 "details": {
  "num_blocks": 1200,
  "seconds": 1.5
 },
 "digest": "a9dc59b855d2c33f5ac8bafa7409df3f64658fd197cd347a1485a437a7c9e72a",
 "files": {
  "w": {
   "bytes": 1,
   "sha256": "50e721e49c013f00c62cf59f2163542a9d8df02464efeb615d31051b0fddc326"
  }
 },
 "inputs": {},
 "kind": "corpus"
}"""
"""A manifest as written before details had a digest."""


def write(uri: str) -> Path:
    with storage.write_artifact(uri, kind="corpus", config={"seed": 1}) as draft:
        (draft.path / "w").write_text("w")
        draft.details.update(num_blocks=1200, seconds=1.5, share=0.1 + 0.2, names=["\u00e9", None])
    return Path(uri, storage.MANIFEST)


def edit(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in (content | changes).items() if value is not ...}))


def test_details_have_a_digest_of_their_own(root: str) -> None:
    uri = storage.join(root, "corpus")
    with storage.write_artifact(uri, kind="corpus", config={}) as draft:
        (draft.path / "w").write_text("w")
        draft.details.update(num_blocks=1200, share=0.1 + 0.2)
    manifest = storage.read_manifest(uri)
    assert (manifest.format, manifest.details) == (FORMAT, {"num_blocks": 1200, "share": 0.1 + 0.2})
    assert parse(manifest.to_json(), uri) == manifest


@pytest.mark.parametrize(
    "changes",
    [
        {"details": {"num_blocks": 1201, "seconds": 1.5}},
        {"details": {}},
        {"details_digest": "0" * 64},
        {"details_digest": ...},
        {"details_digest": None},
        {"format": ...},
        {"format": 1},
    ],
)
def test_changed_details_are_noticed(tmp_path: Path, changes: dict) -> None:
    edit(write(str(tmp_path / "corpus")), **changes)
    for use in (storage.read_manifest, storage.open_artifact):
        with pytest.raises(DamagedArtifact, match="details in manifest.json do not match their digest"):
            use(str(tmp_path / "corpus"))


@pytest.mark.parametrize("format", [FORMAT + 1, 0, "2", 1.5, None, [1]])
def test_a_future_format_is_reported(tmp_path: Path, format: object) -> None:
    edit(write(str(tmp_path / "corpus")), format=format)
    with pytest.raises(DamagedArtifact, match="has format"):
        storage.open_artifact(str(tmp_path / "corpus"))


def test_old_artifacts_are_valid_and_keep_their_digest(tmp_path: Path) -> None:
    """Old manifests are not rewritten, and the digest by which others name them as inputs stays
    the same."""
    written = json.loads(write(str(tmp_path / "corpus")).read_text())
    (tmp_path / "corpus" / storage.MANIFEST).write_bytes(OLD)
    manifest = storage.read_manifest(str(tmp_path / "corpus"))
    assert (manifest.format, manifest.digest, manifest.details["num_blocks"]) == (1, written["digest"], 1200)
    assert storage.open_artifact(str(tmp_path / "corpus")) == tmp_path / "corpus"
    assert manifest.to_json() == OLD
    write(str(tmp_path / "corpus"))  # it exists already
    assert (tmp_path / "corpus" / storage.MANIFEST).read_bytes() == OLD


def test_neither_format_nor_details_are_part_of_the_digest() -> None:
    made = {"kind": "k", "config": {"a": 1}, "inputs": {}, "files": {}}
    assert Manifest(**made).digest == Manifest(**made, format=1, details={"seconds": 2}).digest
    assert (
        Manifest(**made).digest == "aa31f662e1c97c0142f1ab12e6a82590b2b0d76e5a23aab912b524f146ca635d"
    )  # as before there were formats


def test_a_record_is_read_as_written_and_a_change_is_noticed(root: str) -> None:
    uri = storage.join(root, "trials", "key.json")
    record = {"result": {"items": [1.0, 0.5, 0.1 + 0.2], "name": "\u00e9"}, "seed": 3, "sizes": (1, 2)}
    storage.write_record(uri, record)
    assert storage.read_record(uri) == record | {"sizes": [1, 2]}
    stored = storage.read_json(uri)
    storage.write_json(uri, stored | {"seed": 4})
    with pytest.raises(DamagedArtifact, match=r"key.json: does not match its own digest.*Move it away"):
        storage.read_record(uri)
    storage.write_json(uri, {name: value for name, value in stored.items() if name != "digest"})  # an old record
    assert storage.read_record(uri) == record | {"sizes": [1, 2]}


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"1", b'"text"', b"null", b"{", b"[" * 100_000, b'{"digest": 1}', b"\xff"]
)
def test_an_invalid_record_is_one_line(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "r.json").write_bytes(body)
    with pytest.raises(StorageError) as caught:
        storage.read_record(str(tmp_path / "r.json"))
    assert "r.json" in str(caught.value) and "\n" not in str(caught.value)
