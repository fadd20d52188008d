"""What does a model know, before and after? One score per set, each with its task's name and version.

The sets: new facts in wordings never trained on (learning), the held-out question sets and held-out text (forgetting).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from memlm.data.questions import Question
from memlm.evaluation.answers import constant_answer_chance
from memlm.evaluation.config import EvaluationConfig
from memlm.evaluation.likelihood import nats_per_token, text_trunks
from memlm.evaluation.question_answering import AnswerScores, answer_questions, question_trunks
from memlm.frontier import LEARNING_SET, SetScore
from memlm.model.trunk_cache import NO_TRUNKS, TrunkCache, TrunkInput

TEXT_SET = "background_text"
VERSION = 1
"""Of all tasks here; raised whenever a score would change for the same model."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Everything that measures forgetting; the same for every trial of a run."""

    questions: Mapping[str, Sequence[Question]]
    text: Int[Tensor, "blocks block_size"]


@dataclass(frozen=True, kw_only=True)
class Scores:
    sets: dict[str, SetScore]
    f1: dict[str, float]
    """Mean F1 of each question set, beside the exact match that `sets` holds."""


def evaluate_questions(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    questions: Sequence[Question],
    config: EvaluationConfig,
    trunks: TrunkCache = NO_TRUNKS,
) -> Scores:
    answers: AnswerScores = answer_questions(
        model,
        tokenizer,
        questions,
        max_new_tokens=config.max_new_tokens,
        batch_size=config.batch_size,
        trunks=trunks,
    )
    score = SetScore(
        task=f"{name}@{VERSION}",
        measure="exact_match",
        chance=constant_answer_chance(questions),
        items=_one_per_fact(questions, answers.exact_match),
    )
    return Scores(sets={name: score}, f1={name: sum(answers.f1) / len(answers.f1)})


def _one_per_fact(questions: Sequence[Question], scores: Sequence[float]) -> tuple[float, ...]:
    """The mean over the questions that ask for the same thing (`id#number`): what is resampled for an interval is a fact, not a wording."""
    by_fact: dict[str, list[float]] = {}
    for question, value in zip(questions, scores, strict=True):
        by_fact.setdefault(question.id.rsplit("#", 1)[0], []).append(value)
    return tuple(sum(values) / len(values) for values in by_fact.values())


def evaluate_held_out(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    held_out: HeldOut,
    config: EvaluationConfig,
    trunks: TrunkCache = NO_TRUNKS,
) -> Scores:
    parts = [
        evaluate_questions(model, tokenizer, name, questions, config, trunks)
        for name, questions in held_out.questions.items()
    ]
    nats = nats_per_token(
        model,
        held_out.text,
        eos_id=tokenizer.eos_token_id,
        pad_id=tokenizer.pad_token_id,
        batch_size=config.batch_size,
        trunks=trunks,
    )
    text = SetScore(task=f"{TEXT_SET}@{VERSION}", measure="nats_per_token", chance=0.0, items=nats)
    return join([*parts, Scores(sets={TEXT_SET: text}, f1={})])


def held_out_trunks(
    tokenizer: PreTrainedTokenizerBase, held_out: HeldOut, config: EvaluationConfig
) -> Iterator[TrunkInput]:
    """What evaluate_held_out runs the trunk on; text first, whose activations save the most time for their bytes."""
    yield from text_trunks(held_out.text, eos_id=tokenizer.eos_token_id, batch_size=config.batch_size)
    for questions in held_out.questions.values():
        yield from question_trunks(tokenizer, questions, batch_size=config.batch_size)


def evaluate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    new_facts: Sequence[Question],
    held_out: HeldOut,
    config: EvaluationConfig,
    trunks: TrunkCache = NO_TRUNKS,
) -> Scores:
    """Every set. The model is left in evaluation mode."""
    model.eval()
    learning = evaluate_questions(model, tokenizer, LEARNING_SET, new_facts, config, trunks)
    return join([learning, evaluate_held_out(model, tokenizer, held_out, config, trunks)])


def join(parts: Sequence[Scores]) -> Scores:
    return Scores(
        sets={name: score for part in parts for name, score in part.sets.items()},
        f1={name: value for part in parts for name, value in part.f1.items()},
    )
