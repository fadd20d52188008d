"""The settings that methods share. Imports no torch, so that a command line can be checked in a
moment."""

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
"""The weights of a base model that learning writes to: the rows of its value pools, none before
learning is finished, all, or none ever. Trials share the weights that none of them writes to, and
with values also what the layers below the first memory layer's read compute."""


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
        """The weights that it writes to; a class variable where that is always the same."""

    @property
    def label(self) -> str:
        """The name in comparisons. Settings that make it another method belong in it."""
        return self.name

    @abstractmethod
    def build(self, model: nn.Module, inputs: LearningInputs) -> Method:
        """The method itself, for one model and one stream. Import torch here or later, never when
        the file is imported."""


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
    """replay: the likelihood of background text joins the loss. distillation: the divergence
    from the original model on it does."""
    weight: float = names_result(1.0)
    """Weight of its loss, in nats per token, relative to that of the facts."""
    blocks_per_step: int = names_result(2)
    """Blocks of pretraining text, drawn anew in each step."""

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
    """Statements before a question; fewer where there are fewer that fit."""

    def __post_init__(self) -> None:
        if self.num_statements < 1:
            raise ValueError(f"method.num_statements is {self.num_statements}; it must be at least 1")


Ranking = Literal["tfidf", "tf", "random", "kl", "gradient"]
Background = Literal["corpus", "facts", "held_out"]


@dataclass(frozen=True, kw_only=True)
class SparseMemoryConfig(MethodConfig):
    """Sparse memory finetuning: the values of the slots most specific to each batch (Lin et al.
    2025, section 4)."""

    name: ClassVar[str] = "sparse_memory"
    base: ClassVar[Architecture] = "memory"

    num_trainable_slots: int = names_result(500)
    """The paper's t; 0 for all slots that the batch reads, a control."""
    ranking: Ranking = names_result("tfidf")
    """What makes a slot specific to a batch. kl: the batch's accesses against the background's
    (arXiv 2605.03229); gradient: the norm of a slot's gradient times its inverse document
    frequency, ours; tf and random are controls."""
    optimizer: OptimizerConfig = names_result(OptimizerConfig(kind="sgd", learning_rate=2.0))
    """Plain SGD moves exactly the selected rows. AdamW's momentum goes on moving rows that have
    left the selection, and its weight decay moves every row of the pool."""
    max_document_frequency: float = names_result(1.0)
    """Slots that a larger share of the background batches reads never move, unless the batch
    reads no others."""
    living_background: int = names_result(0)
    """How many background batches a fact counts as once it has been learned, so that later facts
    spare the slots that it reads."""
    protection: float = names_result(0.0)
    """A slot's learning rate is divided by 1 + protection * its background accesses per thousand
    tokens: the step that lowers the loss most for a given squared change of what background text
    reads."""
    background: Background = names_result("corpus")
    """What slots are ranked against: pretraining text, or as ablations the facts to learn or the
    held-out questions (figure 7)."""
    trains_also: Literal["", "keys", "gates"] = names_result("")
    """Ablation: half-keys, or the gate's projection, moved by AdamW beside the values."""
    also_learning_rate: float = names_result(1e-4)
    """Of what is trained beside the values."""

    def __post_init__(self) -> None:
        if self.num_trainable_slots < 0:
            raise ValueError(
                f"method.num_trainable_slots is {self.num_trainable_slots}; it must not be negative (0 takes all that are read)"
            )
        if not 0 <= self.max_document_frequency <= 1:
            raise ValueError(
                f"method.max_document_frequency is {self.max_document_frequency}; it is a share of the background batches, from 0 to 1"
            )
        for name in ("living_background", "protection"):
            if getattr(self, name) < 0:
                raise ValueError(f"method.{name} is {getattr(self, name)}; it must not be negative (0 turns it off)")
        if self.protection and self.optimizer.kind != "sgd":
            raise ValueError(
                f"method.protection is {self.protection}, which scales the steps of SGD, and method.optimizer.kind is {self.optimizer.kind}; set it to sgd"
            )
        if not self.also_learning_rate > 0:
            raise ValueError(f"method.also_learning_rate is {self.also_learning_rate}; it must be above 0")

    @property
    def moves(self) -> Moves:
        return "everything" if self.trains_also else "values"

    @property
    def label(self) -> str:
        """The name in comparisons: another ranking, background or optimizer is compared beside
        the method."""
        parts = [
            "all" if not (self.num_trainable_slots or self.protection) else "",
            self.ranking if self.ranking != "tfidf" and self.num_trainable_slots else "",
            self.optimizer.kind if self.optimizer.kind != "sgd" else "",
            "capped" if self.max_document_frequency < 1 else "",
            "living" if self.living_background else "",
            "protected" if self.protection else "",
            f"against_{self.background}" if self.background != "corpus" else "",
            f"and_{self.trains_also}" if self.trains_also else "",
        ]
        return "_".join([self.name, *filter(None, parts)])

    def build(self, model: nn.Module, inputs: LearningInputs) -> Method:
        from memlm.methods.sparse_memory import SparseMemoryFinetuning

        if inputs.background is None:
            raise ValueError(
                f"method {self.name} ranks slots against background counts, and there are none; run pipelines/count_accesses.py"
            )
        return SparseMemoryFinetuning(model, self, inputs.background, seed=inputs.seed, recording=inputs.recording)
