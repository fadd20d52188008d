"""Full finetuning: every parameter moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from memlm.identity import names_result
from memlm.methods.config import Moves, OptimizerConfig, RehearsingConfig
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

    def build(self, model: nn.Module, inputs: LearningInputs) -> FullFinetuning:
        method = FullFinetuning(model, self, num_steps=inputs.num_steps)
        method.rehearse(self.rehearsal, inputs)
        return method


@dataclass(frozen=True, kw_only=True)
class FullMemoryConfig(FullConfig):
    """Control: full finetuning of the memory model, pool and all (Lin et al. 2025, figure 6)."""

    name: ClassVar[str] = "full_memory"
    base: ClassVar[Architecture] = "memory"


class FullFinetuning(FixedParametersMethod):
    def __init__(self, model: nn.Module, config: FullConfig, *, num_steps: int = 0) -> None:
        super().__init__(model.requires_grad_(True), config.optimizer, num_steps=num_steps)
        self.scale = config.update_scale
        scaled = [] if self.scale == 1 else self.parameters
        self.start = [parameter.detach().clone() for parameter in scaled]
        """The weights before the first step, if the change is scaled at the end."""

    def finish(self) -> nn.Module:
        for parameter, start in zip(self.parameters, self.start, strict=bool(self.start)):
            parameter.data.copy_(start.lerp(parameter.data, self.scale))
        return self.model
