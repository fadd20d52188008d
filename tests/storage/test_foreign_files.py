"""Nothing that memlm did not write is deleted or overwritten, whatever a path looks like and
whatever state a folder is in."""

import json
import logging
import multiprocessing
import os
import random
import unicodedata
from pathlib import Path

import pytest

from memlm import storage
from memlm.storage import DamagedArtifact, StorageError, local
from memlm.storage.manifests import is_ours

SENTINEL = b"three years of work"


def write(uri: str, text: str = "weights", *, seed: int = 1) -> None:
    with storage.write_artifact(uri, kind="model", config={"seed": seed}) as draft:
        (draft.path / "part").mkdir()
        (draft.path / "part" / "0.bin").write_text(text)
        (draft.path / "config.json").write_text("{}")


def sentinels_in(home: Path) -> dict[str, bytes]:
    """Everything that the user owns, by path; through no link."""
    return {str(path): path.read_bytes() for path in home.rglob("*") if path.is_file() and not path.is_symlink()}


# --- paths
# ---------------------------------------------------------------------------------------------------------

OWNED = (
    "models",
    "Models",
    "models.v2",
    "ein Ordner",
    "m\u00f6del",
    unicodedata.normalize("NFD", "m\u00f6del"),
    "...",
    "~",
)
ABSENT = ("patched", "neu\u00e9", "MODELS", ".hidden", "a.b", "...x")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder: files, empty folders, links to both, and places where nothing is. No path
    of the test leads out of tmp_path."""
    home = tmp_path.joinpath("1", "2", "3", "4", "5", "home")
    for name in OWNED:
        (home / name / "deep").mkdir(parents=True)
        (home / name / "thesis.tex").write_bytes(SENTINEL)
        (home / name / "deep" / "data.csv").write_bytes(SENTINEL)
    (home / "empty").mkdir()
    (home / "plain").write_bytes(SENTINEL)
    (home / "web").mkdir()
    (home / "web" / "manifest.json").write_text(json.dumps({"name": "my web application", "icons": []}))
    (home / ".patched.partial").mkdir()
    (home / ".patched.partial" / "thesis.tex").write_bytes(SENTINEL)
    (home / ".a.b.partial.partial.lock").write_bytes(SENTINEL)
    for name, target in {
        "to_models": "models",
        "to_deep": "models/deep",
        "to_empty": "empty",
        "to_nothing": "nowhere/at/all",
        "to_itself": "to_itself",
        "to_file": "plain",
        "to_home": "..",
    }.items():
        (home / name).symlink_to(target)
    monkeypatch.chdir(home)
    return home


def random_path(choices: random.Random, home: Path) -> str:
    names = (*OWNED, *ABSENT, "empty", "plain", "web", "to_models", "to_deep", "to_empty", "to_nothing", "to_itself")
    parts = [choices.choice((*names, "to_file", "to_home", ".", "..", "..", "deep", "home", "")) for _ in range(4)]
    path = "/".join(parts[: choices.randint(1, 4)]).lstrip("/") + choices.choice(("", "", "/", "//", "/."))
    return choices.choice((f"{home}/", "./", "", f"{home}/../home/")) + (path.lstrip("/") or ".")


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_path_what_the_user_owns_survives(home: Path, tmp_path: Path, seed: int) -> None:
    """Each write either refuses or leaves an artifact where the operating system finds that
    path, next to all that was there."""
    choices, owned = random.Random(seed), sentinels_in(tmp_path)
    written = 0
    for number in range(40):
        path = random_path(choices, home)
        assert Path(os.path.realpath(Path(path))).is_relative_to(tmp_path), path
        try:
            write(path, seed=number)
        except (StorageError, OSError) as error:
            assert "\n" not in str(error)
        else:
            written += 1
            assert (storage.open_artifact(path) / "part" / "0.bin").read_text() == "weights", path
            artifact = Path(os.path.realpath(Path(path)))
            if choices.random() < 0.5:  # damage, and make it again
                (artifact / "part" / "0.bin").write_text("clocks")
                (artifact / "notes.txt").write_bytes(SENTINEL)
                owned[str(artifact / "notes.txt")] = SENTINEL
                write(path, seed=number)
                storage.open_artifact(path)
        found = sentinels_in(tmp_path)
        assert {name: found.get(name) for name in owned} == owned, path
    assert written >= 5


def test_a_folder_behind_a_missing_one_is_not_taken_for_empty(home: Path) -> None:
    for path in ("patched/../models", f"{home}/patched/../models", "to_deep/../../models", "to_deep/..", "models/."):
        with pytest.raises(StorageError, match="is not empty and holds no artifact"):
            write(path)
    assert not (home / "patched").exists()
    assert (home / "models" / "thesis.tex").read_bytes() == SENTINEL


def test_the_place_is_that_of_the_links_at_the_beginning(home: Path) -> None:
    """A link that changes while an artifact is made does not move the commit to another folder."""
    (home / "way").symlink_to("empty")
    with storage.write_artifact("way/model", kind="model", config={}) as draft:
        (draft.path / "w").write_text("w")
        (home / "way").unlink()
        (home / "way").symlink_to("models")
    assert storage.has_artifact(str(home / "empty" / "model"))
    assert sorted(os.listdir(home / "models")) == ["deep", "thesis.tex"]


@pytest.mark.parametrize("path", ["to_itself", "to_itself/", "to_itself//", "to_itself//model", "to_itself/a/../b"])
def test_links_in_a_circle_lead_nowhere(home: Path, path: str) -> None:
    """Not to the root folder either, where os.path.realpath finds the second and the third of
    these."""
    with pytest.raises(StorageError, match="lead in a circle"):
        write(path)


def test_the_root_folder_and_names_with_nul_are_refused(home: Path) -> None:
    for path in ("/", "//", "/..", "a\0b"):
        with pytest.raises(StorageError):
            write(path)
        with pytest.raises(StorageError):
            storage.delete(path)


@pytest.mark.parametrize("path", ["s3://bucket/a/../models", "s3://bucket/./models", "s3://bucket/.."])
def test_a_prefix_on_s3_has_no_way_up(path: str) -> None:
    for use in (write, storage.delete, storage.has_artifact, storage.list_names):
        with pytest.raises(StorageError, match="S3 has no folders"):
            use(path)


def test_an_artifact_inside_another_is_refused(home: Path) -> None:
    write("patched.1")
    for path in ("patched.1/again", "patched.1/part/again", "patched.1/new/deep"):
        with pytest.raises(StorageError, match="lies inside the artifact"):
            write(path)
    storage.open_artifact("patched.1")
    assert sorted(os.listdir("patched.1")) == ["config.json", "manifest.json", "part"]


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
def test_a_damaged_artifact_is_made_again_around_what_others_put_there(
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
    if kind in ("file", "missing"):  # the manifest says what is memlm's
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


def test_every_beginning_of_a_manifest_is_known_as_ours(tmp_path: Path) -> None:
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


def test_a_folder_filled_while_the_artifact_was_made_is_not_taken(tmp_path: Path) -> None:
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


def test_a_lock_that_holds_something_is_not_a_lock(tmp_path: Path) -> None:
    (tmp_path / ".model.partial.partial.lock").write_bytes(SENTINEL)
    with pytest.raises(StorageError, match="it is not memlm's"):
        write(str(tmp_path / "model"))
    assert (tmp_path / ".model.partial.partial.lock").read_bytes() == SENTINEL


def in_time(act, *arguments: str) -> str:
    """What is said of it, within seconds; a process that waits for ever is ended."""
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


def test_delete_leaves_a_link_and_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_bytes(SENTINEL)
    (tmp_path / "units").symlink_to("thesis")
    storage.delete(str(tmp_path / "units"))
    storage.delete(str(tmp_path / "units" / ".." / "absent"))
    assert (tmp_path / "units" / "thesis.tex").read_bytes() == SENTINEL


# --- readers see what the manifest names
# ------------------------------------------------------------------------------


def test_files_that_others_add_do_no_harm_and_are_not_read(tmp_path: Path) -> None:
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
    write(uri, "anew")  # it is whole, so it stays
    assert (storage.open_artifact(uri) / "part" / "0.bin").read_text() == "weights"


def test_the_readme_that_memlm_writes_may_be_changed(root: str) -> None:
    """As the model card of a checkpoint, which people and model hubs edit."""
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
    """Also of a folder above it: what a link points to may change after the check."""
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


# --- what memlm needs no longer
# ---------------------------------------------------------------------------------------


def made_tree(root: str) -> str:
    """Artifacts at several depths, records, and next to all of them what somebody else put
    there."""
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


def test_what_memlm_made_goes_and_nothing_else(root: str) -> None:
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


def test_a_tree_in_which_only_memlm_wrote_is_gone(root: str) -> None:
    tree = made_tree(root)
    storage.delete_made(tree, loose=r"\d{4}\.json")
    storage.delete_made(storage.join(root, "absent"))
    assert storage.list_names(root) == []


def test_the_drafts_of_killed_writers_go_with_it_and_the_folders_of_others_do_not(tmp_path: Path) -> None:
    tree = Path(made_tree(str(tmp_path)))
    for name, lock in (("killed", True), ("mine", False)):
        (tree / "step_1" / f".{name}.partial").mkdir()
        (tree / "step_1" / f".{name}.partial" / "file").write_bytes(SENTINEL)
        if lock:
            (tree / "step_1" / f".{name}.partial.partial.lock").touch()
    (tree / "step_2" / f".rank_0.{'0' * 32}.tmp.partial").touch()
    storage.delete_made(str(tree), loose=r"\d{4}\.json")
    assert sentinels_in(tmp_path) == {str(tree / "step_1" / ".mine.partial" / "file"): SENTINEL}


def test_a_linked_folder_is_emptied_of_what_memlm_made_and_stays(tmp_path: Path) -> None:
    """As where a run's states lie on another disk."""
    (tmp_path / "big").mkdir()
    (tmp_path / "training").symlink_to("big")
    made_tree(str(tmp_path))
    (tmp_path / "big" / "thesis.tex").write_bytes(SENTINEL)
    (tmp_path / "big" / "elsewhere").symlink_to(tmp_path)
    write(str(tmp_path / "kept"))
    storage.delete_made(str(tmp_path / "training"), loose=r"\d{4}\.json")
    assert sorted(os.listdir(tmp_path / "training")) == ["elsewhere", "thesis.tex"]
    storage.open_artifact(str(tmp_path / "kept"))


def test_an_artifact_that_says_nothing_of_itself_stays(tmp_path: Path) -> None:
    write(str(tmp_path / "tree" / "model"))
    (tmp_path / "tree" / "model" / "manifest.json").write_bytes(b"")
    storage.delete_made(str(tmp_path / "tree"))
    assert (tmp_path / "tree" / "model" / "part" / "0.bin").exists()
