"""LoRA: low-rank adapters next to frozen matrices, by PEFT, merged into them at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from memlm.identity import names_result
from memlm.methods.config import Moves, OptimizerConfig, RehearsingConfig
from memlm.methods.method import FixedParametersMethod, LearningInputs
from memlm.model.config import Architecture

if TYPE_CHECKING:
    from torch import nn

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
FEED_FORWARD = ["gate_proj", "up_proj", "down_proj"]
MEMORY = ["query", "gate", "output"]
"""The matrices of a memory layer, without its half-keys and its values, which are tables."""


@dataclass(frozen=True, kw_only=True)
class LoRAConfig(RehearsingConfig):
    """Low-rank adapters by PEFT on the dense model, merged at the end (Hu et al. 2021)."""

    name: ClassVar[str] = "lora"
    base: ClassVar[Architecture] = "dense"
    moves: ClassVar[Moves] = "adapters"

    rank: int = names_result(16)
    alpha: float = names_result(16.0)
    target: Literal["attention", "all"] = names_result("all")
    """Matrices that get an adapter: those of attention, or of the feed-forward networks and the
    memory layers too."""
    optimizer: OptimizerConfig = names_result(OptimizerConfig(learning_rate=2e-4, weight_decay=0.1))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank < 1:
            raise ValueError(f"method.rank is {self.rank}; it must be at least 1")
        if self.alpha <= 0:
            raise ValueError(f"method.alpha is {self.alpha}; it must be above 0")

    def build(self, model: nn.Module, inputs: LearningInputs) -> LoRA:
        method = LoRA(model, self, seed=inputs.seed, num_steps=inputs.num_steps)
        method.rehearse(self.rehearsal, inputs)
        return method


@dataclass(frozen=True, kw_only=True)
class LoRAMemoryConfig(LoRAConfig):
    """Control: LoRA on the memory model, whose values and half-keys stay."""

    name: ClassVar[str] = "lora_memory"
    base: ClassVar[Architecture] = "memory"


class LoRA(FixedParametersMethod):
    def __init__(self, model: nn.Module, config: LoRAConfig, *, seed: int, num_steps: int = 0) -> None:
        import peft
        import torch

        others = FEED_FORWARD + (MEMORY if config.base == "memory" else [])
        adapters = peft.LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,  # type: ignore[arg-type]  # any positive number scales; PEFT's hint says int
            lora_dropout=0.0,
            target_modules=ATTENTION if config.target == "attention" else ATTENTION + others,
            task_type=peft.TaskType.CAUSAL_LM,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            adapted = peft.get_peft_model(model, adapters)  # type: ignore[arg-type]
        super().__init__(adapted, config.optimizer, num_steps=num_steps)
        self.scale = config.update_scale

    @property
    def learning_model(self) -> nn.Module:
        return self.model.get_base_model()  # type: ignore[operator]

    def finish(self) -> nn.Module:
        from peft.tuners.lora import LoraLayer

        # Merging adds to the base's matrices in place, and other trials may be reading them.
        for module in self.model.modules():
            if isinstance(module, LoraLayer):
                module.scale_layer(self.scale)
                for parameter in module.get_base_layer().parameters():
                    parameter.data = parameter.data.clone()
        return self.model.merge_and_unload()  # type: ignore[operator]
