"""A rival that changes no weight: BM25 looks up learned statements for a question, and they are
put before it.

It does so for every question, since it cannot know which ones ask for something new; statements
found for the others distract.
"""

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
class RetrievalConfig(FrozenConfig):
    """Rival: the frozen model, and before every question, held-out ones too, the learned
    statements that BM25 finds for it."""

    name: ClassVar[str] = "retrieval"

    def build(self, model: nn.Module, inputs: LearningInputs) -> Retrieval:
        return Retrieval(model, self, inputs.facts)


class Retrieval(FrozenMethod):
    def __init__(self, model: nn.Module, config: RetrievalConfig, facts: Sequence[Fact]) -> None:
        import bm25s

        super().__init__(model)
        self.statements = [statement for fact in facts for statement in fact.statements]
        self.num_statements = min(config.num_statements, len(self.statements))
        words = self._words(self.statements)
        self.index = bm25s.BM25() if any(words) else None
        """None where no statement has a word to be found by: all are stop words or single
        letters."""
        if self.index is not None:
            self.index.index(words, show_progress=False)

    def context_of(self, question: Question) -> str:
        if self.index is None:
            return ""
        found, scores = self.index.retrieve(
            self._words([question.question]), k=self.num_statements, show_progress=False
        )
        matches = zip(found[0], scores[0], strict=True)
        return "\n".join(self.statements[index] for index, score in matches if score > 0)

    @staticmethod
    def _words(texts: list[str]) -> list[list[str]]:
        import bm25s

        words: list[list[str]] = bm25s.tokenize(texts, stopwords="en", return_ids=False, show_progress=False)
        return words
