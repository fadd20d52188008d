"""One trial: a base model, one method, one stream of facts, and the scores before and after."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from torch import nn

from memlm.data.questions.facts import Fact, FactBatch
from memlm.data.questions.records import Question, Record
from memlm.data.questions.streams import learns_one_by_one, num_steps, require_asked
from memlm.evaluation.fact_scores import seen_exact_match
from memlm.evaluation.suite import evaluate_asked, evaluate_held_out, evaluate_questions
from memlm.evaluation.updates import questions_of_updates
from memlm.methods.method import LearningInputs, Method
from memlm.model.reader import Reader
from memlm.results.scores import LEARNING_SET, SEEN_WORDINGS, Scores, TrialResult, before_and_after, join
from memlm.training.finite import DivergedError, first_not_finite
from memlm.training.materials import (
    Materials,
    background_for,
    facts_of,
    reader_for,
    reads_for,
    recording_for,
    statements_of,
    stream_of,
)
from memlm.training.observers.observer import NULL_OBSERVER, Observers, StreamObserver
from memlm.training.observers.right_after import RightAfter
from memlm.training.step import StepResult, finetune_step
from memlm.training.trial import Trial

R = TypeVar("R", bound=Record)
ANSWER_NATS = f"{LEARNING_SET}_answer_nats"
ANSWER_GAIN = f"{ANSWER_NATS}_gained"
"""By how much the new answers became more likely, in nats per token: learning that exact match
does not see yet."""


def run_trial(
    trial: Trial,
    model: nn.Module,
    materials: Materials,
    *,
    key: str,
    start: Scores | None = None,
    on_step: Callable[[int, StepResult], None] = lambda step, result: None,
    observer: StreamObserver = NULL_OBSERVER,
) -> tuple[TrialResult, nn.Module]:
    """Learn the stream and score. `start` is the base model's scores where they are known; the
    model is changed in place."""
    began = time.monotonic()
    facts = facts_of(trial, materials)
    require_asked(facts, seed=trial.seed)
    start = start or score(trial, reader_for(trial, model, materials), materials)
    # Counting is a stage of its own for every other background.
    background, reads = background_for(trial, model, facts, materials), reads_for(trial, model, materials)
    learning_began = time.monotonic()
    stream = stream_of(trial, materials)
    inputs = LearningInputs(
        background=background,
        seed=trial.seed,
        facts=facts,
        text=materials.text,
        recording=recording_for(trial, materials),
        num_steps=num_steps(trial.stream, materials.facts, seed=trial.seed),
        reads=reads,
        statements=statements_of(trial, facts, materials),
    )
    method = trial.method.build(model, inputs)
    right_after = RightAfter(trial, materials) if learns_one_by_one(trial.stream) else None
    observer = Observers([each for each in (observer, right_after) if each is not None])
    observer.on_start(method)
    try:
        taken = _learn(method, stream, on_step, observer) if method.learns else 0
    except DivergedError as error:
        raise DivergedError(f"{error}; {_rate_too_high(trial)}") from error
    learned = method.finish()
    broken = first_not_finite(learned.named_parameters())
    if broken is not None:
        raise DivergedError(f"{broken} is not finite after step {taken}; {_rate_too_high(trial)}")
    learning_seconds = time.monotonic() - learning_began - (right_after.seconds if right_after else 0.0)
    observer.on_end(learned)
    try:
        end = score(trial, reader_for(trial, learned, materials), materials, context_of=method.context_of)
    except DivergedError as error:  # with finite weights, which are too large
        raise DivergedError(f"a score is not finite after step {taken}; {_rate_too_high(trial)}") from error
    result = TrialResult(
        key=key,
        method=trial.method.label,
        hyperparameters=trial.hyperparameters(),
        seed=trial.seed,
        start=start.sets,
        end=end.sets,
        extra={
            **end.extra,
            ANSWER_GAIN: start.extra[ANSWER_NATS] - end.extra[ANSWER_NATS],
            **_seen(trial, method, learned, facts, materials),
            **(right_after.extra() if right_after else {}),
            "seconds_learning": learning_seconds,
            "seconds": time.monotonic() - began,
            "steps": float(taken),
        },
        answers=before_and_after(start.answers, end.answers),
    )
    return result, learned


def _learn(
    method: Method,
    stream: Iterator[FactBatch],
    on_step: Callable[[int, StepResult], None],
    observer: StreamObserver,
) -> int:
    """Returns the number of steps."""
    method.model.train()
    device = next(method.model.parameters()).device
    number = 0
    for number, batch in enumerate(stream, start=1):
        step = finetune_step(method, [batch.to(device)])
        if not math.isfinite(step.loss):
            raise DivergedError(f"the loss is {step.loss} at step {number}")
        on_step(number, step)
        observer.on_step(number, batch, step, method)
    return number


def _seen(
    trial: Trial, method: Method, learned: nn.Module, facts: Sequence[Fact], materials: Materials
) -> dict[str, float]:
    """Learning in the wordings that were learned, if it is asked for; no method without steps has
    such wordings."""
    if not (trial.evaluation.seen_wordings and method.learns):
        return {}
    share = seen_exact_match(reader_for(trial, learned.eval(), materials), facts, trial.evaluation)
    return {} if share is None else {SEEN_WORDINGS: share}


def _rate_too_high(trial: Trial) -> str:
    optimizer = getattr(trial.method, "optimizer", None)
    return f"method.optimizer.learning_rate ({optimizer.learning_rate if optimizer else 'none'}) is too high"


def score(
    trial: Trial, reader: Reader, materials: Materials, *, context_of: Callable[[Question], str] = lambda question: ""
) -> Scores:
    """Every set, each question behind its context. The model is left in evaluation mode."""
    parts = [scored(trial, reader, materials, context_of=context_of) for scored in (score_learning, score_held_out)]
    return join(parts)


def score_learning(
    trial: Trial, reader: Reader, materials: Materials, *, context_of: Callable[[Question], str] = lambda question: ""
) -> Scores:
    """The new facts of the trial's seed and, for updates, the sets that go with them. Raises
    DivergedError where a score is not finite."""
    facts, config, held_out = facts_of(trial, materials), trial.evaluation, materials.held_out
    questions = _in_context([question for fact in facts for question in fact.questions], context_of)
    reader.model.eval()
    scores = evaluate_questions(reader, LEARNING_SET, questions, config, held_out.examples)
    if materials.updates:
        sets = questions_of_updates(facts, materials.updates)
        asked = {name: _in_context(questions, context_of) for name, questions in sets.items()}
        scores = join([scores, evaluate_asked(reader, asked, held_out.vocabulary, config, held_out.examples)])
    return _finite(scores)


def score_held_out(
    trial: Trial, reader: Reader, materials: Materials, *, context_of: Callable[[Question], str] = lambda question: ""
) -> Scores:
    """Scores on the held-out sets, which are the same for every seed. Raises DivergedError where a
    score is not finite."""
    sets = {name: _in_context(questions, context_of) for name, questions in materials.held_out.questions.items()}
    reader.model.eval()
    return _finite(evaluate_held_out(reader, replace(materials.held_out, questions=sets), trial.evaluation))


def _finite(scores: Scores) -> Scores:
    values = {**{name: score.value for name, score in scores.sets.items()}, **scores.extra}
    for name, value in values.items():
        if not math.isfinite(value):
            raise DivergedError(
                f"the score {name} is {value}, so the model holds or computes numbers that are not finite; name another checkpoint, or pretrain "
                "again at a lower learning rate"
            )
    return scores


def _in_context(records: Sequence[R], context_of: Callable[[Question], str]) -> list[R]:
    """Choices are made without one."""
    return [
        replace(record, context=context_of(record)) if isinstance(record, Question) else record for record in records
    ]
