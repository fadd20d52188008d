"""The settings of sparse memory finetuning by curvature, ours. The algorithm itself is
parts/curvature_finetuning.py."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from memlm.identity import names_result
from memlm.methods.sparse_memory_decorrelated import SparseMemoryDecorrelatedConfig

if TYPE_CHECKING:
    from torch import nn

    from memlm.methods.method import LearningInputs, Method


@dataclass(frozen=True, kw_only=True)
class SparseMemoryCurvatureConfig(SparseMemoryDecorrelatedConfig):
    """Sparse memory finetuning by curvature, ours: as sparse_memory_decorrelated, and background
    text counts where, and in the directions in which, the model's loss depends on what it reads."""

    name: ClassVar[str] = "sparse_memory_curvature"
    uses_sensitivities: ClassVar[bool] = True

    sensitivity_exponent: float = names_result(0.5)
    """Power of a background token's sensitivity by which it is weighted; 0 weights all alike."""
    halved_at_sensitivity: float = names_result(3.0)
    """A direction of the output moves half as far if background text is this many times as
    sensitive to it as to the mean of all. Lower spares background text more, and learns less at the
    same rate; 0 damps no direction."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("sensitivity_exponent", "halved_at_sensitivity"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"method.{name} is {getattr(self, name)}; it must be at least 0 and finite")

    def build(self, model: nn.Module, inputs: LearningInputs) -> Method:
        from memlm.methods.parts.curvature_finetuning import CurvatureFinetuning

        self.require(inputs)
        return CurvatureFinetuning(model, self, inputs)
