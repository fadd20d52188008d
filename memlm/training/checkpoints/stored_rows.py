"""Rows of weights in a checkpoint's safetensors files: find them, and overwrite exactly the rows
that a patch lists.

A patch is checked completely before the first byte is written, because a row out of a weight's
range would overwrite its neighbour or the file's header.
"""

import json
import math
import struct
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from safetensors import safe_open
from torch import Tensor

from memlm.outside import reading

PARTS = ("rows", "before", "after")
_EMPTY = "empty"
"""Placeholder for a weight in the file of a patch that changes nothing."""


class PatchError(ValueError):
    """A patch is invalid, or does not fit the checkpoint it is applied to or undone from."""


@dataclass(frozen=True, kw_only=True)
class ChangedRows:
    """The rows of one weight that differ, along its first dimension."""

    rows: Int[Tensor, " changed"]
    before: Tensor
    after: Tensor


@dataclass(frozen=True, kw_only=True)
class StoredWeight:
    """Position of a weight in a file, and the format of its rows."""

    file: str
    """Name relative to the checkpoint's folder."""
    first_byte: int
    dtype: str
    """Name of the type in safetensors."""
    shape: tuple[int, ...]


def read_patch(path: Path) -> Iterator[tuple[str, ChangedRows]]:
    """The changes of a patch, one weight at a time. Raises PatchError for an invalid file."""
    with _reading(path), safe_open(path, framework="pt") as file:
        for name in _weights_of(list(file.keys()), path):
            yield name, ChangedRows(**{part: file.get_tensor(f"{name}:{part}") for part in PARTS})


def _weights_of(keys: list[str], path: Path) -> list[str]:
    names = sorted({key.rpartition(":")[0] for key in keys} - {_EMPTY})
    expected = {f"{name}:{part}" for name in names for part in PARTS}
    wrong = sorted((expected ^ set(keys)) - {f"{_EMPTY}:rows"})
    if wrong:
        raise PatchError(
            f"{path}: {wrong[0]!r} is missing or belongs to no weight; a patch has rows, before and after of each"
        )
    return names


def stored_weights_in(checkpoint: Path, files: list[str]) -> dict[str, StoredWeight]:
    """The weights in a checkpoint's safetensors files (https://huggingface.co/docs/safetensors,
    "Format"). Raises PatchError."""
    found: dict[str, StoredWeight] = {}
    for name in files:
        if not name.endswith(".safetensors"):
            continue
        path = checkpoint / name
        with _reading(path):
            with safe_open(path, framework="pt"):  # checks that the header describes the file
                pass
            with open(path, "rb") as weights:
                (header_bytes,) = struct.unpack("<Q", weights.read(8))
                header = json.loads(weights.read(header_bytes))
            for weight, entry in header.items():
                if weight == "__metadata__":
                    continue
                if weight in found:
                    raise PatchError(
                        f"{checkpoint}: weight {weight!r} is in both {found[weight].file} and {name}; keep one of them"
                    )
                place = 8 + header_bytes + entry["data_offsets"][0]
                found[weight] = StoredWeight(
                    file=name, first_byte=place, dtype=entry["dtype"], shape=tuple(entry["shape"])
                )
    return found


def require_fitting(patch: Path, weights: Mapping[str, StoredWeight], checkpoint: Path | str) -> None:
    """Raise PatchError unless every row of the patch is a row of an existing weight, listed once,
    with finite numbers of its type and width."""
    with _reading(patch), safe_open(patch, framework="pt") as file:
        dtypes = {key: str(file.get_slice(key).get_dtype()) for key in file.keys()}
    for name, change in read_patch(patch):
        if name not in weights:
            raise PatchError(f"{patch}: the checkpoint {checkpoint} has no weight {name!r}, which the patch changes")
        stored = weights[name]
        _require_rows(change.rows, stored, f"{patch}: {name!r}")
        for part in ("before", "after"):
            values, expected = getattr(change, part), (len(change.rows), *stored.shape[1:])
            if dtypes[f"{name}:{part}"] != stored.dtype or tuple(values.shape) != expected:
                raise PatchError(
                    f"{patch}: {name!r} {part} is {dtypes[f'{name}:{part}']} {list(values.shape)}, but the checkpoint's rows are "
                    f"{stored.dtype} {list(expected)}; the patch belongs to another checkpoint"
                )
            require_finite(values, f"{patch}: {name!r} {part}")


def _require_rows(rows: Tensor, stored: StoredWeight, where: str) -> None:
    """Require one-dimensional, strictly ascending int64 numbers within the weight."""
    if rows.dtype != torch.int64 or rows.dim() != 1:
        raise PatchError(f"{where} rows are {rows.dtype} {list(rows.shape)}; they must be a list of int64 numbers")
    if not stored.shape:
        raise PatchError(f"{where} is one number, which has no rows; the patch belongs to another checkpoint")
    if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= stored.shape[0]):
        wrong = next(row for row in rows.tolist() if not 0 <= row < stored.shape[0])
        raise PatchError(
            f"{where} row {wrong} is not one of the checkpoint's rows 0 to {stored.shape[0] - 1}; the patch belongs to another"
        )
    if bool((rows[1:] <= rows[:-1]).any()):
        raise PatchError(f"{where} rows are not strictly ascending, so one may occur twice; make the patch again")


def require_finite(values: Tensor, where: str) -> None:
    """Raise PatchError for NaN and Inf, with which a model cannot answer anything."""
    if values.is_floating_point() and values.dtype.itemsize == 1:  # torch.isfinite does not support these
        values = values.float()
    if not bool(torch.isfinite(values).all()):
        raise PatchError(f"{where} contains NaN or Inf; learn again at a lower learning rate")


def write_rows(checkpoint: Path, patch: Path, weights: Mapping[str, StoredWeight], *, found: str, written: str) -> None:
    """Write a patch that fits (`require_fitting`). Raises PatchError at a row that differs from
    what the patch found there."""
    for name, change in read_patch(patch):
        stored = weights[name]
        expected, new = bytes_of_rows(getattr(change, found)), bytes_of_rows(getattr(change, written))
        row_bytes = new.shape[1]
        with open(checkpoint / stored.file, "r+b") as file:
            for row, old_row, new_row in zip(change.rows.tolist(), expected, new, strict=True):
                file.seek(stored.first_byte + row * row_bytes)
                if file.read(row_bytes) != old_row.numpy().tobytes():
                    raise PatchError(
                        f"row {row} of {name!r} in {stored.file} differs from what the patch {patch} found there; it belongs to another checkpoint"
                    )
                file.seek(stored.first_byte + row * row_bytes)
                file.write(new_row.numpy().tobytes())


def bytes_of_rows(tensor: Tensor) -> Int[Tensor, "rows bytes"]:
    return tensor.detach().contiguous().view(len(tensor), math.prod(tensor.shape[1:])).view(torch.uint8)


def _reading(path: Path) -> AbstractContextManager[None]:
    return reading(
        lambda reason: PatchError(f"{path}: cannot be read ({reason}); it is damaged, or was made by another program")
    )
