"""The settings of decorrelated sparse memory finetuning, ours. The algorithm itself is
parts/decorrelated_finetuning.py."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from memlm.identity import execution_only, names_result
from memlm.methods.config import Moves, OptimizerConfig, SlotMethodConfig
from memlm.model.config import Architecture
from memlm.slots.ranking import RANKINGS, RankingName

if TYPE_CHECKING:
    from torch import nn

    from memlm.methods.method import LearningInputs, Method


@dataclass(frozen=True, kw_only=True)
class SparseMemoryDecorrelatedConfig(SlotMethodConfig):
    """Decorrelated sparse memory finetuning, ours: the values of the slots that each fact reads,
    moved so that what background text reads together changes least."""

    name: ClassVar[str] = "sparse_memory_decorrelated"
    base: ClassVar[Architecture] = "memory"
    moves: ClassVar[Moves] = "values"
    uses_reads: ClassVar[bool] = True

    num_trainable_slots: int = names_result(0)
    """Rows that a fact moves, the same in all passes; 0 for all that its statements read."""
    ranking: RankingName = names_result("tf")
    """Measure by which a fact's rows are chosen. tf, how often its statements read the slot: the
    step itself spares what background text reads, so a common row may serve too."""
    halved_at_tokens: float = names_result(4000.0)
    """A row that background text reads once in this many tokens, alone, moves half as far as by
    SGD. Higher spares background text more, and learns less at the same rate."""
    continual: float = names_result(0.0)
    """Number of background tokens that each token of a learned fact counts as for other facts; 0
    for a fixed background."""
    background: Literal["corpus", "corpus_without_tested"] = names_result(
        "corpus", when=lambda config: config.background != "corpus"
    )
    """Text whose reads are spared: the corpus or, as a control, its documents that name no entity
    of the tested known facts."""
    owned_rows: bool = names_result(False)
    """Whether a row belongs to the first fact that moves it, so that no later fact does."""
    optimizer: OptimizerConfig = names_result(OptimizerConfig(kind="sgd", learning_rate=80.0))
    """Plain SGD without weight decay: anything else moves rows in other directions."""
    kept_bytes: int = execution_only(2**30)
    """Bytes of facts' factors that a process keeps from pass to pass and from trial to trial; 0
    computes each in every step."""

    def __post_init__(self) -> None:
        if self.num_trainable_slots < 0:
            raise ValueError(
                f"method.num_trainable_slots is {self.num_trainable_slots}; it must not be negative (0 takes all that are read)"
            )
        if self.ranking not in RANKINGS:
            raise ValueError(
                f"method.ranking is {self.ranking}, which is known only after a step's gradients, and a fact's rows are chosen before; "
                f"give one of {', '.join(RANKINGS)}"
            )
        if self.background != "corpus" and self.ranking != "tf":
            raise ValueError(
                f"method.background is {self.background} and method.ranking {self.ranking}, which ranks against counts of the whole corpus; "
                "set method.ranking to tf, which needs no counts"
            )
        if not 0 < self.halved_at_tokens < math.inf:
            raise ValueError(
                f"method.halved_at_tokens is {self.halved_at_tokens}, from which lambda follows; it must be above 0 and finite"
            )
        for name in ("continual", "kept_bytes"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"method.{name} is {getattr(self, name)}; it must be at least 0 and finite")
        if self.optimizer.kind != "sgd" or self.optimizer.weight_decay:
            raise ValueError(
                f"method.optimizer.kind is {self.optimizer.kind} and method.optimizer.weight_decay {self.optimizer.weight_decay}; "
                "a decorrelated step is plain SGD's, so set them to sgd and 0"
            )
        if self.optimizer.schedule != "constant":
            raise ValueError(
                f"method.optimizer.schedule is {self.optimizer.schedule}, and {self.name} learns at a constant rate; set it to constant"
            )

    @property
    def label(self) -> str:
        """The name in comparisons: with fewer rows, another ranking or a variant it is another
        method."""
        t = self.num_trainable_slots
        parts = [
            str(t) if t else "",
            self.ranking if t and self.ranking != "tf" else "",
            "continual" if self.continual else "",
            "owned" if self.owned_rows else "",
            f"against_{self.background}" if self.background != "corpus" else "",
        ]
        return "_".join([self.name, *filter(None, parts)])

    def build(self, model: nn.Module, inputs: LearningInputs) -> Method:
        from memlm.methods.parts.decorrelated_finetuning import DecorrelatedFinetuning

        self.require(inputs)
        return DecorrelatedFinetuning(model, self, inputs)

    def require(self, inputs: LearningInputs) -> None:
        """Raises ValueError if counts or reads are missing."""
        for given, what in ((inputs.background, "background counts"), (inputs.reads, "background reads")):
            if given is None:
                raise ValueError(
                    f"method {self.name} needs {what}, and there are none; run pipelines/count_accesses.py"
                )
