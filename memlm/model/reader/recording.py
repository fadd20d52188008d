"""The trunk activations of the inputs that a reader has read, found by tokens and positions.

A recording knows of no checkpoint: it belongs to models of the one that it was made with, in the
same precision. Packed into one flat array, it is shared by the processes on a node and read in
place by all of them.
"""

import hashlib
import math
import warnings
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from memlm.model.reader.trunk import TrunkActivations

ALIGNMENT = 64
"""Bytes; enough for vector instructions and for every dtype."""


class _Place(NamedTuple):
    offset: int
    """In bytes."""
    shape: tuple[int, ...]
    dtype: torch.dtype


class PackedRecording(NamedTuple):
    """A recording as one array and a table of contents, to send between processes."""

    data: UInt8[np.ndarray, " bytes"]
    contents: dict[bytes, tuple[bool, list[_Place]]]
    """By input_key: whether position ids were given, and the position of each tensor."""


class Recording:
    """Trunk activations in the order in which they were added, up to the first that would exceed
    max_bytes."""

    def __init__(self, *, max_bytes: float = math.inf, device: torch.device | None = None) -> None:
        """`device` is where activations are kept; by default where they were computed."""
        self._kept: dict[bytes, TrunkActivations] = {}
        self._bytes_left, self._device = max_bytes, device
        self.is_full = max_bytes <= 0

    def find(self, key: bytes, *, keys_values: bool = False) -> TrunkActivations | None:
        """The activations of an input, on the device where they are kept; None if they were not
        recorded, or not with keys and values."""
        trunk = self._kept.get(key)
        if trunk is None or (keys_values and not trunk.keys_values):
            return None
        return trunk._replace(slots=trunk.slots.long())

    def add(self, key: bytes, trunk: TrunkActivations) -> None:
        """Keep the activations in place of any that the input has, unless the recording is full."""
        # int32 is half the bytes, and no pool has 2**31 slots.
        trunk = trunk._replace(slots=trunk.slots.int())
        self._bytes_left -= _num_bytes(trunk)
        if key in self._kept:
            self._bytes_left += _num_bytes(self._kept[key])
        self.is_full = self.is_full or self._bytes_left < 0
        if not self.is_full:
            self._kept[key] = trunk if self._device is None else trunk.to(self._device)

    def pack(self) -> PackedRecording:
        data = np.zeros(sum(map(_num_bytes, self._kept.values())), dtype=np.uint8)
        contents, offset = {}, 0
        for key, trunk in self._kept.items():
            places = []
            for tensor in _tensors(trunk):
                flat = tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy()
                data[offset : offset + len(flat)] = flat
                places.append(_Place(offset, tuple(tensor.shape), tensor.dtype))
                offset += _aligned_bytes(tensor)
            contents[key] = (trunk.position_ids is not None, places)
        return PackedRecording(data, contents)

    @classmethod
    def unpack(cls, parts: Iterable[PackedRecording]) -> "Recording":
        """All that was recorded in these, and no room for more. Their arrays are read where they
        lie and must outlive the recording."""
        recording = cls(max_bytes=0)
        for data, contents in parts:
            flat = read_only_tensor(data)
            for key, (has_positions, places) in contents.items():
                residual, attention, slots, weights, *rest = (_view(flat, place) for place in places)
                positions = rest.pop(0) if has_positions else None
                pairs = tuple(zip(rest[::2], rest[1::2], strict=True))
                recording._kept[key] = TrunkActivations(residual, attention, slots, weights, positions, pairs)
        return recording


def input_key(tokens: Int[Tensor, "batch seq"], position_ids: Int[Tensor, "rows seq"] | None) -> bytes:
    """A digest of the values and shapes of an input."""
    content = hashlib.blake2b(digest_size=16)
    for tensor in (tokens, position_ids):
        if tensor is not None:
            content.update(repr(tuple(tensor.shape)).encode())
            content.update(tensor.cpu().contiguous().numpy())
    return content.digest()


def read_only_tensor(array: np.ndarray) -> Tensor:
    """A tensor over an array that others read too. Nothing may write to it: torch knows no
    read-only memory and does not stop it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*")
        return torch.from_numpy(array)


def _tensors(trunk: TrunkActivations) -> list[Tensor]:
    """The tensors in the order in which they are packed."""
    positions = [] if trunk.position_ids is None else [trunk.position_ids]
    pairs = [tensor for pair in trunk.keys_values for tensor in pair]
    return [trunk.residual, trunk.attention, trunk.slots, trunk.weights, *positions, *pairs]


def _num_bytes(trunk: TrunkActivations) -> int:
    return sum(map(_aligned_bytes, _tensors(trunk)))


def _aligned_bytes(tensor: Tensor) -> int:
    return -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT


def _view(flat: UInt8[Tensor, " bytes"], place: _Place) -> Tensor:
    num_bytes = int(np.prod(place.shape)) * place.dtype.itemsize
    return flat[place.offset : place.offset + num_bytes].view(place.dtype).view(place.shape)
