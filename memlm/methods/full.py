"""Full finetuning: every parameter moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from memlm.identity import names_result
from memlm.methods.config import Moves, OptimizerConfig, RehearsalConfig, RehearsingConfig
from memlm.methods.method import FixedParametersMethod, LearningInputs
from memlm.model.config import Architecture

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class FullConfig(RehearsingConfig):
    """Full finetuning of the dense model: everything moves."""

    name: ClassVar[str] = "full"
    base: ClassVar[Architecture] = "dense"
    moves: ClassVar[Moves] = "everything"

    optimizer: OptimizerConfig = names_result(OptimizerConfig(learning_rate=2e-5, weight_decay=0.1))
    rehearsal: RehearsalConfig = names_result(RehearsalConfig())

    def build(self, model: nn.Module, inputs: LearningInputs) -> FullFinetuning:
        method = FullFinetuning(model, self)
        method.rehearse(self.rehearsal, inputs)
        return method


@dataclass(frozen=True, kw_only=True)
class FullMemoryConfig(FullConfig):
    """Control: full finetuning of the memory model, pool and all (Lin et al. 2025, figure 6)."""

    name: ClassVar[str] = "full_memory"
    base: ClassVar[Architecture] = "memory"


class FullFinetuning(FixedParametersMethod):
    def __init__(self, model: nn.Module, config: FullConfig) -> None:
        super().__init__(model.requires_grad_(True), config.optimizer)
