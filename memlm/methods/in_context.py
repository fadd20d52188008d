"""The ceiling: nothing is learned, and the fact itself is put in the context, before its
question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from memlm.data.questions.records import Fact, Question
from memlm.methods.config import FrozenConfig
from memlm.methods.method import FrozenMethod, LearningInputs

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class InContextConfig(FrozenConfig):
    """Rival and ceiling: the frozen model with the fact itself before its question."""

    name: ClassVar[str] = "in_context"

    def build(self, model: nn.Module, inputs: LearningInputs) -> InContext:
        return InContext(model, self, inputs.facts)


class InContext(FrozenMethod):
    def __init__(self, model: nn.Module, config: InContextConfig, facts: Sequence[Fact]) -> None:
        super().__init__(model)
        # Sets without ids of their own number their questions, so an id alone may be another
        # set's too.
        self.contexts = {
            (question.id, question.question): "\n".join(fact.statements[: config.num_statements])
            for fact in facts
            for question in fact.questions
        }

    def context_of(self, question: Question) -> str:
        return self.contexts.get((question.id, question.question), "")
