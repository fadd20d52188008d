"""The trace of a trial's stream: scores of every fact while the trial learns. It changes no result.

The plan of the stream is known before it is learned, so a fact is scored exactly once in
between: right after the last step that holds it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from torch import nn

from memlm.data.questions.facts import Fact, FactBatch, fact_batch
from memlm.data.questions.records import Question
from memlm.evaluation.fact_scores import FactScore, score_facts
from memlm.evaluation.question_answering import answer_questions
from memlm.evaluation.stream_metrics import CurvePoint, FactTrace, stream_metrics
from memlm.methods.method import Method
from memlm.model.reader import Reader
from memlm.training.materials import Materials, facts_of, stream_of
from memlm.training.observers.observer import StreamObserver, evaluating
from memlm.training.step import StepResult
from memlm.training.trial import Trial


@dataclass(kw_only=True)
class _Planned:
    """One fact's place in the stream."""

    fact: Fact
    last_step: int = 0
    wordings: list[str] = field(default_factory=list)


class StreamTracer(StreamObserver):
    def __init__(
        self,
        trial: Trial,
        materials: Materials,
        *,
        held_out: Mapping[str, Sequence[Question]] | None = None,
        num_points: int = 20,
        on_point: Callable[[CurvePoint], None] = lambda point: None,
    ) -> None:
        """The curve has about num_points points after its first; each answers all questions of
        the facts and of `held_out`."""
        self.trial, self.tokenizer = trial, materials.tokenizer
        self.plan = _plan_of(trial, materials)
        # A fact without questions, such as a chunk of a document, is learned like the others and
        # has no score of its own.
        self.asked = {id: planned for id, planned in self.plan.items() if planned.fact.questions}
        self.facts = [planned.fact for planned in self.asked.values()]
        self.wordings = {id: planned.wordings for id, planned in self.plan.items()}
        self.held_out, self.on_point = held_out or {}, on_point
        self.num_steps = max(planned.last_step for planned in self.plan.values())
        self.every = max(1, self.num_steps // num_points)
        self.curve: list[CurvePoint] = []
        self.start: list[FactScore] = []
        self.after: dict[str, FactScore] = {}
        self.slots: dict[str, tuple[int, ...] | None] = {}
        self.end: list[FactScore] = []

    def on_start(self, method: Method) -> None:
        with evaluating(method.model):
            self.start = self._score(method.learning_model, self.facts)
            self._add_point(0, method.learning_model, self.start)

    def on_step(self, step: int, batch: FactBatch, result: StepResult, method: Method) -> None:
        planned = self.plan[batch.fact_id]
        with evaluating(method.model):
            if step == planned.last_step and batch.fact_id in self.asked:
                (self.after[batch.fact_id],) = self._score(method.learning_model, [planned.fact])
                slots = method.selected_slots
                self.slots[batch.fact_id] = None if slots is None else tuple(slots.tolist())
            if step % self.every == 0 and step < self.num_steps:
                self._add_point(step, method.learning_model, self._score(method.learning_model, self.facts))

    def on_end(self, learned: nn.Module) -> None:
        with evaluating(learned):
            self.end = self._score(learned, self.facts)
            self._add_point(self.num_steps, learned, self.end)

    def traces(self) -> list[FactTrace]:
        """The trace of each fact that has questions, after the stream has ended."""
        return [
            FactTrace(
                fact_id=id,
                step=planned.last_step,
                start=start,
                after=self.after[id],
                end=end,
                slots=self.slots[id],
            )
            for (id, planned), start, end in zip(self.asked.items(), self.start, self.end, strict=True)
        ]

    def metrics(self) -> dict[str, Any]:
        """The document in stream_metrics.json, headed by the settings of the trial."""
        about = {"method": self.trial.method.label, "seed": self.trial.seed, "num_steps": self.num_steps}
        about["hyperparameters"] = self.trial.hyperparameters()
        return {**about, **stream_metrics(self.traces(), self.curve)}

    def _score(self, model: nn.Module, facts: Sequence[Fact]) -> list[FactScore]:
        return score_facts(Reader(model, self.tokenizer), facts, self.trial.evaluation, self.wordings)

    def _add_point(self, step: int, model: nn.Module, scores: Sequence[FactScore]) -> None:
        point = CurvePoint(
            step=step,
            exact_match=fmean(score.exact_match for score in scores),
            nats_per_token=fmean(score.nats_per_token for score in scores),
            held_out={name: self._exact_match(model, questions) for name, questions in self.held_out.items()},
        )
        self.curve.append(point)
        self.on_point(point)

    def _exact_match(self, model: nn.Module, questions: Sequence[Question]) -> float:
        evaluation = self.trial.evaluation
        answers = answer_questions(
            Reader(model, self.tokenizer),
            questions,
            max_new_tokens=evaluation.max_new_tokens,
            batch_size=evaluation.batch_size,
        )
        return fmean(answers.exact_match)


def _plan_of(trial: Trial, materials: Materials) -> dict[str, _Planned]:
    """The last step of each fact, and the wordings of it that the stream draws."""
    plan = {fact.id: _Planned(fact=fact) for fact in facts_of(trial, materials)}
    texts = {
        id: dict(zip(_rows_of(_all_wordings(planned.fact, trial, materials)), planned.fact.statements, strict=True))
        for id, planned in plan.items()
    }
    for step, batch in enumerate(stream_of(trial, materials), start=1):
        planned = plan[batch.fact_id]
        planned.last_step = step
        drawn = dict.fromkeys([*planned.wordings, *(texts[batch.fact_id][row] for row in _rows_of(batch))])
        planned.wordings = list(drawn)
    return plan


def _all_wordings(fact: Fact, trial: Trial, materials: Materials) -> FactBatch:
    return fact_batch(fact.id, fact.statements, materials.tokenizer, max_length=trial.stream.max_length)


def _rows_of(batch: FactBatch) -> list[tuple[int, ...]]:
    return [tuple(tokens[is_token].tolist()) for tokens, is_token in zip(batch.tokens, batch.is_token, strict=True)]
