"""Checks for numbers that are not finite, which end a run before they are saved."""

from collections.abc import Iterable

from torch import Tensor


class DivergedError(ValueError):
    """Learning diverged: a number is not finite."""


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite. Takes one pass and no mask of the tensor's size."""
    if not tensor.numel():
        return True
    lowest, highest = tensor.detach().aminmax()  # a NaN is both
    return bool(lowest.isfinite() & highest.isfinite())


def first_not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """The name of the first tensor that holds a NaN or an infinity; None if all numbers are
    finite."""
    return next((name for name, tensor in tensors if not is_finite(tensor)), None)
