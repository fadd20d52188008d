"""What each method lets you set. Imports no torch, so that a command line can be checked in a moment.

A new method is one file beside this one, its config here, one file in tune_spaces/ and one test.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from memlm.model.config import Architecture

Moves = Literal["values", "adapters", "everything"]
"""Which of a base model's weights learning writes to: the rows of its value pools, none before it is finished, or all. Trials share
what is not written to, and with values also what the layers below the first memory layer's read compute."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    kind: Literal["sgd", "adamw"] = "adamw"
    learning_rate: float = 2e-5
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise ValueError(f"method.optimizer.learning_rate is {self.learning_rate}; it must be above 0")
        if self.weight_decay < 0:
            raise ValueError(f"method.optimizer.weight_decay is {self.weight_decay}; it must not be negative")


@dataclass(frozen=True, kw_only=True)
class SparseMemoryConfig:
    """Sparse memory finetuning: the values of the slots most specific to each batch (Lin et al. 2025, section 4)."""

    name: ClassVar[str] = "sparse_memory"
    base: ClassVar[Architecture] = "memory"
    moves: ClassVar[Moves] = "values"

    num_trainable_slots: int = 500
    """The paper's t."""
    ranking: Literal["tfidf", "tf", "random"] = "tfidf"
    """What makes a slot specific to a batch; tf and random are controls."""
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(kind="sgd", learning_rate=2.0))
    """Plain SGD moves exactly the selected rows. AdamW's momentum goes on moving rows that have left the selection, and its
    weight decay moves every row of the pool."""

    def __post_init__(self) -> None:
        if self.num_trainable_slots < 1:
            raise ValueError(f"method.num_trainable_slots is {self.num_trainable_slots}; it must be at least 1")

    @property
    def label(self) -> str:
        """The name in comparisons: another ranking or optimizer is a control, compared beside the method."""
        ranking = "" if self.ranking == "tfidf" else f"_{self.ranking}"
        return f"{self.name}{ranking}" + ("" if self.optimizer.kind == "sgd" else f"_{self.optimizer.kind}")


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """Low-rank adapters by PEFT on the dense model, merged at the end (Hu et al. 2021)."""

    name: ClassVar[str] = "lora"
    base: ClassVar[Architecture] = "dense"
    moves: ClassVar[Moves] = "adapters"

    rank: int = 16
    alpha: float = 16.0
    target: Literal["attention", "all"] = "all"
    """Matrices that get an adapter: those of attention, or of the feed-forward networks too."""
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(learning_rate=2e-4, weight_decay=0.1))

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"method.rank is {self.rank}; it must be at least 1")
        if self.alpha <= 0:
            raise ValueError(f"method.alpha is {self.alpha}; it must be above 0")

    @property
    def label(self) -> str:
        return self.name


@dataclass(frozen=True, kw_only=True)
class FullConfig:
    """Full finetuning of the dense model: everything moves."""

    name: ClassVar[str] = "full"
    base: ClassVar[Architecture] = "dense"
    moves: ClassVar[Moves] = "everything"

    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(learning_rate=2e-5, weight_decay=0.1))

    @property
    def label(self) -> str:
        return self.name


MethodConfig = SparseMemoryConfig | LoRAConfig | FullConfig
METHOD_CONFIGS: dict[str, type[MethodConfig]] = {
    config.name: config for config in (SparseMemoryConfig, LoRAConfig, FullConfig)
}
