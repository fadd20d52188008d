"""Kernels for the computations that decide a memory layer's speed, with one interface: in plain
torch, in C++ for CPUs and in Triton for GPUs."""

import functools
import importlib
import importlib.util
from types import ModuleType
from typing import cast

from torch import Tensor

from memlm.model.kernels import native, reference
from memlm.model.kernels.interface import AdamStep, Kernels, RowGradient

__all__ = ["AdamStep", "Kernels", "RowGradient", "kernels_for"]


def kernels_for(tensor: Tensor) -> Kernels:
    """The fastest kernels for the tensor's device: C++ on a CPU, Triton on a GPU, plain torch where
    those are not available."""
    return _kernels_on(tensor.device.type)


@functools.cache
def _kernels_on(device_type: str) -> Kernels:
    chosen: ModuleType = reference
    if device_type == "cpu" and native.is_available():
        chosen = native
    elif device_type == "cuda" and importlib.util.find_spec("triton") is not None:
        chosen = importlib.import_module("memlm.model.kernels.triton_kernels")
    return cast(Kernels, chosen)
