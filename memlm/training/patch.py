"""Patches: the changes of a finetune, byte for byte. A patch holds the changed rows of each weight
before and after, and can be undone exactly.

Applying and undoing write the rows' bytes into copies of the checkpoint's safetensors files and
touch nothing else, so undoing gives back the same files. The cost grows with the rows and the copy,
not with the pool.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from memlm import storage
from memlm.kinds import BASE_MANIFEST_FILE, CHECKPOINT_KIND, PATCH_FILE, PATCH_KIND
from memlm.training.checkpoints.stored_rows import (
    ChangedRows,
    PatchError,
    bytes_of_rows,
    read_patch,
    require_finite,
    require_fitting,
    stored_weights_in,
    write_rows,
)

__all__ = [
    "ChangedRows",
    "PatchError",
    "apply_patch",
    "changed_rows",
    "read_patch",
    "save_patch",
    "stored_weights",
    "undo_patch",
]


def stored_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights as a checkpoint stores them: tied ones once."""
    return {name: parameter.detach().cpu() for name, parameter in model.named_parameters()}


def changed_rows(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, ChangedRows]:
    """The rows whose bits differ, so NaN and signed zeros are compared exactly. Raises PatchError
    if the models' shapes differ."""
    if before.keys() != after.keys():
        raise PatchError(
            f"the learned model and its base have different weights: {sorted(before.keys() ^ after.keys())[:3]}"
        )
    patch = {}
    for name, old in before.items():
        new = after[name].to(old.dtype)
        if old.shape != new.shape:
            raise PatchError(f"{name} has shape {tuple(new.shape)} after learning and {tuple(old.shape)} before")
        rows = (bytes_of_rows(old) != bytes_of_rows(new)).any(dim=1).nonzero().squeeze(1)
        if len(rows):
            patch[name] = ChangedRows(rows=rows, before=old[rows].contiguous(), after=new[rows].contiguous())
    return patch


def save_patch(patch: Mapping[str, ChangedRows], path: Path) -> None:
    """Write a patch file. Raises PatchError for values that are not finite: such a patch could
    never be applied."""
    tensors: dict[str, Tensor] = {}
    for name, change in patch.items():
        require_finite(change.after, f"the learned {name!r}")
        tensors |= {f"{name}:rows": change.rows, f"{name}:before": change.before, f"{name}:after": change.after}
    save_file(tensors or {"empty:rows": torch.zeros(0, dtype=torch.int64)}, path)


def apply_patch(checkpoint: str, patch: str, output: str) -> None:
    """Write the checkpoint with the patch's rows as they were after learning.

    Refuses a checkpoint that the patch was not made from, and a patch that does not fit it,
    before anything is written.
    """
    manifest = storage.read_manifest(patch, PATCH_KIND)
    base = storage.read_manifest(checkpoint, CHECKPOINT_KIND)
    wanted = manifest.inputs.get("checkpoint")
    if base.digest != wanted:
        raise PatchError(
            f"the patch {patch} was learned from a different checkpoint than {checkpoint}; apply it to the one with digest {wanted}"
        )
    _require_apart(output, checkpoint, patch)
    inputs = {"base": base.digest, "patch": manifest.digest}
    with storage.write_artifact(output, kind=CHECKPOINT_KIND, config=base.config, inputs=inputs) as draft:
        source = storage.open_artifact(checkpoint, digest=base.digest)
        rows = storage.open_artifact(patch, digest=manifest.digest) / PATCH_FILE
        _write_changed(source, rows, checkpoint, draft.path, list(base.files), found="before", written="after")
        _copy_card(checkpoint, draft.path)
        (draft.path / BASE_MANIFEST_FILE.format(_number(_base_files(base)))).write_bytes(base.to_json())


def undo_patch(checkpoint: str, patch: str, output: str) -> None:
    """Write the base back, byte for byte, from a checkpoint that the patch was applied to."""
    manifest = storage.read_manifest(patch, PATCH_KIND)
    patched = storage.read_manifest(checkpoint, CHECKPOINT_KIND)
    base_files = _base_files(patched)
    if patched.inputs.get("patch") != manifest.digest or not base_files:
        raise PatchError(
            f"the patch {patch} was not applied to {checkpoint}, so it cannot be undone there; name the patched checkpoint"
        )
    _require_apart(output, checkpoint, patch)
    newest = BASE_MANIFEST_FILE.format(_number(base_files[1:]))
    source = storage.open_artifact(checkpoint, digest=patched.digest)
    base = storage.parse_manifest((source / newest).read_bytes(), f"{checkpoint}/{newest}")
    with storage.write_artifact(output, kind=CHECKPOINT_KIND, config=base.config, inputs=base.inputs) as draft:
        kept = [name for name in patched.files if name != newest]
        rows = storage.open_artifact(patch, digest=manifest.digest) / PATCH_FILE
        _write_changed(source, rows, checkpoint, draft.path, kept, found="after", written="before")
        _copy_card(checkpoint, draft.path)
        draft.details.update(base.details)
        draft.format = base.format
        if draft.measure() != base.files:
            raise PatchError(
                f"undoing {patch} in {checkpoint} does not restore the base's files; something else changed the checkpoint"
            )


def _write_changed(
    source: Path, rows: Path, checkpoint: str, target: Path, names: list[str], *, found: str, written: str
) -> None:
    """Write the files of a checkpoint, opened at `source`, to a new place, with the patch's rows
    over the ones that it was made from."""
    weights = stored_weights_in(source, names)
    require_fitting(rows, weights, checkpoint)
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)
    write_rows(target, rows, weights, found=found, written=written)


def _copy_card(checkpoint: str, target: Path) -> None:
    """Copy the model card as it is now: no manifest names it, and people may have changed or
    deleted it."""
    place = storage.address_of_file(checkpoint, storage.README)
    if storage.is_remote(place) or (Path(place).is_file() and not Path(place).is_symlink()):
        card = storage.read_bytes(place)
        if card is not None:
            (target / storage.README).write_bytes(card)


def _base_files(manifest: storage.Manifest) -> list[str]:
    """The names of the base manifests, one for each patch in a checkpoint."""
    names: list[str] = []
    while (name := BASE_MANIFEST_FILE.format(_number(names))) in manifest.files:
        names.append(name)
    return names


def _number(before: list[str]) -> str:
    return f"_{len(before) + 1}" if before else ""


def _require_apart(output: str, *inputs: str) -> None:
    """Require places apart on S3; on a disk no artifact is written inside another in any case."""
    for uri in inputs:
        if storage.is_remote(output) and f"{output.rstrip('/')}/".startswith(f"{uri.rstrip('/')}/"):
            raise PatchError(f"the output {output} lies inside the input {uri}; give a place outside of it")
