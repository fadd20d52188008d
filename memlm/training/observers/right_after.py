"""Documents that are learned one by one, asked about right after each of them: what later ones do
to earlier ones."""

import time
from collections.abc import Mapping, Sequence
from itertools import accumulate
from statistics import fmean

from torch import nn

from memlm.data.questions.facts import FactBatch
from memlm.data.questions.streams import by_document
from memlm.evaluation.question_answering import AnswerScores, after_examples, answer_questions
from memlm.methods.method import Method
from memlm.model.reader import Reader
from memlm.results.scores import LEARNING_SET
from memlm.training.materials import Materials, facts_of
from memlm.training.observers.observer import StreamObserver, evaluating
from memlm.training.step import StepResult
from memlm.training.trial import Trial

Asked = Mapping[int, AnswerScores]
"""Scores of the questions about each document, by its place in the stream."""


class RightAfter(StreamObserver):
    """Exact match and F1 on the questions about each document before the stream, right after the
    document, and at the end."""

    def __init__(self, trial: Trial, materials: Materials) -> None:
        self.trial, self.materials = trial, materials
        documents = by_document(facts_of(trial, materials))
        self.questions = [[question for chunk in chunks for question in chunk.questions] for chunks in documents]
        last_steps = accumulate(len(chunks) * trial.stream.num_passes for chunks in documents)
        self.learned_at = {step: place for place, step in enumerate(last_steps)}
        self.start: Asked = {}
        self.after: dict[int, AnswerScores] = {}
        self.end: Asked = {}
        self.seconds = 0.0
        """Time that asking has taken."""

    def on_start(self, method: Method) -> None:
        with evaluating(method.model):
            self.start = self._ask(method.learning_model, range(len(self.questions)))

    def on_step(self, step: int, batch: FactBatch, result: StepResult, method: Method) -> None:
        if step in self.learned_at:
            with evaluating(method.model):
                self.after |= self._ask(method.learning_model, [self.learned_at[step]])

    def on_end(self, learned: nn.Module) -> None:
        with evaluating(learned):
            self.end = self._ask(learned, range(len(self.questions)))

    def _ask(self, model: nn.Module, places: Sequence[int]) -> dict[int, AnswerScores]:
        evaluation, examples, began = self.trial.evaluation, self.materials.held_out.examples, time.monotonic()
        with after_examples(Reader(model, self.materials.tokenizer), examples) as reader:
            asked = {
                place: answer_questions(
                    reader,
                    self.questions[place],
                    max_new_tokens=evaluation.max_new_tokens,
                    batch_size=evaluation.batch_size,
                )
                for place in places
                if self.questions[place]
            }
        self.seconds += time.monotonic() - began
        return asked

    def extra(self) -> dict[str, float]:
        """Means over questions, by name; empty for a method that learns in no steps. `earlier` are
        all documents but the last one."""
        if not self.after:
            return {}
        earlier = {place for place in self.after if place < len(self.questions) - 1}
        moments = {"start": self.start, "right_after": self.after, "end": self.end}
        found = _means(moments, {*self.after})
        if earlier:
            found |= {f"earlier_{name}": value for name, value in _means(moments, earlier).items()}
        return {f"{LEARNING_SET}_{name}": value for name, value in found.items()}


def _means(moments: Mapping[str, Asked], places: set[int]) -> dict[str, float]:
    found = {}
    for moment, asked in moments.items():
        scores: Sequence[AnswerScores] = [each for place, each in asked.items() if place in places]
        found[moment] = fmean(item for each in scores for item in each.exact_match)
        found[f"{moment}_f1"] = fmean(item for each in scores for item in each.f1)
    return found
