"""The settings that methods share. Imports no torch, so that a command line is checked quickly."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from memlm.identity import names_result
from memlm.model.config import Architecture

if TYPE_CHECKING:
    from torch import nn

    from memlm.methods.method import LearningInputs, Method

Moves = Literal["values", "adapters", "everything", "nothing"]
"""The weights of a base model that learning writes to: the rows of its value pools, none until
learning is finished, all, or none at all. Trials share the weights that none of them writes to; if
only values are written, they also share the activations below the first memory layer's read."""


@dataclass(frozen=True, kw_only=True)
class MethodConfig(ABC):
    """The settings of a method. A file in this folder that defines a subclass with a `name` adds
    a method; no other file lists it."""

    name: ClassVar[str]
    """The method's name on the command line."""
    base: ClassVar[Architecture]
    """The model that it starts from."""

    @property
    @abstractmethod
    def moves(self) -> Moves:
        """The weights that it writes to; a class variable if they are always the same."""

    @property
    def label(self) -> str:
        """The name in comparisons. Include any settings that make it a method of its own."""
        return self.name

    @abstractmethod
    def build(self, model: nn.Module, inputs: LearningInputs) -> Method:
        """The method for one model and one stream. Import torch here or later, never when the file
        is imported."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    kind: Literal["sgd", "adamw"] = names_result("adamw")
    learning_rate: float = names_result(2e-5)
    weight_decay: float = names_result(0.0)

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise ValueError(f"method.optimizer.learning_rate is {self.learning_rate}; it must be above 0")
        if self.weight_decay < 0:
            raise ValueError(f"method.optimizer.weight_decay is {self.weight_decay}; it must not be negative")


@dataclass(frozen=True, kw_only=True)
class RehearsalConfig:
    """Background text in every step, so that a model keeps what it knew."""

    kind: Literal["none", "replay", "distillation"] = names_result("none")
    """replay adds the model's loss on background text; distillation adds its divergence from the
    original model on that text."""
    weight: float = names_result(1.0)
    """Weight of this loss relative to the loss on the facts; both are in nats per token."""
    blocks_per_step: int = names_result(2)
    """Blocks of pretraining text, drawn again for each step."""

    def __post_init__(self) -> None:
        if self.blocks_per_step < 1:
            raise ValueError(f"method.rehearsal.blocks_per_step is {self.blocks_per_step}; it must be at least 1")
        if not self.weight > 0:
            raise ValueError(f"method.rehearsal.weight is {self.weight}; it must be above 0 (kind none turns it off)")


class RehearsingConfig(MethodConfig):
    """The settings of a method that moves fixed parameters and may rehearse background text."""

    rehearsal: RehearsalConfig

    @property
    def label(self) -> str:
        return self.name if self.rehearsal.kind == "none" else f"{self.name}_{self.rehearsal.kind}"


@dataclass(frozen=True, kw_only=True)
class FrozenConfig(MethodConfig):
    """The settings of a method that writes to no weight and puts statements before a question
    instead."""

    base: ClassVar[Architecture] = "dense"
    moves: ClassVar[Moves] = "nothing"

    num_statements: int = names_result(1)
    """Maximum number of statements before a question; fewer if fewer fit."""

    def __post_init__(self) -> None:
        if self.num_statements < 1:
            raise ValueError(f"method.num_statements is {self.num_statements}; it must be at least 1")
