"""Results that are kept because they will be asked for again."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor


class KeptTensors:
    """Results of one or more tensors by what they were made from, up to a number of bytes; those
    used longest ago go first."""

    def __init__(self) -> None:
        self.kept: OrderedDict[bytes, tuple[Tensor, ...]] = OrderedDict()
        self.num_bytes = 0

    def get(self, key: bytes, make: Callable[[], tuple[Tensor, ...]], *, max_bytes: int) -> tuple[Tensor, ...]:
        if key in self.kept:
            self.kept.move_to_end(key)
            return self.kept[key]
        made = self.kept[key] = make()
        self.num_bytes += _num_bytes(made)
        while self.num_bytes > max_bytes:
            self.num_bytes -= _num_bytes(self.kept.popitem(last=False)[1])
        return made


def _num_bytes(tensors: tuple[Tensor, ...]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def key_of(*parts: object) -> bytes:
    """Digest of tensors, by their values and shapes, and of anything else, by its repr."""
    content = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, Tensor):
            content.update(repr((part.dtype, tuple(part.shape))).encode())
            content.update(part.cpu().contiguous().numpy())
        else:
            content.update(repr(part).encode())
    return content.digest()
