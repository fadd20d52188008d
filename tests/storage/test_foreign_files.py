"""Nothing that memlm did not write is deleted or overwritten, whatever a path looks like and
whatever state a folder is in."""

import json
import logging
import multiprocessing
import os
from pathlib import Path

import pytest

from memlm import storage
from memlm.storage import DamagedArtifact, StorageError, local
from memlm.storage.manifests import is_ours
from tests.storage.owned_files import SENTINEL, write

# --- a folder whose manifest is damaged, or another program's
# --------------------------------------------------------


def damage(folder: Path, kind: str) -> None:
    manifest = folder / "manifest.json"
    match kind:
        case "file":
            (folder / "part" / "0.bin").write_text("clocks")
        case "missing":
            (folder / "part" / "0.bin").unlink()
        case "cut":
            manifest.write_bytes(manifest.read_bytes()[:-9])
        case "empty":
            manifest.write_bytes(b"")
        case "changed":
            manifest.write_text(manifest.read_text().replace('"kind": "model"', '"kind": "mobel"'))
        case "names the user's":
            content = json.loads(manifest.read_text())
            content["files"]["notes/thesis.tex"] = {"bytes": 1, "sha256": "0"}
            manifest.write_text(json.dumps(content))
        case "part is a file":
            (folder / "part" / "0.bin").unlink()
            (folder / "part").rmdir()
            (folder / "part").write_bytes(SENTINEL)


@pytest.mark.parametrize("kind", ["file", "missing", "cut", "empty", "changed", "names the user's", "part is a file"])
def test_a_damaged_artifact_is_remade_and_other_peoples_files_stay(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "model"
    write(str(folder))
    (folder / "notes" / "empty").mkdir(parents=True)
    (folder / "notes" / "thesis.tex").write_bytes(SENTINEL)
    (folder / "README.md").write_bytes(SENTINEL)
    (folder / "part" / "link").symlink_to("../README.md")
    os.mkfifo(folder / "pipe")
    if kind == "part is a file":
        (folder / "part" / "link").unlink()
    damage(folder, kind)
    with caplog.at_level(logging.WARNING):
        write(str(folder), "anew")
    assert (storage.open_artifact(str(folder)) / "part" / "0.bin").read_text() == "anew"
    assert (folder / "notes" / "thesis.tex").read_bytes() == (folder / "README.md").read_bytes() == SENTINEL
    assert (folder / "pipe").is_fifo() and (folder / "notes" / "empty").is_dir()
    aside = tmp_path / "model.replaced-1"
    if kind in ("file", "missing"):  # then the manifest still lists memlm's files
        assert sorted(os.listdir(tmp_path)) == ["model"]
    else:
        assert f"may not have written are in {aside}" in caplog.text
    if kind == "part is a file":
        assert (aside / "part").read_bytes() == SENTINEL
    else:
        assert (folder / "part" / "link").read_bytes() == SENTINEL


@pytest.mark.parametrize("body", ['{"name": "web"}', "[1]", "// not JSON", '{\n "name": "x"}', '"text"', "{" * 100_000])
def test_a_manifest_of_another_program_is_not_an_artifact_to_replace(tmp_path: Path, body: str) -> None:
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "manifest.json").write_text(body)
    (tmp_path / "web" / "index.html").write_bytes(SENTINEL)
    with pytest.raises(StorageError, match="manifest.json that memlm did not write"):
        write(str(tmp_path / "web"))
    assert sorted(os.listdir(tmp_path)) == ["web"] and (tmp_path / "web" / "manifest.json").read_text() == body


def test_every_truncated_manifest_is_recognised_as_ours(tmp_path: Path) -> None:
    write(str(tmp_path / "model"))
    body = (tmp_path / "model" / "manifest.json").read_bytes()
    assert all(is_ours(body[:length]) for length in range(len(body) + 1))
    assert is_ours(json.dumps(json.loads(body)).encode())  # as an editor may store it
    assert not any(is_ours(text) for text in (b'{"a": 1}', b'{"config": {}}', b"x", b"[0]"))


def test_a_manifest_of_another_program_on_s3_stays(bucket: str) -> None:
    storage.write_bytes(f"{bucket}/web/manifest.json", b'{"name": "web"}')
    from memlm.storage.s3 import client as s3

    s3.request(
        f"{bucket}/web/manifest.json",
        lambda client, name, key: client.put_object(Bucket=name, Key=key, Body=b'{"name": "web"}'),
    )
    with pytest.raises(StorageError, match="manifest.json that memlm did not write"):
        write(f"{bucket}/web")
    assert storage.read_bytes(f"{bucket}/web/manifest.json") == b'{"name": "web"}'


def test_a_folder_filled_while_the_artifact_was_made_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(StorageError, match="is not empty"):
        with storage.write_artifact(str(tmp_path / "model"), kind="model", config={}) as draft:
            (draft.path / "w").write_text("w")
            (tmp_path / "model" / "thesis.tex").write_bytes(SENTINEL)
    assert (tmp_path / "model" / "thesis.tex").read_bytes() == SENTINEL
    assert os.listdir(tmp_path) == ["model"]


# --- names that memlm uses for itself
# ---------------------------------------------------------------------------------


def test_a_folder_that_only_looks_like_a_draft_is_not_cleared(tmp_path: Path) -> None:
    draft = tmp_path / ".model.partial"
    draft.mkdir()
    (draft / "thesis.tex").write_bytes(SENTINEL)
    with pytest.raises(StorageError, match="memlm did not make it"):
        write(str(tmp_path / "model"))
    storage.delete(str(tmp_path / "model"))
    assert (draft / "thesis.tex").read_bytes() == SENTINEL
    assert os.listdir(tmp_path) == [".model.partial"]


def test_a_lock_file_with_content_is_not_a_lock(tmp_path: Path) -> None:
    (tmp_path / ".model.partial.partial.lock").write_bytes(SENTINEL)
    with pytest.raises(StorageError, match="it is not memlm's"):
        write(str(tmp_path / "model"))
    assert (tmp_path / ".model.partial.partial.lock").read_bytes() == SENTINEL


def in_time(act, *arguments: str) -> str:
    """The error message, within seconds; a process that hangs is ended."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()

    def attempt() -> None:
        try:
            act(*arguments)
            there.send("done")
        except Exception as error:
            there.send(f"{type(error).__name__}: {error}")

    process = context.Process(target=attempt)
    process.start()
    answered = here.poll(10)
    process.kill()
    process.join()
    assert answered, "it hangs"
    return str(here.recv())


@pytest.mark.parametrize("name", ["model/manifest.json", ".model.partial.partial.lock"])
@pytest.mark.parametrize("kind", ["pipe", "link to nothing", "link", "folder"])
def test_a_manifest_or_lock_that_is_no_plain_file_is_one_line_at_once(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / "model").mkdir()
    place, target = tmp_path / name, tmp_path / "target"
    match kind:
        case "pipe":
            os.mkfifo(place)
        case "link to nothing":
            place.symlink_to(target)
        case "link":
            target.write_bytes(SENTINEL)
            place.symlink_to(target)
        case "folder":
            place.mkdir()
    for act in (write, storage.open_artifact) if name.startswith("model") else (write,):
        assert "not a plain file" in in_time(act, str(tmp_path / "model"))
    assert os.path.lexists(place)
    assert not target.exists() if kind != "link" else target.read_bytes() == SENTINEL


def test_small_files_are_not_read_or_written_through_links_and_pipes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "target").write_bytes(SENTINEL)
    (tmp_path / "link").symlink_to("target")
    for name in ("pipe", "link"):
        for act in (storage.read_bytes, lambda uri: storage.write_bytes(uri, b"new")):
            assert "not a plain file" in in_time(act, str(tmp_path / name))
    assert (tmp_path / "target").read_bytes() == SENTINEL and (tmp_path / "link").is_symlink()


def test_a_file_of_an_artifact_that_became_a_pipe_is_damage(tmp_path: Path) -> None:
    write(str(tmp_path / "model"))
    (tmp_path / "model" / "config.json").unlink()
    os.mkfifo(tmp_path / "model" / "config.json")
    assert in_time(storage.open_artifact, str(tmp_path / "model")).startswith(DamagedArtifact.__name__)


# --- readers see what the manifest names
# ------------------------------------------------------------------------------


def test_files_added_by_others_are_harmless_and_not_read(tmp_path: Path) -> None:
    uri = str(tmp_path / "model")
    write(uri)
    assert storage.open_artifact(uri) == tmp_path / "model"
    for name in ("README.md", ".gitattributes", "part/.ipynb_checkpoints/0.bin", "adapter_config.json", "part/1.bin"):
        (tmp_path / "model" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "model" / name).write_bytes(SENTINEL)
    (tmp_path / "model" / "link").symlink_to("/etc/hostname")
    seen = storage.open_artifact(uri)
    files = {path.relative_to(seen).as_posix() for path in seen.rglob("*") if path.is_file()}
    assert files == {"manifest.json", "config.json", "part/0.bin"}
    assert (seen / "part" / "0.bin").read_text() == "weights" and storage.open_artifact(uri) == seen
    with storage.open_artifact_temporarily(uri) as again:
        assert again == seen
    write(uri, "anew")  # the artifact is intact, so it stays
    assert (storage.open_artifact(uri) / "part" / "0.bin").read_text() == "weights"


def test_the_readme_that_memlm_writes_may_be_changed(root: str) -> None:
    """It is the model card of a checkpoint, which people and model hubs edit."""
    uri = storage.join(root, "model")
    with storage.write_artifact(uri, kind="model", config={}) as draft:
        (draft.path / "w").write_text("w")
        (draft.path / "README.md").write_text("a card")
        (draft.path / "part").mkdir()
        (draft.path / "part" / "README.md").write_text("a part of the model")
    assert set(storage.read_manifest(uri).files) == {"w", "part/README.md"}
    place = uri
    if storage.is_remote(uri):
        place = storage.join(uri, f"content-{storage.read_manifest(uri).digest[:16]}")
    assert storage.read_bytes(storage.join(place, "README.md")) == b"a card"
    storage.write_bytes(storage.join(place, "README.md"), SENTINEL)
    assert (storage.open_artifact(uri) / "w").read_text() == "w"
    if not storage.is_remote(uri):
        assert str(storage.open_artifact(uri)) == uri
    assert storage.read_bytes(storage.join(place, "README.md")) == SENTINEL


def test_a_link_in_place_of_a_file_is_damage(tmp_path: Path) -> None:
    """The same for a link in place of a folder above it: its target may change after the check."""
    for name in ("config.json", "part"):
        uri = str(tmp_path / f"with-{name}")
        write(uri)
        os.rename(f"{uri}/{name}", tmp_path / f"moved-{name}")
        Path(uri, name).symlink_to(tmp_path / f"moved-{name}")
        with pytest.raises(DamagedArtifact, match="missing or changed"):
            storage.open_artifact(uri)


def test_a_killed_writer_is_told_from_a_user_by_its_lock(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with local.locked(local.scratch_of(target)) as left_behind:
        assert not left_behind
    (tmp_path / ".model.partial.partial.lock").touch()
    with local.locked(local.scratch_of(target)) as left_behind:
        assert left_behind
    assert os.listdir(tmp_path) == []
