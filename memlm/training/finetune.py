"""One trial: a base model, one method, one stream of facts, and the scores before and after."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from memlm.data.config import StreamChoice
from memlm.data.facts import Fact
from memlm.data.questions import Question
from memlm.data.streams import batches_of_stream, facts_of_stream
from memlm.evaluation.config import EvaluationConfig
from memlm.evaluation.question_answering import question_trunks
from memlm.evaluation.suite import HeldOut, Scores, evaluate_held_out, evaluate_questions, join
from memlm.frontier import LEARNING_SET, TrialResult
from memlm.methods.build import build_method
from memlm.methods.config import MethodConfig
from memlm.model.trunk_cache import NO_TRUNKS, TrunkCache, TrunkInput
from memlm.slots.counts import BackgroundCounts
from memlm.training.step import StepResult, finetune_step


class DivergedError(ValueError):
    """Learning left the range of numbers."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What names a trial's result, beside the artifacts it reads."""

    method: MethodConfig
    stream: StreamChoice
    evaluation: EvaluationConfig
    seed: int

    def hyperparameters(self) -> dict[str, Any]:
        """The method's settings, flat, as they are compared."""
        return dict(_flat(asdict(self.method)))

    def key(self, inputs: dict[str, str]) -> str:
        """Names the result: the same trial on the same artifacts has the same key."""
        trial = asdict(self)
        del trial["evaluation"]["batch_size"], trial["stream"]["max_length"]  # how it is run, not what comes out
        content = {"trial": trial, "method": self.method.name, "inputs": inputs}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Materials:
    """What all trials of a run share."""

    tokenizer: PreTrainedTokenizerBase
    facts: Sequence[Fact]
    held_out: HeldOut
    background: BackgroundCounts | None
    trunks: TrunkCache = NO_TRUNKS
    """What is known of the trunk of the checkpoint that sparse memory finetuning starts from; changes no result."""


def run_trial(
    trial: Trial,
    model: nn.Module,
    materials: Materials,
    *,
    key: str,
    start: Scores | None = None,
    on_step: Callable[[int, StepResult], None] = lambda step, result: None,
) -> tuple[TrialResult, nn.Module]:
    """Learn the stream and score. `start` is the base model's scores where they are known; the model is changed in place."""
    began = time.monotonic()
    facts = facts_of_stream(trial.stream, materials.facts, seed=trial.seed)
    start = start or score(trial, model, materials)
    stream = batches_of_stream(trial.stream, facts, materials.tokenizer, seed=trial.seed)
    method = build_method(
        trial.method, model, background=materials.background, seed=trial.seed, trunks=_trunks_for(trial, materials)
    )
    method.model.train()
    device = next(method.model.parameters()).device
    num_steps = 0
    for num_steps, batch in enumerate(stream, start=1):
        step = finetune_step(method, [batch.to(device)])
        if not math.isfinite(step.loss):
            raise DivergedError(
                f"the loss is {step.loss} at step {num_steps}; method.optimizer.learning_rate ({trial.method.optimizer.learning_rate}) is too high"
            )
        on_step(num_steps, step)
    learned = method.finish()
    if not all(bool(parameter.isfinite().all()) for parameter in learned.parameters()):
        raise DivergedError(
            f"a weight is not finite after step {num_steps}; method.optimizer.learning_rate ({trial.method.optimizer.learning_rate}) is too high"
        )
    learning_seconds = time.monotonic() - began
    end = score(trial, learned, materials)
    result = TrialResult(
        key=key,
        method=trial.method.label,
        hyperparameters=trial.hyperparameters(),
        seed=trial.seed,
        start=start.sets,
        end=end.sets,
        extra={
            **{f"{name}_f1": value for name, value in end.f1.items()},
            "seconds_learning": learning_seconds,
            "seconds": time.monotonic() - began,
            "steps": float(num_steps),
        },
    )
    return result, learned


def check_stream(stream: StreamChoice, facts: Sequence[Fact], tokenizer: PreTrainedTokenizerBase, *, seed: int) -> None:
    """Raises FactError if a trial with this stream and seed could not begin: too few facts, or a statement too long."""
    batches_of_stream(stream, facts_of_stream(stream, facts, seed=seed), tokenizer, seed=seed)


def score(trial: Trial, model: nn.Module, materials: Materials) -> Scores:
    """Every set. The model is left in evaluation mode."""
    return join([score_learning(trial, model, materials), score_held_out(trial, model, materials)])


def score_learning(trial: Trial, model: nn.Module, materials: Materials) -> Scores:
    """The new facts of the trial's seed."""
    questions, trunks = _questions_of(trial, materials), _trunks_for(trial, materials)
    return evaluate_questions(model.eval(), materials.tokenizer, LEARNING_SET, questions, trial.evaluation, trunks)


def score_held_out(trial: Trial, model: nn.Module, materials: Materials) -> Scores:
    """What the model should keep; the same sets for every seed."""
    trunks = _trunks_for(trial, materials)
    return evaluate_held_out(model.eval(), materials.tokenizer, materials.held_out, trial.evaluation, trunks)


def learning_trunks(trial: Trial, materials: Materials) -> Iterator[TrunkInput]:
    """What a trial of this stream and seed runs the trunk on, beside the held-out sets.

    The stream comes first: small batches gain the most, and prompts, which keep keys and values, cost the most bytes.
    """
    facts = facts_of_stream(trial.stream, materials.facts, seed=trial.seed)
    for batch in batches_of_stream(trial.stream, facts, materials.tokenizer, seed=trial.seed):
        yield TrunkInput(batch.tokens)
    questions = _questions_of(trial, materials)
    yield from question_trunks(materials.tokenizer, questions, batch_size=trial.evaluation.batch_size)


def _questions_of(trial: Trial, materials: Materials) -> list[Question]:
    facts = facts_of_stream(trial.stream, materials.facts, seed=trial.seed)
    return [question for fact in facts for question in fact.questions]


def _trunks_for(trial: Trial, materials: Materials) -> TrunkCache:
    """Where anything but values moves, the trunk moves too."""
    return materials.trunks if trial.method.moves == "values" else NO_TRUNKS


def _flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
