"""Whatever a path looks like, nothing that memlm did not write is deleted or overwritten."""

import json
import os
import random
import unicodedata
from pathlib import Path

import pytest

from memlm import storage
from memlm.storage import StorageError
from tests.storage.owned_files import SENTINEL, sentinels_in, write

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
    """A user's folder with files, empty folders, links to both, and unused names. No path in the
    test leads out of tmp_path."""
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
def test_the_users_files_survive_whatever_the_path(home: Path, tmp_path: Path, seed: int) -> None:
    """Each write either refuses or leaves an artifact where the operating system resolves that
    path, next to everything that was there."""
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
            if choices.random() < 0.5:  # damage it, and make it again
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


def test_links_are_resolved_once_at_the_beginning(home: Path) -> None:
    """A link that changes while an artifact is made does not redirect the commit."""
    (home / "way").symlink_to("empty")
    with storage.write_artifact("way/model", kind="model", config={}) as draft:
        (draft.path / "w").write_text("w")
        (home / "way").unlink()
        (home / "way").symlink_to("models")
    assert storage.has_artifact(str(home / "empty" / "model"))
    assert sorted(os.listdir(home / "models")) == ["deep", "thesis.tex"]


@pytest.mark.parametrize("path", ["to_itself", "to_itself/", "to_itself//", "to_itself//model", "to_itself/a/../b"])
def test_links_in_a_circle_are_refused(home: Path, path: str) -> None:
    """Neither do they lead to the root folder, which os.path.realpath gives for the second and the
    third of these."""
    with pytest.raises(StorageError, match="lead in a circle"):
        write(path)


def test_the_root_folder_and_names_with_nul_are_refused(home: Path) -> None:
    for path in ("/", "//", "/..", "a\0b"):
        with pytest.raises(StorageError):
            write(path)
        with pytest.raises(StorageError):
            storage.delete(path)


@pytest.mark.parametrize("path", ["s3://bucket/a/../models", "s3://bucket/./models", "s3://bucket/.."])
def test_a_prefix_on_s3_must_not_contain_dots(path: str) -> None:
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
