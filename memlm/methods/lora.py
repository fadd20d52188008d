"""LoRA: low-rank adapters next to frozen matrices, by PEFT, merged into them at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from memlm.identity import names_result
from memlm.methods.config import OptimizerConfig
from memlm.methods.peft import AdapterConfig
from memlm.model.config import Architecture

if TYPE_CHECKING:
    from memlm.methods.parts.target_modules import TargetModules


@dataclass(frozen=True, kw_only=True)
class LoRAConfig(AdapterConfig):
    """Low-rank adapters by PEFT on the dense model, merged at the end (Hu et al. 2021)."""

    name: ClassVar[str] = "lora"
    base: ClassVar[Architecture] = "dense"

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

    @property
    def adapter_kind(self) -> str:
        return "lora"

    def adapter_settings(self, modules: TargetModules) -> dict[str, Any]:
        others = (*modules.feed_forward, *modules.memory) if self.target == "all" else ()
        return {
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": 0.0,
            "target_modules": [*modules.attention, *others],
        }


@dataclass(frozen=True, kw_only=True)
class LoRAMemoryConfig(LoRAConfig):
    """Control: LoRA on the memory model, whose values and half-keys stay."""

    name: ClassVar[str] = "lora_memory"
    base: ClassVar[Architecture] = "memory"
