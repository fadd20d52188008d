"""Deletion of what memlm wrote, and of nothing else."""

import os
from pathlib import Path

from memlm import storage
from tests.storage.owned_files import SENTINEL, sentinels_in, write


def test_delete_leaves_a_link_and_its_target(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_bytes(SENTINEL)
    (tmp_path / "units").symlink_to("thesis")
    storage.delete(str(tmp_path / "units"))
    storage.delete(str(tmp_path / "units" / ".." / "absent"))
    assert (tmp_path / "units" / "thesis.tex").read_bytes() == SENTINEL


def made_tree(root: str) -> str:
    """Artifacts at several depths, records, and somebody else's files next to all of them."""
    tree = storage.join(root, "training")
    for name in ("step_1/rank_0", "step_1/rank_1", "step_2/rank_0"):
        write(storage.join(tree, name))
    storage.write_record(storage.join(tree, "starts", "0001.json"), {"a": 1})
    return tree


def keys_below(uri: str) -> set[str]:
    if not storage.is_remote(uri):
        return {path.relative_to(uri).as_posix() for path in Path(uri).rglob("*") if path.is_file()}
    found = set()
    for name in storage.list_names(uri):
        below = keys_below(storage.join(uri, name))
        found |= {f"{name}/{each}" for each in below} or {name}
    return found


def test_only_what_memlm_made_is_deleted(root: str) -> None:
    tree = made_tree(root)
    others = {"notes.txt", "step_1/notes.txt", "step_1/rank_0/README.md", "starts/0001.txt", "web/manifest.json"}
    for name in others:
        storage.write_bytes(storage.join(tree, *name.split("/")), SENTINEL)
    write(storage.join(root, "training-other"))
    storage.delete_made(tree, loose=r"\d{4}\.json")
    assert keys_below(tree) == others
    storage.delete_made(tree)
    assert keys_below(tree) == others
    storage.open_artifact(storage.join(root, "training-other"))


def test_a_tree_written_by_memlm_alone_is_removed_completely(root: str) -> None:
    tree = made_tree(root)
    storage.delete_made(tree, loose=r"\d{4}\.json")
    storage.delete_made(storage.join(root, "absent"))
    assert storage.list_names(root) == []


def test_drafts_of_killed_writers_are_deleted_but_not_other_peoples_folders(tmp_path: Path) -> None:
    tree = Path(made_tree(str(tmp_path)))
    for name, lock in (("killed", True), ("mine", False)):
        (tree / "step_1" / f".{name}.partial").mkdir()
        (tree / "step_1" / f".{name}.partial" / "file").write_bytes(SENTINEL)
        if lock:
            (tree / "step_1" / f".{name}.partial.partial.lock").touch()
    (tree / "step_2" / f".rank_0.{'0' * 32}.tmp.partial").touch()
    storage.delete_made(str(tree), loose=r"\d{4}\.json")
    assert sentinels_in(tmp_path) == {str(tree / "step_1" / ".mine.partial" / "file"): SENTINEL}


def test_a_linked_folder_stays_without_what_memlm_made(tmp_path: Path) -> None:
    """The case of a run whose states are on another disk."""
    (tmp_path / "big").mkdir()
    (tmp_path / "training").symlink_to("big")
    made_tree(str(tmp_path))
    (tmp_path / "big" / "thesis.tex").write_bytes(SENTINEL)
    (tmp_path / "big" / "elsewhere").symlink_to(tmp_path)
    write(str(tmp_path / "kept"))
    storage.delete_made(str(tmp_path / "training"), loose=r"\d{4}\.json")
    assert sorted(os.listdir(tmp_path / "training")) == ["elsewhere", "thesis.tex"]
    storage.open_artifact(str(tmp_path / "kept"))


def test_an_artifact_with_an_unreadable_manifest_stays(tmp_path: Path) -> None:
    write(str(tmp_path / "tree" / "model"))
    (tmp_path / "tree" / "model" / "manifest.json").write_bytes(b"")
    storage.delete_made(str(tmp_path / "tree"))
    assert (tmp_path / "tree" / "model" / "part" / "0.bin").exists()
