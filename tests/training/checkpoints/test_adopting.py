"""A folder that save_pretrained wrote becomes a checkpoint, and stays one whatever people put
next to its files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from memlm import storage
from memlm.kinds import CHECKPOINT_KIND, PATCH_FILE, PATCH_KIND
from memlm.training.checkpoints.adopting import AdoptionError, adopt
from memlm.training.patch import apply_patch, changed_rows, save_patch, undo_patch
from tests.support.tiny import tiny_model


def saved(folder: Path, shard: str = "1GB") -> Path:
    tiny_model().save_pretrained(folder, max_shard_size=shard)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("shard", ["1GB", "4KB"])
def test_a_saved_model_becomes_a_checkpoint_and_nothing_else_changes(tmp_path: Path, shard: str) -> None:
    folder = saved(tmp_path / "model", shard)
    before = contents(folder)
    manifest = adopt(str(folder))
    assert {name: body for name, body in contents(folder).items() if name != storage.MANIFEST} == before
    assert (manifest.kind, sorted(manifest.files)) == (CHECKPOINT_KIND, sorted(before))
    assert adopt(f"{folder}/") == manifest == storage.read_manifest(str(folder))
    AutoModelForCausalLM.from_pretrained(storage.open_artifact(str(folder), kind=CHECKPOINT_KIND))


def test_other_files_next_to_the_model_may_change(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    others = (
        "README.md",
        ".gitattributes",
        "optimizer.pt",
        ".git/config",
        "checkpoint-5/model.safetensors",
        "notes.txt",
    )
    for name in others:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("before")
    adopt(str(folder))
    for name in others:
        (folder / name).write_text("after")
    (folder / "adapter_config.json").write_text("{}")  # transformers would take this for a part of the model
    seen = storage.open_artifact(str(folder), kind=CHECKPOINT_KIND)
    assert not any((seen / name).exists() for name in (*others, "adapter_config.json"))
    AutoModelForCausalLM.from_pretrained(seen)


def test_a_patch_goes_in_and_out_of_an_adopted_model(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    before = {name: value.clone() for name, value in tiny_model().named_parameters()}
    name, weight = next(iter(before.items()))
    after = before | {name: weight + torch.eye(*weight.shape)}
    inputs = {"checkpoint": adopt(str(folder)).digest}
    with storage.write_artifact(str(tmp_path / "patch"), kind=PATCH_KIND, config={}, inputs=inputs) as draft:
        save_patch(changed_rows(before, after), draft.path / PATCH_FILE)
    apply_patch(str(folder), str(tmp_path / "patch"), str(tmp_path / "patched"))
    undo_patch(str(tmp_path / "patched"), str(tmp_path / "patch"), str(tmp_path / "undone"))
    assert contents(tmp_path / "undone") == contents(folder) != contents(tmp_path / "patched")


def test_a_model_that_changed_since_is_not_adopted_again(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    adopt(str(folder))
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    with pytest.raises(storage.DamagedArtifact, match="missing or changed: config.json"):
        adopt(str(folder))


def drop_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def drop_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut_weights(folder: Path) -> None:
    place = folder / "model.safetensors"
    place.write_bytes(place.read_bytes()[:-9])


def link_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "weights")
    (folder / "model.safetensors").symlink_to(folder.parent / "weights")


def index_of_more(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": "model-00002.safetensors"}}))


def strange_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": 3}')


def strange_config(folder: Path) -> None:
    (folder / "config.json").write_text("[" * 100_000)


def typeless_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": 3}')


def manifest_of_another(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"name": "web"}')


@pytest.mark.parametrize(
    "spoil, message",
    [
        (drop_config, "has no config.json"),
        (drop_weights, "has no weights as safetensors"),
        (cut_weights, "cannot be read"),
        (link_weights, "is a link or no plain file"),
        (index_of_more, "lacks model-00002.safetensors"),
        (strange_index, "is not an index of weights"),
        (strange_config, "is not a model configuration"),
        (typeless_config, "must be a name"),
        (manifest_of_another, "is not a manifest"),
    ],
)
def test_a_folder_without_a_model_is_refused_on_one_line_and_not_changed(tmp_path: Path, spoil, message: str) -> None:
    folder = saved(tmp_path / "model")
    spoil(folder)
    before = contents(folder)
    with pytest.raises((AdoptionError, storage.StorageError), match=message) as caught:
        adopt(str(folder))
    assert "\n" not in str(caught.value) and contents(folder) == before


@pytest.mark.parametrize("folder", ["absent", "s3://bucket/model"])
def test_a_place_that_cannot_be_adopted_is_named(tmp_path: Path, folder: str) -> None:
    with pytest.raises(AdoptionError, match=folder):
        adopt(folder if "://" in folder else str(tmp_path / folder))


def test_the_command_adopts_and_prints_the_digest(tmp_path: Path) -> None:
    saved(tmp_path / "model")
    for arguments, status in (["adopt", "model"], 0), (["adopt", "."], 1):
        done = subprocess.run(
            [sys.executable, "-c", "from memlm.cli import main; main()", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == status and "Traceback" not in done.stderr, done.stderr
        assert ("is a checkpoint with digest" in done.stdout) == (status == 0)


def test_weights_alone_are_not_a_model(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(AdoptionError, match="has no config.json"):
        adopt(str(tmp_path))


def test_a_model_that_changed_since_is_never_replaced(tmp_path: Path) -> None:
    """Its owner may have trained it further: undo into it would write the model over that it
    was."""
    before = {name: value.clone() for name, value in tiny_model().named_parameters()}
    name, weight = next(iter(before.items()))
    inputs = {"checkpoint": adopt(str(saved(tmp_path / "model"))).digest}
    with storage.write_artifact(str(tmp_path / "patch"), kind=PATCH_KIND, config={}, inputs=inputs) as draft:
        save_patch(changed_rows(before, before | {name: weight + 1}), draft.path / PATCH_FILE)
    apply_patch(str(tmp_path / "model"), str(tmp_path / "patch"), str(tmp_path / "patched"))
    mine = saved(tmp_path / "mine")
    adopt(str(mine))
    (mine / "model.safetensors").write_bytes(b"trained for a week since")
    owned = contents(mine)
    with pytest.raises(storage.StorageError, match="memlm did not write it and does not replace it. Give another path"):
        undo_patch(str(tmp_path / "patched"), str(tmp_path / "patch"), str(mine))
    storage.delete_made(str(mine))
    assert contents(mine) == owned
    with pytest.raises(storage.DamagedArtifact, match=f"move its manifest.json away and run: memlm adopt {mine}"):
        adopt(str(mine))
    (mine / storage.MANIFEST).rename(tmp_path / "old.json")
    saved(mine)
    adopt(str(mine))


@pytest.mark.parametrize("name", ["config.json", "extra.safetensors", "model.safetensors.index.json", "vocab.txt"])
def test_a_pipe_in_the_folder_blocks_nothing(tmp_path: Path, name: str) -> None:
    folder = saved(tmp_path / "model")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    code = f"from memlm.training.checkpoints.adopting import adopt, AdoptionError\ntry: adopt({str(folder)!r})\nexcept AdoptionError as error: print(error)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    assert name in said and not (folder / storage.MANIFEST).exists()


def test_folders_that_are_named_like_files_are_left_alone(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    for name in ("old.safetensors", "notes.json"):
        (folder / name).mkdir()
    assert not {"old.safetensors", "notes.json"} & adopt(str(folder)).files.keys()


def test_another_programs_manifest_is_named_as_the_obstacle(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    (folder / storage.MANIFEST).write_text('{"name": "my web application"}')
    with pytest.raises(AdoptionError, match="manifest.json is not a manifest of memlm"):
        adopt(str(folder))
    assert json.loads((folder / storage.MANIFEST).read_text()) == {"name": "my web application"}
