"""The settings that methods share. Imports no torch, so that a command line is checked quickly."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from memlm.identity import NAMES_RESULT, names_result
from memlm.model.config import Architecture
from memlm.slots.ranking import RankingName

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
    uses_reads: ClassVar[bool] = False
    """Whether it needs the reads of background text, not only the counts."""
    uses_sensitivities: ClassVar[bool] = False
    """Whether it needs the sensitivities of these reads as well."""

    @property
    def uses_text(self) -> bool:
        """Whether it needs the background text itself."""
        return False

    @property
    def learns_prefix(self) -> bool:
        """Whether it learns keys and values that stand before every text, and writes no weight."""
        return False

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
class SlotMethodConfig(MethodConfig):
    """The settings of a method that moves the rows of chosen slots."""

    num_trainable_slots: int = field(metadata=NAMES_RESULT)
    """0 for all slots that are read."""
    ranking: RankingName = field(metadata=NAMES_RESULT)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    kind: Literal["sgd", "adamw", "row_sparse_adamw"] = names_result("adamw")
    """row_sparse_adamw is for methods that select rows of a value pool."""
    learning_rate: float = names_result(2e-5)
    """The highest rate that a schedule reaches."""
    weight_decay: float = names_result(0.0)
    schedule: Literal["constant", "linear"] = names_result(
        "constant", when=lambda config: config.schedule != "constant"
    )
    """linear: the rate rises over the warm-up, then falls to 0 at the end of the stream. For
    methods that move fixed parameters."""
    warmup_share: float = names_result(0.1, when=lambda config: config.schedule != "constant")
    """Share of the stream's steps that the warm-up takes."""

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_share < 1:
            raise ValueError(
                f"method.optimizer.warmup_share is {self.warmup_share}; it is a share of the steps, from 0 to below 1"
            )
        if not self.learning_rate > 0:
            raise ValueError(f"method.optimizer.learning_rate is {self.learning_rate}; it must be above 0")
        if self.weight_decay < 0:
            raise ValueError(f"method.optimizer.weight_decay is {self.weight_decay}; it must not be negative")


@dataclass(frozen=True, kw_only=True)
class RehearsalConfig:
    """A second loss in every step, so that a model keeps what it knew: on background text, or on
    the distance from the weights at the start."""

    kind: Literal["none", "replay", "distillation", "ewc", "l2_sp"] = names_result("none")
    """replay adds the model's loss on background text; distillation adds its divergence from the
    original model on that text; ewc adds the squared distance from the start, each weight's times
    its Fisher information on that text; l2_sp adds the plain squared distance."""
    weight: float = names_result(1.0)
    """Weight of this loss relative to the loss on the facts. All are in nats per token, except for
    l2_sp's, which is half the squared distance."""
    blocks_per_step: int = names_result(2)
    """Blocks of pretraining text for replay and distillation, drawn again for each step."""
    fisher_blocks: int = names_result(1024, when=lambda config: config.kind == "ewc")
    """Blocks of pretraining text from which ewc estimates the Fisher information before the first
    step; all if there are fewer."""

    def __post_init__(self) -> None:
        for name in ("blocks_per_step", "fisher_blocks"):
            if getattr(self, name) < 1:
                raise ValueError(f"method.rehearsal.{name} is {getattr(self, name)}; it must be at least 1")
        if not self.weight > 0:
            raise ValueError(f"method.rehearsal.weight is {self.weight}; it must be above 0 (kind none turns it off)")


@dataclass(frozen=True, kw_only=True)
class RehearsingConfig(MethodConfig):
    """The settings of a method that moves fixed parameters and may rehearse background text."""

    optimizer: OptimizerConfig = names_result(OptimizerConfig())
    rehearsal: RehearsalConfig = names_result(RehearsalConfig())
    update_scale: float = names_result(1.0, when=lambda config: config.update_scale != 1)
    """The learned change of every weight is multiplied by this at the end (WiSE-FT, Wortsman et al.
    2022); 0 gives the base model back."""

    def __post_init__(self) -> None:
        if not 0 <= self.update_scale <= 1:
            raise ValueError(
                f"method.update_scale is {self.update_scale}; it must lie between 0 (the base model) and 1 (all that was learned)"
            )
        if self.optimizer.kind == "row_sparse_adamw":
            raise ValueError(
                f"method.optimizer.kind is row_sparse_adamw, which moves selected rows of a value pool, and {self.name} selects none; set it to adamw or sgd"
            )

    @property
    def uses_text(self) -> bool:
        return self.rehearsal.kind not in ("none", "l2_sp")

    @property
    def label(self) -> str:
        """The name in comparisons: with another optimizer, rehearsal or scale it is another
        method."""
        parts = [
            self.optimizer.kind if self.optimizer.kind != "adamw" else "",
            self.rehearsal.kind if self.rehearsal.kind != "none" else "",
            "wise_ft" if self.update_scale != 1 else "",
        ]
        return "_".join([self.name, *filter(None, parts)])


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
