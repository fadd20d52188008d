import filecmp
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from memlm import storage
from memlm.kinds import CHECKPOINT_KIND, PATCH_FILE
from memlm.model.config import MemoryConfig, ModelConfig
from memlm.model.language_model import build_model, model_config
from memlm.training.patch import (
    apply_patch,
    changed_rows,
    read_patch,
    save_patch,
    stored_weights,
    undo_patch,
)
from tests.support.tiny import (
    EOS,
    PAD,
    VOCAB_SIZE,
    state,
)
from tests.training.patching import (
    CONFIG,
    INPUTS,
    NAN,
    ONE_FILE,
    SHARDED,
    WEIGHT,
    base_model,
    crafted,
    files_of,
    learn,
    learned_patch,
    of_rows,
    same_bits,
    stored,
    write_checkpoint,
    write_patch,
)


@pytest.mark.parametrize("method", ["sparse_memory", "full"])
def test_stored_weights_are_those_of_the_files(tmp_path, method):
    model = base_model(method)
    files, held = stored(write_checkpoint(tmp_path / "base", model)), stored_weights(model)
    assert files.keys() == held.keys() and all(same_bits(files[name], held[name]) for name in files)


@pytest.mark.parametrize("shard", [ONE_FILE, SHARDED])
@pytest.mark.parametrize("method", ["sparse_memory", "sparse_memory_decorrelated", "lora", "full"])
def test_apply_gives_the_learned_weights_and_undo_the_very_files(tmp_path, method, shard):
    checkpoint, patch, learned = learned_patch(tmp_path, method, shard)
    assert (len(list(Path(checkpoint).glob("*.safetensors"))) > 3) == (shard == SHARDED)
    patched, undone = str(tmp_path / "patched"), str(tmp_path / "undone")
    apply_patch(checkpoint, patch, patched)
    weights = stored(patched)
    assert weights.keys() == learned.keys()
    assert all(same_bits(weights[name], learned[name]) for name in learned)
    loaded = AutoModelForCausalLM.from_pretrained(storage.open_artifact(patched, kind=CHECKPOINT_KIND))
    assert all(same_bits(value, learned[name]) for name, value in loaded.state_dict().items())

    undo_patch(patched, patch, undone)
    assert files_of(undone) == files_of(checkpoint)
    content = files_of(checkpoint)  # the manifest too
    assert filecmp.cmpfiles(checkpoint, undone, content, shallow=False) == (content, [], [])
    assert filecmp.cmpfiles(checkpoint, patched, content, shallow=False)[1] != []
    assert storage.read_manifest(undone).digest == storage.read_manifest(checkpoint).digest


@pytest.mark.parametrize("card", ["as it was written", "changed", "taken away", "a link"])
def test_the_model_card_is_copied_unchanged(tmp_path, card):
    checkpoint, patch, _ = learned_patch(tmp_path, "full")
    place = Path(checkpoint) / "README.md"
    if card == "a link":
        place.symlink_to("/dev/zero")
    elif card != "taken away":
        place.write_text(card)
    before = files_of(checkpoint)
    apply_patch(checkpoint, patch, str(tmp_path / "patched"))
    undo_patch(str(tmp_path / "patched"), patch, str(tmp_path / "undone"))
    for folder in ("patched", "undone"):
        copied = tmp_path / folder / "README.md"
        assert copied.exists() == (card in ("as it was written", "changed"))
        assert not copied.exists() or copied.read_text() == card
    assert files_of(checkpoint) == before


def test_an_undone_checkpoint_can_be_patched_again(tmp_path):
    checkpoint, patch, _ = learned_patch(tmp_path, "sparse_memory")
    apply_patch(checkpoint, patch, str(tmp_path / "patched"))
    undo_patch(str(tmp_path / "patched"), patch, str(tmp_path / "undone"))
    apply_patch(str(tmp_path / "undone"), patch, str(tmp_path / "again"))
    assert (
        storage.read_manifest(str(tmp_path / "again")).digest == storage.read_manifest(str(tmp_path / "patched")).digest
    )


def test_a_patch_holds_the_changed_rows_and_no_other(tmp_path):
    model = base_model("sparse_memory")
    before = state(model)
    after = state(learn("sparse_memory", model))
    _, patch, _ = learned_patch(tmp_path, "sparse_memory")
    held = dict(read_patch(Path(patch, PATCH_FILE)))
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert sorted(held) == changed and all("value_pools" in name for name in changed)
    for name, change in held.items():
        rows = (before[name] != after[name]).any(dim=1).nonzero().flatten()
        assert change.rows.tolist() == rows.tolist() and 0 < len(rows) <= 12
        assert same_bits(change.before, before[name][rows]) and same_bits(change.after, after[name][rows])
    with safe_open(Path(patch, PATCH_FILE), framework="pt") as file:
        numbers = sum(file.get_tensor(name).numel() for name in file.keys())
    assert numbers == sum(len(change.rows) * (1 + 2 * change.before.shape[1]) for change in held.values())


def test_learning_nothing_gives_a_patch_that_changes_nothing(tmp_path):
    model = base_model("full")
    checkpoint = write_checkpoint(tmp_path / "base", model)
    patch = write_patch(tmp_path / "patch", checkpoint, state(model), state(model))
    assert dict(read_patch(Path(patch, PATCH_FILE))) == {}
    apply_patch(checkpoint, patch, str(tmp_path / "patched"))
    assert all(same_bits(value, stored(checkpoint)[name]) for name, value in stored(str(tmp_path / "patched")).items())


@pytest.mark.parametrize(
    "before, after, rows",
    [
        ([[1.0, NAN], [2.0, 3.0]], [[1.0, NAN], [2.0, 3.0]], []),
        ([[1.0, 2.0], [0.0, 3.0]], [[1.0, 2.0], [-0.0, 3.0]], [1]),
        ([[-0.0, 2.0], [0.0, 3.0]], [[0.0, 2.0], [0.0, 3.0]], [0]),
        ([[1.0, 2.0], [3.0, 4.0]], [[NAN, 2.0], [3.0, 4.0]], [0]),
        ([[NAN, 2.0], [3.0, 4.0]], [[1.0, 2.0], [3.0, float("inf")]], [0, 1]),
    ],
)
def test_rows_differ_by_their_bits(before, after, rows):
    patch = changed_rows({"w": torch.tensor(before)}, {"w": torch.tensor(after)})
    assert (patch["w"].rows.tolist() if patch else []) == rows


def test_nans_with_different_bits_are_different_values():
    quiet, loud = (torch.tensor([bits], dtype=torch.int32).view(torch.float32) for bits in (0x7FC00000, 0x7FC00001))
    assert changed_rows({"w": quiet}, {"w": quiet}) == {}
    assert changed_rows({"w": quiet}, {"w": loud})["w"].rows.tolist() == [0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64])
@pytest.mark.parametrize("shape", [(5,), (5, 1), (5, 3), (5, 2, 3)])
def test_rows_of_every_shape_and_type(tmp_path, shape, dtype):
    before = (torch.arange(30).to(dtype)[: torch.Size(shape).numel()]).view(shape)
    after = before.clone()
    after[3] = 7
    after[0].view(-1)[-1:] = 9
    save_patch(changed_rows({"w": before}, {"w": after}), tmp_path / "p")
    ((name, change),) = read_patch(tmp_path / "p")
    assert (name, change.rows.tolist(), change.after.dtype) == ("w", [0, 3], dtype)
    assert same_bits(change.after, after[[0, 3]]) and same_bits(change.before, before[[0, 3]])


TINY = 2.0**-149


def test_special_values_survive_apply_and_undo(tmp_path):
    """Signed zeros, the smallest and the largest numbers, and a NaN that no row of the patch
    holds."""
    model = base_model("full")
    weight = model.model.norm.weight.data
    weight[:3] = torch.tensor([NAN, -0.0, 0.0])
    checkpoint, before = write_checkpoint(tmp_path / "base", model), state(model)
    weight[:5] = torch.tensor([NAN, 0.0, -0.0, TINY, -torch.finfo(torch.float32).max])
    patch = write_patch(tmp_path / "patch", checkpoint, before, state(model))
    assert [change.rows.tolist() for _, change in read_patch(Path(patch, PATCH_FILE))] == [[1, 2, 3, 4]]
    apply_patch(checkpoint, patch, str(tmp_path / "patched"))
    assert same_bits(stored(str(tmp_path / "patched"))["model.norm.weight"], weight)
    undo_patch(str(tmp_path / "patched"), patch, str(tmp_path / "undone"))
    assert storage.read_manifest(str(tmp_path / "undone")).files == storage.read_manifest(checkpoint).files


def test_tied_weights_are_stored_once_and_patched_once(tmp_path):
    shape = ModelConfig(
        num_layers=2,
        hidden_size=12,
        num_attention_heads=2,
        intermediate_size=20,
        tie_embeddings=True,
        memory=MemoryConfig(layers=()),
    )
    model = build_model(model_config(shape, dense=True, vocab_size=VOCAB_SIZE, eos_id=EOS, pad_id=PAD), seed=0)
    checkpoint = write_checkpoint(tmp_path / "base", model)
    before = {name: weight.clone() for name, weight in stored_weights(model).items()}
    learn("full", model)
    patch = write_patch(tmp_path / "patch", checkpoint, before, stored_weights(model))
    assert before.keys() == stored(checkpoint).keys() < state(model).keys()
    apply_patch(checkpoint, patch, str(tmp_path / "patched"))
    learned = state(model)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "patched")
    assert all(same_bits(value, learned[name]) for name, value in loaded.state_dict().items())


# --- folders ---


def test_all_files_of_a_checkpoint_are_copied_and_no_others(tmp_path):
    """Files in a folder that is called like the manifest travel too, but no file that was put next
    to them later. (The README is the model card.)"""
    model = base_model("full")
    with storage.write_artifact(str(tmp_path / "base"), kind=CHECKPOINT_KIND, config=CONFIG, inputs=INPUTS) as draft:
        model.save_pretrained(draft.path)
        (draft.path / "sub").mkdir()
        (draft.path / "sub" / storage.MANIFEST).write_text("mine")
    checkpoint = str(tmp_path / "base")
    Path(checkpoint, "notes.txt").write_text("about a model")
    Path(checkpoint, "extra.safetensors").write_text("no weights")
    patch = crafted(tmp_path, checkpoint, of_rows([3]))
    apply_patch(checkpoint, patch, str(tmp_path / "patched"))
    undo_patch(str(tmp_path / "patched"), patch, str(tmp_path / "undone"))
    named = sorted(storage.read_manifest(checkpoint).files)
    assert "sub/manifest.json" in named and "notes.txt" not in named
    assert files_of(str(tmp_path / "undone")) == sorted([*named, storage.MANIFEST])
    assert files_of(str(tmp_path / "patched")) == sorted([*named, storage.MANIFEST, "base_manifest.json"])


def test_patches_on_patches_are_undone_one_after_the_other(tmp_path):
    places = [write_checkpoint(tmp_path / "0", base_model("full"))]
    patches = []
    for number in range(1, 4):
        (tmp_path / f"p{number}").mkdir()
        old = stored(places[-1])[WEIGHT][[number]]
        rows = {"rows": torch.tensor([number]), "before": old, "after": old + 1}
        patch = crafted(tmp_path / f"p{number}", places[-1], {f"{WEIGHT}:{part}": rows[part] for part in rows})
        patches.append(patch)
        places.append(str(tmp_path / str(number)))
        apply_patch(places[-2], patch, places[-1])
    current = places[-1]
    for number in (3, 2, 1):
        undo_patch(current, patches[number - 1], str(tmp_path / f"back{number}"))
        current = str(tmp_path / f"back{number}")
        assert storage.read_manifest(current).digest == storage.read_manifest(places[number - 1]).digest


@pytest.mark.parametrize("format", [1, 2])
def test_undo_restores_the_manifest_in_its_original_format(tmp_path, format):
    """The manifest includes the seconds that the base took and the lease's epoch, and may be of a
    base made before details had a digest."""
    with storage.write_artifact(str(tmp_path / "base"), kind=CHECKPOINT_KIND, config=CONFIG, inputs=INPUTS) as draft:
        base_model("full").save_pretrained(draft.path)
        draft.details.update(seconds=12.3456789, epoch=3)
        draft.format = format
    checkpoint = str(tmp_path / "base")
    patch = crafted(tmp_path, checkpoint, of_rows([3]))
    apply_patch(checkpoint, patch, str(tmp_path / "patched"))
    undo_patch(str(tmp_path / "patched"), patch, str(tmp_path / "undone"))
    there, back = (Path(uri, storage.MANIFEST).read_bytes() for uri in (checkpoint, str(tmp_path / "undone")))
    assert there == back and (b"details_digest" in there) == (format == 2)
