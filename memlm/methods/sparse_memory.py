"""The settings of sparse memory finetuning. The algorithm itself is
parts/sparse_memory_finetuning.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from memlm.identity import names_result
from memlm.methods.config import Moves, OptimizerConfig, SlotMethodConfig
from memlm.model.config import Architecture
from memlm.slots.ranking import RankingName

if TYPE_CHECKING:
    from torch import nn

    from memlm.methods.method import LearningInputs, Method

Background = Literal["corpus", "corpus_without_tested", "new_facts", "held_out_questions"]


@dataclass(frozen=True, kw_only=True)
class SparseMemoryConfig(SlotMethodConfig):
    """Sparse memory finetuning: the values of the slots most specific to each batch (Lin et al.
    2025, section 4)."""

    name: ClassVar[str] = "sparse_memory"
    base: ClassVar[Architecture] = "memory"

    num_trainable_slots: int = names_result(500)
    """The paper's t; 0 for all slots that the batch reads, a control."""
    ranking: RankingName = names_result("tfidf")
    """Measure of how specific a slot is to the batch. kl: the batch's accesses against the
    background's (arXiv 2605.03229); gradient: the norm of a slot's gradient times its inverse
    document frequency, our own; tf and random are controls."""
    optimizer: OptimizerConfig = names_result(OptimizerConfig(kind="sgd", learning_rate=2.0))
    """Plain SGD moves exactly the selected rows. So does row_sparse_adamw, which keeps moments of
    selected rows alone. adamw is dense: its momentum keeps moving rows that have left the
    selection, and its weight decay moves every row of the pool."""
    max_document_frequency: float = names_result(1.0)
    """Slots read by a larger share of the background batches never move, unless the batch reads no
    others."""
    living_background: int = names_result(0)
    """Number of background batches that a learned fact counts as, so that later facts spare its
    slots; 0 for a fixed background."""
    living_rule: Literal["minimum"] = names_result("minimum", when=lambda config: config.living_background > 0)
    """A slot's inverse document frequency is the smaller of its two: in background text, and in the
    learned facts."""
    protection: float = names_result(0.0)
    """A slot's learning rate is divided by 1 + protection * its background accesses per thousand
    tokens: for a given squared change of the values that background text reads, this step lowers
    the loss most. 0 turns it off."""
    background: Background = names_result("corpus")
    """Text that slots are ranked against: the corpus or, as a control, its documents that name no
    entity of the tested known facts; or, as ablations, the facts to learn or the held-out
    questions, packed into as many and as large micro-batches (figure 7)."""
    background_rule: Literal["repeated"] = names_result(
        "repeated", when=lambda config: config.background in ("new_facts", "held_out_questions")
    )
    """Texts of facts and questions are repeated until as many blocks are counted as of the
    corpus."""
    trains_also: Literal["", "keys", "gates"] = names_result("")
    """Ablation: parameters that AdamW moves in addition to the values: the half-keys, or the
    gates' projections."""
    also_learning_rate: float = names_result(1e-4)
    """Learning rate of the parameters that `trains_also` names."""

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
        if self.optimizer.schedule != "constant":
            raise ValueError(
                f"method.optimizer.schedule is {self.optimizer.schedule}, and {self.name} learns at a constant rate; set it to constant"
            )
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
        """The name in comparisons: with another ranking, background or optimizer it is another
        method."""
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
        from memlm.methods.parts.sparse_memory_finetuning import SparseMemoryFinetuning

        if inputs.background is None:
            raise ValueError(
                f"method {self.name} ranks slots against background counts, and there are none; run pipelines/count_accesses.py"
            )
        return SparseMemoryFinetuning(model, self, inputs.background, seed=inputs.seed, recording=inputs.recording)
