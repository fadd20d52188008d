"""What did a finetune change, byte for byte? A patch holds the changed rows of each weight before and after, and can be undone exactly.

Applying and undoing write the rows' bytes into the checkpoint's own safetensors files and touch nothing else, so undoing gives
back the very files; the cost follows the rows and the copy, never the memory.
"""

import json
import shutil
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from memlm import storage
from memlm.artifacts import CHECKPOINT_KIND
from memlm.artifacts import PATCH_KIND as KIND

PATCH_FILE = "patch.safetensors"


class PatchError(ValueError):
    """A patch does not fit the checkpoint it is applied to or undone from."""


@dataclass(frozen=True, kw_only=True)
class ChangedRows:
    """The rows of one weight that differ, along its first dimension."""

    rows: Int[Tensor, " changed"]
    before: Tensor
    after: Tensor


def stored_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights as a checkpoint stores them: tied ones once."""
    return {name: parameter.detach().cpu() for name, parameter in model.named_parameters()}


def changed_rows(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, ChangedRows]:
    """Compares bits, so a NaN or a signed zero counts as what it is. Raises PatchError if the models' shapes differ."""
    if before.keys() != after.keys():
        raise PatchError(
            f"the learned model has other weights than its base: {sorted(before.keys() ^ after.keys())[:3]}"
        )
    patch = {}
    for name, old in before.items():
        new = after[name].to(old.dtype)
        if old.shape != new.shape:
            raise PatchError(f"{name} has shape {tuple(new.shape)} after learning and {tuple(old.shape)} before")
        rows = (_bytes(old) != _bytes(new)).any(dim=1).nonzero().squeeze(1)
        if len(rows):
            patch[name] = ChangedRows(rows=rows, before=old[rows].contiguous(), after=new[rows].contiguous())
    return patch


def _bytes(tensor: Tensor) -> Int[Tensor, "rows bytes"]:
    return tensor.detach().contiguous().view(len(tensor), -1).view(torch.uint8)


def save_patch(patch: Mapping[str, ChangedRows], path: Path) -> None:
    tensors: dict[str, Tensor] = {}
    for name, change in patch.items():
        tensors |= {f"{name}:rows": change.rows, f"{name}:before": change.before, f"{name}:after": change.after}
    save_file(tensors or {"empty:rows": torch.zeros(0, dtype=torch.int64)}, path)


def read_patch(path: Path) -> Iterator[tuple[str, ChangedRows]]:
    """One weight at a time."""
    with safe_open(path, framework="pt") as file:
        for key in sorted(file.keys()):
            if key.endswith(":before"):
                name = key.removesuffix(":before")
                yield (
                    name,
                    ChangedRows(**{part: file.get_tensor(f"{name}:{part}") for part in ("rows", "before", "after")}),
                )


def apply_patch(checkpoint: str, patch: str, output: str) -> None:
    """Write the checkpoint with the patch's rows as they were after learning. Refuses a checkpoint that the patch was not made from."""
    manifest = storage.read_manifest(patch, KIND)
    base = storage.read_manifest(checkpoint, CHECKPOINT_KIND)
    if base.digest != manifest.inputs["checkpoint"]:
        raise PatchError(
            f"the patch {patch} was learned from another checkpoint than {checkpoint}; apply it to the one with digest {manifest.inputs['checkpoint']}"
        )
    inputs = {"base": base.digest, "patch": manifest.digest}
    with storage.write_artifact(output, kind=CHECKPOINT_KIND, config=base.config, inputs=inputs) as draft:
        _copy_files(storage.open_artifact(checkpoint), draft.path)
        _write_rows(draft.path, storage.open_artifact(patch) / PATCH_FILE, found="before", written="after")
        (draft.path / "base_manifest.json").write_bytes(base.to_json())


def undo_patch(checkpoint: str, patch: str, output: str) -> None:
    """Write the base back, byte for byte, from a checkpoint that the patch was applied to."""
    manifest = storage.read_manifest(patch, KIND)
    patched = storage.read_manifest(checkpoint, CHECKPOINT_KIND)
    if patched.inputs.get("patch") != manifest.digest:
        raise PatchError(
            f"the patch {patch} was not applied to {checkpoint}, so it cannot be undone there; name the patched checkpoint"
        )
    source = storage.open_artifact(checkpoint)
    base = json.loads((source / "base_manifest.json").read_bytes())
    with storage.write_artifact(output, kind=CHECKPOINT_KIND, config=base["config"], inputs=base["inputs"]) as draft:
        _copy_files(source, draft.path)
        (draft.path / "base_manifest.json").unlink()
        _write_rows(draft.path, storage.open_artifact(patch) / PATCH_FILE, found="after", written="before")
        if draft.measure() != base["files"]:
            raise PatchError(
                f"undoing {patch} in {checkpoint} does not give the base's files back; the checkpoint was changed by other means"
            )


def _copy_files(source: Path, target: Path) -> None:
    for file in source.rglob("*"):
        if file.is_file() and file.name != storage.MANIFEST:
            copy = target / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)


def _write_rows(checkpoint: Path, patch: Path, *, found: str, written: str) -> None:
    places = {
        name: (file, offset, length)
        for file in sorted(checkpoint.glob("*.safetensors"))
        for name, offset, length in _tensor_places(file)
    }
    for name, change in read_patch(patch):
        if name not in places:
            raise PatchError(f"the checkpoint {checkpoint} has no weight {name!r}, which the patch changes")
        file, offset, _ = places[name]
        expected, new = _bytes(getattr(change, found)), _bytes(getattr(change, written))
        row_bytes = new.shape[1]
        with open(file, "r+b") as weights:
            for row, old_row, new_row in zip(change.rows.tolist(), expected, new, strict=True):
                weights.seek(offset + row * row_bytes)
                if weights.read(row_bytes) != old_row.numpy().tobytes():
                    raise PatchError(
                        f"row {row} of {name!r} in {file} is not what the patch found there; it belongs to another checkpoint"
                    )
                weights.seek(offset + row * row_bytes)
                weights.write(new_row.numpy().tobytes())


def _tensor_places(file: Path) -> Iterator[tuple[str, int, int]]:
    """Name, first byte and length of each tensor (https://huggingface.co/docs/safetensors, "Format")."""
    with open(file, "rb") as weights:
        (header_bytes,) = struct.unpack("<Q", weights.read(8))
        header = json.loads(weights.read(header_bytes))
    for name, entry in header.items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            yield name, 8 + header_bytes + first, last - first
