"""Patches and checkpoints that are refused before anything is written."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from memlm import storage
from memlm.kinds import CHECKPOINT_KIND, PATCH_FILE
from memlm.storage import DamagedArtifact
from memlm.training.patch import (
    PatchError,
    apply_patch,
    changed_rows,
    read_patch,
    save_patch,
    undo_patch,
)
from tests.support.tiny import (
    TWO_SEPARATE,
    state,
    tiny_model,
)
from tests.training.patching import (
    CONFIG,
    INPUTS,
    NAN,
    WEIGHT,
    base_model,
    crafted,
    files_of,
    learned_patch,
    of_rows,
    stored,
    write_checkpoint,
    write_patch,
)


@pytest.mark.parametrize(
    "after, named",
    [
        ({"v": torch.zeros(2, 2)}, "the learned model and its base have different weights"),
        ({"w": torch.zeros(2, 2), "lora": torch.zeros(1)}, "lora"),
        ({"w": torch.zeros(3, 2)}, r"w has shape \(3, 2\) after learning and \(2, 2\) before"),
    ],
)
def test_a_learned_model_of_another_shape_is_refused(after, named):
    with pytest.raises(PatchError, match=named):
        changed_rows({"w": torch.zeros(2, 2)}, after)


@pytest.fixture
def chain(tmp_path) -> tuple[str, str, str]:
    """A base, a patch and the patched checkpoint."""
    checkpoint, patch, _ = learned_patch(tmp_path, "sparse_memory")
    apply_patch(checkpoint, patch, str(tmp_path / "patched"))
    return checkpoint, patch, str(tmp_path / "patched")


def assert_refused(error: type[Exception], match: str, change, checkpoint: str, patch: str, output: Path) -> None:
    with pytest.raises(error, match=match):
        change(checkpoint, patch, str(output))
    assert not storage.has_artifact(str(output)) and storage.list_names(str(output)) == []


def test_apply_refuses_another_base(chain, tmp_path):
    _, patch, patched = chain
    other = write_checkpoint(tmp_path / "other", tiny_model(TWO_SEPARATE, seed=1))
    for wrong in (other, patched):  # a patch is not applied twice
        assert_refused(
            PatchError, "learned from a different checkpoint", apply_patch, wrong, patch, tmp_path / "output"
        )


def test_undo_refuses_a_checkpoint_without_this_patch(chain, tmp_path):
    checkpoint, patch, patched = chain
    before = state(base_model("sparse_memory"))
    after = {name: value + 1 if "value_pools" in name else value for name, value in before.items()}
    other = write_patch(tmp_path / "other", checkpoint, before, after)
    assert_refused(PatchError, "was not applied to", undo_patch, checkpoint, patch, tmp_path / "output")
    assert_refused(PatchError, "was not applied to", undo_patch, patched, other, tmp_path / "output")


def test_artifacts_in_the_wrong_place_are_refused(chain, tmp_path):
    checkpoint, patch, patched = chain
    for change, first in ((apply_patch, checkpoint), (undo_patch, patched)):
        assert_refused(storage.StorageError, "is of kind", change, patch, first, tmp_path / "output")
        assert_refused(
            storage.StorageError, "has no manifest.json", change, str(tmp_path / "no"), patch, tmp_path / "output"
        )


def flip_a_byte(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damaged", ["checkpoint", "patch"])
def test_damage_is_found_before_anything_is_written(chain, tmp_path, damaged):
    checkpoint, patch, patched = chain
    for change, base in ((apply_patch, checkpoint), (undo_patch, patched)):
        file = Path(patch, PATCH_FILE) if damaged == "patch" else Path(base, "model.safetensors")
        flip_a_byte(file, -1)
        assert_refused(DamagedArtifact, "changed: ", change, base, patch, tmp_path / "output")
        flip_a_byte(file, -1)


def place_of(file: Path, name: str, row: int) -> int:
    """First byte of a row, by the format's own definition: 8 bytes of length, a JSON header, the
    tensors."""
    content = file.read_bytes()
    header_bytes = int.from_bytes(content[:8], "little")
    entry = json.loads(content[8 : 8 + header_bytes])[name]
    first, last = entry["data_offsets"]
    return 8 + header_bytes + first + row * ((last - first) // entry["shape"][0])


@pytest.mark.parametrize("touched", ["a row of the patch", "another row", "another file"])
def test_undo_refuses_a_checkpoint_changed_by_something_else(chain, tmp_path, touched):
    """A checkpoint that claims the patch and verifies, but kept learning."""
    _, patch, patched = chain
    manifest = storage.read_manifest(patched)
    name, change = next(read_patch(Path(patch, PATCH_FILE)))
    with storage.write_artifact(
        str(tmp_path / "later"), kind=CHECKPOINT_KIND, config=manifest.config, inputs=manifest.inputs
    ) as draft:
        shutil.copytree(patched, draft.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns(storage.MANIFEST))
        if touched == "another file":
            (draft.path / "generation_config.json").write_text("{}")
        else:
            rows = change.rows.tolist()
            row = rows[0] if touched == "a row of the patch" else next(row for row in range(81) if row not in rows)
            weights = draft.path / "model.safetensors"
            flip_a_byte(weights, place_of(weights, name, row))
    message = {"a row of the patch": rf"row {change.rows[0]} of '{name}'"}.get(
        touched, "does not restore the base's files"
    )
    assert_refused(PatchError, message, undo_patch, str(tmp_path / "later"), patch, tmp_path / "output")


def test_a_patch_for_a_missing_weight_is_refused(tmp_path):
    model = base_model("full")
    checkpoint = write_checkpoint(tmp_path / "base", model)
    patch = write_patch(tmp_path / "patch", checkpoint, {"ghost": torch.zeros(2, 2)}, {"ghost": torch.ones(2, 2)})
    assert_refused(PatchError, "no weight 'ghost'", apply_patch, checkpoint, patch, tmp_path / "output")


def test_an_output_that_holds_something_else_is_not_overwritten(chain, tmp_path):
    checkpoint, patch, _ = chain
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(storage.StorageError, match="is not empty"):
        apply_patch(checkpoint, patch, str(tmp_path / "mine"))
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"
    assert files_of(str(tmp_path / "mine")) == ["thesis.tex"]


UNFIT = {
    "one past the last row": (lambda: of_rows([3, 12]), "row 12 is not one of the checkpoint's rows 0 to 11"),
    "far past the end": (lambda: of_rows([2**62]), f"row {2**62} is not one"),
    "a negative row": (lambda: of_rows([-1]), "row -1 is not one"),
    "a row in the header": (lambda: of_rows([-40, 3]), "row -40 is not one"),
    "a row twice": (lambda: of_rows([3, 3]), "not strictly ascending"),
    "descending rows": (lambda: of_rows([4, 3]), "not strictly ascending"),
    "rows of int32": (lambda: of_rows([3], rows=torch.tensor([3], dtype=torch.int32)), "must be a list of int64"),
    "rows of floats": (lambda: of_rows([3], rows=torch.tensor([3.0])), "must be a list of int64"),
    "rows in a table": (lambda: of_rows([3], rows=torch.tensor([[3]])), "must be a list of int64"),
    "more rows than values": (lambda: of_rows([3], rows=torch.tensor([3, 4])), "belongs to another checkpoint"),
    "a narrower row": (lambda: of_rows([3], width=6), r"F32 \[1, 6\], but the checkpoint's rows are F32 \[1, 12\]"),
    "half the bytes": (lambda: of_rows([3], dtype=torch.bfloat16), r"before is BF16 .* F32"),
    "as many bytes of another type": (
        lambda: of_rows([3], before=torch.zeros(1, 12, dtype=torch.int32), after=torch.zeros(1, 12, dtype=torch.int32)),
        "before is I32",
    ),
    "as many bytes in another shape": (
        lambda: of_rows([3], before=torch.zeros(1, 3, 4), after=torch.zeros(1, 3, 4)),
        r"F32 \[1, 3, 4\]",
    ),
    "another type after": (lambda: of_rows([3], after=torch.zeros(1, 12, dtype=torch.float16)), "after is F16"),
    "NaN": (lambda: of_rows([3], value=NAN), "after contains NaN or Inf"),
    "Inf": (lambda: of_rows([3], value=float("-inf")), "after contains NaN or Inf"),
    "no rows": (lambda: {f"{WEIGHT}:{part}": torch.zeros(1, 12) for part in ("before", "after")}, "rows' is missing"),
    "a part of nothing": (lambda: of_rows([3]) | {"else": torch.zeros(1)}, "missing or belongs to no weight"),
    "no safetensors": (lambda: b"PK not safetensors", "cannot be read"),
    "a huge header": (lambda: (2**60).to_bytes(8, "little") + b"{}", "cannot be read"),
    "a deep header": (lambda: (200_000).to_bytes(8, "little") + b"[" * 200_000, "cannot be read"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_a_patch_that_does_not_fit_is_refused_before_a_byte_is_written(tmp_path, monkeypatch, kind):
    checkpoint = write_checkpoint(tmp_path / "base", base_model("full"))
    make, message = UNFIT[kind]
    patch = crafted(tmp_path, checkpoint, make())
    monkeypatch.setattr(
        "memlm.training.patch.write_rows", lambda *_, **__: pytest.fail("a byte would be written"), raising=False
    )
    with pytest.raises(PatchError, match=message) as caught:
        apply_patch(checkpoint, patch, str(tmp_path / "output"))
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "crafted"]


def test_a_patch_that_fits_by_hand_is_applied(tmp_path):
    """The patches above are refused for their fault alone."""
    checkpoint = write_checkpoint(tmp_path / "base", base_model("full"))
    apply_patch(checkpoint, crafted(tmp_path, checkpoint, of_rows([3, 11])), str(tmp_path / "patched"))
    assert (stored(str(tmp_path / "patched"))[WEIGHT] == 0.5).all(dim=1).nonzero().flatten().tolist() == [3, 11]


def test_undo_checks_the_patch_too(tmp_path):
    """A checkpoint that claims a patch, and the patch, both made by hand."""
    checkpoint = write_checkpoint(tmp_path / "base", base_model("full"))
    patch, base = crafted(tmp_path, checkpoint, of_rows([12])), storage.read_manifest(checkpoint)
    inputs = {"base": base.digest, "patch": storage.read_manifest(patch).digest}
    with storage.write_artifact(str(tmp_path / "claims"), kind=CHECKPOINT_KIND, config=CONFIG, inputs=inputs) as draft:
        shutil.copytree(checkpoint, draft.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns(storage.MANIFEST))
        (draft.path / "base_manifest.json").write_bytes(base.to_json())
    assert_refused(PatchError, "row 12 is not one", undo_patch, str(tmp_path / "claims"), patch, tmp_path / "output")


@pytest.mark.parametrize("body", [b"", b"{}", b"[" * 100_000, b'{"config": 1, "digest": "x"}'])
def test_an_invalid_base_manifest_is_refused_on_one_line(tmp_path, body):
    checkpoint = write_checkpoint(tmp_path / "base", base_model("full"))
    patch = crafted(tmp_path, checkpoint, of_rows([3]))
    inputs = {"base": "x", "patch": storage.read_manifest(patch).digest}
    with storage.write_artifact(str(tmp_path / "claims"), kind=CHECKPOINT_KIND, config=CONFIG, inputs=inputs) as draft:
        shutil.copytree(checkpoint, draft.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns(storage.MANIFEST))
        (draft.path / "base_manifest.json").write_bytes(body)
    assert_refused(DamagedArtifact, "base_manifest", undo_patch, str(tmp_path / "claims"), patch, tmp_path / "output")


def test_a_weight_in_two_files_of_a_checkpoint_is_refused(tmp_path):
    model = base_model("full")
    with storage.write_artifact(str(tmp_path / "base"), kind=CHECKPOINT_KIND, config=CONFIG, inputs=INPUTS) as draft:
        model.save_pretrained(draft.path)
        shutil.copyfile(draft.path / "model.safetensors", draft.path / "old.safetensors")
    checkpoint = str(tmp_path / "base")
    patch = crafted(tmp_path, checkpoint, of_rows([3]))
    assert_refused(PatchError, "is in both model.safetensors and old", apply_patch, checkpoint, patch, tmp_path / "out")


def test_a_finetune_that_diverged_leaves_no_patch(tmp_path):
    before, after = {"w": torch.zeros(2, 2)}, {"w": torch.tensor([[0.0, 1.0], [NAN, 0.0]])}
    with pytest.raises(PatchError, match="the learned 'w' contains NaN or Inf; learn again at a lower learning rate"):
        save_patch(changed_rows(before, after), tmp_path / "p")
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("inside", ["base", "crafted"])
def test_an_output_inside_an_input_is_refused(tmp_path, inside):
    checkpoint = write_checkpoint(tmp_path / "base", base_model("full"))
    patch = crafted(tmp_path, checkpoint, of_rows([3]))
    before = files_of(str(tmp_path))
    for place in (f"{inside}/output", f"{inside}/sub/../deep/output", inside):
        with pytest.raises((storage.StorageError, PatchError)):
            apply_patch(checkpoint, patch, str(tmp_path / place))
    assert files_of(str(tmp_path)) == before
    storage.open_artifact(checkpoint)


def test_undo_into_an_existing_checkpoint_deletes_nothing(tmp_path):
    """Nothing is deleted even if the patched checkpoint was changed, so that the base cannot be
    restored."""
    checkpoint = write_checkpoint(tmp_path / "base", base_model("full"))
    patch = crafted(tmp_path, checkpoint, of_rows([3]))
    apply_patch(checkpoint, patch, str(tmp_path / "patched"))
    manifest = storage.read_manifest(str(tmp_path / "patched"))
    with storage.write_artifact(
        str(tmp_path / "later"), kind=CHECKPOINT_KIND, config=manifest.config, inputs=manifest.inputs
    ) as draft:
        shutil.copytree(
            tmp_path / "patched", draft.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json")
        )
        (draft.path / "generation_config.json").write_text("{}")
    before = files_of(checkpoint)
    with pytest.raises(PatchError, match="does not restore the base's files"):
        undo_patch(str(tmp_path / "later"), patch, checkpoint)
    assert files_of(checkpoint) == before
    undo_patch(str(tmp_path / "patched"), patch, checkpoint)
    assert files_of(checkpoint) == before
