"""LoRA: low-rank adapters next to frozen matrices, by PEFT, merged into them at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from memlm.identity import names_result
from memlm.methods.config import Moves, OptimizerConfig, RehearsalConfig, RehearsingConfig
from memlm.methods.method import FixedParametersMethod, LearningInputs
from memlm.model.config import Architecture

if TYPE_CHECKING:
    from torch import nn

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
FEED_FORWARD = ["gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True, kw_only=True)
class LoRAConfig(RehearsingConfig):
    """Low-rank adapters by PEFT on the dense model, merged at the end (Hu et al. 2021)."""

    name: ClassVar[str] = "lora"
    base: ClassVar[Architecture] = "dense"
    moves: ClassVar[Moves] = "adapters"

    rank: int = names_result(16)
    alpha: float = names_result(16.0)
    target: Literal["attention", "all"] = names_result("all")
    """Matrices that get an adapter: those of attention, or of the feed-forward networks too."""
    optimizer: OptimizerConfig = names_result(OptimizerConfig(learning_rate=2e-4, weight_decay=0.1))
    rehearsal: RehearsalConfig = names_result(RehearsalConfig())

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"method.rank is {self.rank}; it must be at least 1")
        if self.alpha <= 0:
            raise ValueError(f"method.alpha is {self.alpha}; it must be above 0")

    def build(self, model: nn.Module, inputs: LearningInputs) -> LoRA:
        method = LoRA(model, self, seed=inputs.seed)
        method.rehearse(self.rehearsal, inputs)
        return method


class LoRA(FixedParametersMethod):
    def __init__(self, model: nn.Module, config: LoRAConfig, *, seed: int) -> None:
        import peft
        import torch

        adapters = peft.LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,  # type: ignore[arg-type]  # any positive number scales; PEFT's hint says int
            lora_dropout=0.0,
            target_modules=ATTENTION if config.target == "attention" else ATTENTION + FEED_FORWARD,
            task_type=peft.TaskType.CAUSAL_LM,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            adapted = peft.get_peft_model(model, adapters)  # type: ignore[arg-type]
        super().__init__(adapted, config.optimizer)

    @property
    def learning_model(self) -> nn.Module:
        return self.model.get_base_model()  # type: ignore[operator]

    def finish(self) -> nn.Module:
        from peft.tuners.tuners_utils import BaseTunerLayer

        # Merging adds to the base's matrices in place, and other trials may be reading them.
        for module in self.model.modules():
            if isinstance(module, BaseTunerLayer):
                for parameter in module.get_base_layer().parameters():
                    parameter.data = parameter.data.clone()
        return self.model.merge_and_unload()  # type: ignore[operator]
