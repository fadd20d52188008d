"""Full finetuning: every parameter moves."""

from torch import nn

from memlm.methods.config import FullConfig
from memlm.methods.method import FixedParametersMethod


class FullFinetuning(FixedParametersMethod):
    def __init__(self, model: nn.Module, config: FullConfig) -> None:
        super().__init__(model.requires_grad_(True), config.optimizer)

    def finish(self) -> nn.Module:
        return self.model
