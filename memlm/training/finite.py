"""Numbers that are not finite end a run before they are saved: nothing that is computed from
them is worth keeping."""

from collections.abc import Iterable

from torch import Tensor


class DivergedError(ValueError):
    """Learning left the range of numbers."""


def is_finite(tensor: Tensor) -> bool:
    """One pass, without a mask of the tensor's size."""
    if not tensor.numel():
        return True
    lowest, highest = tensor.detach().aminmax()  # a NaN is both
    return bool(lowest.isfinite() & highest.isfinite())


def first_not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """The name of the first tensor that holds a NaN or an infinity; None if all numbers are
    finite."""
    return next((name for name, tensor in tensors if not is_finite(tensor)), None)
