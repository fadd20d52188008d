"""Whose trunk activations are known already? Found by the tokens and positions they were
computed from, so nobody counts batches; what is not known is computed as it would be without.
The model that asks must compute in the precision of the one it was built with.

Built once per checkpoint, packed into one flat array that processes on a node share, and read in
place by all of them.
"""

import hashlib
import warnings
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from memlm.model.reader.trunk import TrunkActivations, continue_from, run_trunk

ALIGNMENT = 64
"""Bytes; what vector instructions and every dtype are content with."""


class TrunkInput(NamedTuple):
    """One forward pass whose trunk is worth knowing."""

    tokens: Int[Tensor, "batch seq"]
    position_ids: Int[Tensor, "rows seq"] | None = None
    keep_keys_values: bool = False
    """For prompts, which are decoded from."""

    def to(self, device: torch.device) -> "TrunkInput":
        positions = None if self.position_ids is None else self.position_ids.to(device)
        return TrunkInput(self.tokens.to(device), positions, self.keep_keys_values)


class _Place(NamedTuple):
    offset: int
    """In bytes."""
    shape: tuple[int, ...]
    dtype: torch.dtype


class PackedTrunks(NamedTuple):
    """A cache as one array and a table of contents; what travels between processes."""

    data: UInt8[np.ndarray, " bytes"]
    contents: dict[bytes, tuple[bool, list[_Place]]]
    """By key: whether position ids were given, and where each tensor lies."""


class TrunkCache:
    """Trunk activations by their input. Knows of no checkpoint: whoever builds one gives it to
    models of that checkpoint only."""

    def __init__(self, known: Mapping[bytes, TrunkActivations] = MappingProxyType({})) -> None:
        self._known = known

    @staticmethod
    def build(model: nn.Module, inputs: Iterable[TrunkInput], *, max_bytes: int) -> "TrunkCache":
        """Compute inputs in their order until the next would exceed max_bytes of activations;
        the rest stays unknown."""
        known: dict[bytes, TrunkActivations] = {}
        for tokens, position_ids, keep in inputs:
            key = _key(tokens, position_ids)
            if key in known:
                continue
            trunk = run_trunk(model, tokens, position_ids, keep_keys_values=keep)
            # int32 is half the bytes, and no pool has 2**31 slots.
            trunk = trunk._replace(slots=trunk.slots.int()).to(torch.device("cpu"))
            max_bytes -= sum(map(_aligned_bytes, _tensors(trunk)))
            if max_bytes < 0:
                break
            known[key] = trunk
        return TrunkCache(known)

    @staticmethod
    def of(parts: Iterable[PackedTrunks]) -> "TrunkCache":
        """All that these know. Their arrays are read where they lie and must outlive the cache."""
        known: dict[bytes, TrunkActivations] = {}
        for data, contents in parts:
            flat = read_only_tensor(data)
            for key, (has_positions, places) in contents.items():
                residual, slots, weights, *rest = (_view(flat, place) for place in places)
                positions = rest.pop(0) if has_positions else None
                pairs = tuple(zip(rest[::2], rest[1::2], strict=True))
                known[key] = TrunkActivations(residual, slots, weights, positions, pairs)
        return TrunkCache(known)

    def find(
        self,
        tokens: Int[Tensor, "batch seq"],
        position_ids: Int[Tensor, "rows seq"] | None = None,
        *,
        keys_values: bool = False,
    ) -> TrunkActivations | None:
        """The activations of exactly this input, on its device; None if they are not known, or
        not with keys and values."""
        if not self._known:
            return None
        trunk = self._known.get(_key(tokens, position_ids))
        if trunk is None or (keys_values and not trunk.keys_values):
            return None
        return trunk._replace(slots=trunk.slots.long()).to(tokens.device)

    def logits(
        self, model: nn.Module, tokens: Int[Tensor, "batch seq"], position_ids: Int[Tensor, "rows seq"] | None = None
    ) -> Float[Tensor, "batch seq vocab"]:
        """The model's logits, from the trunk's activations where they are known."""
        trunk = self.find(tokens, position_ids)
        if trunk is None:
            return model(input_ids=tokens, position_ids=position_ids, use_cache=False).logits
        return continue_from(model, trunk)

    def pack(self) -> PackedTrunks:
        size = sum(_aligned_bytes(tensor) for trunk in self._known.values() for tensor in _tensors(trunk))
        data = np.zeros(size, dtype=np.uint8)
        contents, offset = {}, 0
        for key, trunk in self._known.items():
            places = []
            for tensor in _tensors(trunk):
                flat = tensor.contiguous().view(-1).view(torch.uint8).numpy()
                data[offset : offset + len(flat)] = flat
                places.append(_Place(offset, tuple(tensor.shape), tensor.dtype))
                offset += _aligned_bytes(tensor)
            contents[key] = (trunk.position_ids is not None, places)
        return PackedTrunks(data, contents)


NO_TRUNKS = TrunkCache()
"""Knows nothing."""


def read_only_tensor(array: np.ndarray) -> Tensor:
    """A tensor over an array that others read too. Nothing may write to it: torch knows no
    read-only memory and does not stop it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*")
        return torch.from_numpy(array)


def _key(tokens: Tensor, position_ids: Tensor | None) -> bytes:
    content = hashlib.blake2b(digest_size=16)
    for tensor in (tokens, position_ids):
        if tensor is not None:
            content.update(repr(tuple(tensor.shape)).encode())
            content.update(tensor.cpu().contiguous().numpy())
    return content.digest()


def _tensors(trunk: TrunkActivations) -> list[Tensor]:
    """In the order in which they are packed."""
    positions = [] if trunk.position_ids is None else [trunk.position_ids]
    pairs = [tensor for pair in trunk.keys_values for tensor in pair]
    return [trunk.residual, trunk.slots, trunk.weights, *positions, *pairs]


def _aligned_bytes(tensor: Tensor) -> int:
    return -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT


def _view(flat: UInt8[Tensor, " bytes"], place: _Place) -> Tensor:
    num_bytes = int(np.prod(place.shape)) * place.dtype.itemsize
    return flat[place.offset : place.offset + num_bytes].view(place.dtype).view(place.shape)
