"""The ceiling: nothing is learned, and the very fact stands before the question that asks for
it."""

from collections.abc import Sequence

from torch import nn

from memlm.data.questions.facts import Fact
from memlm.data.questions.records import Question
from memlm.methods.config import InContextConfig
from memlm.methods.method import FrozenMethod


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
