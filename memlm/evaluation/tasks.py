"""The tasks: prompt, measure, score of chance and version of each.

A new task is one entry of TASKS. Its version is raised whenever a score would change for the
same model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from memlm.data.questions.records import MultipleChoice, Question, QuestionError, Record, TaskChoice
from memlm.evaluation.answerable import describe_flaws, flaws_of_answers, flaws_of_choices, flaws_of_solutions
from memlm.evaluation.answers import (
    Normalize,
    constant_answer_chance,
    normalize,
    normalize_nq_open,
    normalize_triviaqa,
)
from memlm.evaluation.chat import holds_answer, reply_to
from memlm.evaluation.config import EvaluationConfig
from memlm.evaluation.multiple_choice import choice_chance, choose
from memlm.evaluation.question_answering import answer_questions
from memlm.evaluation.solutions import score_solutions
from memlm.model.reader import Reader
from memlm.names import suggestion
from memlm.results.scores import Measure, nats_set

UnigramNats = Float[Tensor, " vocab"]
"""The nats of each token under a unigram model."""

TEXT_VERSION = 2
"""Version of the likelihood of held-out text, which is no set of records."""
ANSWER_NATS_VERSION = 1
"""Version of the likelihood of preferred answers, which is measured next to the task of a set."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The primary measure of each record, in the order asked, and the others as means over the
    set."""

    items: tuple[float, ...]
    others: dict[str, float]
    answers: tuple[str, ...] = ()
    """The model's answers, where it was asked for text."""
    unigram: tuple[float, ...] = ()
    """The score of a unigram model on each record, where the measure is a loss."""


@dataclass(frozen=True, kw_only=True)
class Task:
    version: int
    kind: type[Record]
    measure: Measure
    num_examples: int
    """Number of examples shown, unless a set chooses another."""
    score: Callable[[Reader, EvaluationConfig, Any, Any, UnigramNats | None], Measured]
    """Scores the records asked (third argument) after the examples shown (fourth)."""
    chance: Callable[[Any], float] | None
    """The score of chance on the records asked; None for a loss, whose chance is a unigram
    model's."""
    flaws: Callable[[PreTrainedTokenizerBase, EvaluationConfig, Any], list[str]]
    """For each record, why it can never be answered right; empty where it can."""


@dataclass(frozen=True, kw_only=True)
class Exam:
    """A set of records with its task: those to ask, and those shown as examples."""

    label: str
    """Names the task and its version, and the number of examples where it is not the task's own."""
    nats_label: str
    """The same for the likelihood of the preferred answers."""
    task: Task
    asked: Sequence[Record]
    examples: Sequence[Record]
    """Shown before each question: records of the set itself."""
    shared_examples: Sequence[Question] = ()
    """Shown before each question of several sets."""


def exam_of(name: str, records: Sequence[Record], choice: TaskChoice, shared_examples: Sequence[Question] = ()) -> Exam:
    """Raises QuestionError if the set cannot be asked in this way. The examples are the set's
    last records, or the shared ones for short answers whose task shows none of its own."""
    task_name = choice.task or default_task(records)
    task = find_task(name, task_name)
    if not records or not all(isinstance(record, task.kind) for record in records):
        kind = "choices" if task.kind is MultipleChoice else "questions with answers"
        raise QuestionError(f"{name}: the task {task_name!r} needs {kind}; choose another task or layout for this set")
    num_examples = task.num_examples if choice.num_examples < 0 else choice.num_examples
    if num_examples >= len(records):
        raise QuestionError(
            f"{name}: {num_examples} examples leave none of {len(records)} records to ask; take more records, or lower num_examples"
        )
    shares = choice.num_examples < 0 and not num_examples and task.measure == "exact_match"
    shared = shared_examples if shares else ()
    num_shown = num_examples + len(shared)
    way = "" if task_name in (name, *GENERAL) else f":{task_name}"
    shown = "" if num_shown == task.num_examples else f",{num_shown}-shot"
    num_asked = len(records) - num_examples
    return Exam(
        label=f"{name}{way}@{task.version}{shown}",
        nats_label=f"{nats_set(name)}{way}@{ANSWER_NATS_VERSION}{shown}",
        task=task,
        asked=records[:num_asked],
        examples=records[num_asked:],
        shared_examples=shared,
    )


def describe_unanswerable(name: str, exam: Exam, tokenizer: PreTrainedTokenizerBase, config: EvaluationConfig) -> str:
    """A message that names the records that can never be answered right, and why; empty if there
    are none."""
    return describe_flaws(name, exam.asked, exam.task.flaws(tokenizer, config, exam.asked))


def find_task(name: str, task: str) -> Task:
    """Raises QuestionError naming the nearest."""
    if task not in TASKS:
        raise QuestionError(f"{name}: unknown task {task!r}; {suggestion(task, TASKS)}")
    return TASKS[task]


def default_task(records: Sequence[Record], layout: str = "") -> str:
    """The layout's own task; where it has none, the general one of the records' kind."""
    if layout in TASKS:
        return layout
    return "multiple_choice" if records and isinstance(records[0], MultipleChoice) else "questions"


def _score_answers(
    reader: Reader,
    config: EvaluationConfig,
    asked: Sequence[Question],
    examples: Sequence[Question],
    unigram: UnigramNats | None,
    *,
    normalize: Normalize,
) -> Measured:
    scores = answer_questions(
        reader,
        asked,
        examples=examples,
        normalize=normalize,
        max_new_tokens=config.max_new_tokens,
        batch_size=config.batch_size,
    )
    others = {"f1": sum(scores.f1) / len(scores.f1)}
    return Measured(items=scores.exact_match, others=others, answers=scores.answers)


def _score_solutions(
    reader: Reader,
    config: EvaluationConfig,
    asked: Sequence[Question],
    examples: Sequence[Question],
    unigram: UnigramNats | None,
) -> Measured:
    scores = score_solutions(
        reader,
        asked,
        examples=examples,
        max_new_tokens=config.max_solution_tokens,
        batch_size=config.batch_size,
        unigram_nats=unigram,
    )
    right = scores.final_number
    return Measured(
        items=scores.nats_per_token,
        others={"final_number": sum(right) / len(right)} if right else {},
        unigram=scores.unigram_nats_per_token,
    )


def _score_choices(
    reader: Reader,
    config: EvaluationConfig,
    asked: Sequence[MultipleChoice],
    examples: Sequence[MultipleChoice],
    unigram: UnigramNats | None,
) -> Measured:
    scores = choose(
        reader,
        asked,
        examples=examples,
        batch_size=config.batch_size,
    )
    by_length = scores.accuracy_by_length
    return Measured(items=scores.accuracy, others={"acc_norm": sum(by_length) / len(by_length)})


def _score_replies(
    reader: Reader,
    config: EvaluationConfig,
    asked: Sequence[Question],
    examples: Sequence[Question],
    unigram: UnigramNats | None,
) -> Measured:
    """A chat shows no examples."""
    replies = reply_to(reader, asked, max_new_tokens=config.max_chat_tokens, batch_size=config.batch_size)
    held = (holds_answer(reply, question.answers) for reply, question in zip(replies, asked, strict=True))
    return Measured(items=tuple(held), others={}, answers=replies)


def _no_flaws(tokenizer: PreTrainedTokenizerBase, config: EvaluationConfig, asked: Sequence[Record]) -> list[str]:
    return [""] * len(asked)


def _short_answers(*, version: int, num_examples: int = 0, normalize: Normalize = normalize) -> Task:
    """Exact match and F1 over all answers that count."""
    return Task(
        version=version,
        kind=Question,
        measure="exact_match",
        num_examples=num_examples,
        score=partial(_score_answers, normalize=normalize),
        chance=partial(constant_answer_chance, normalize=normalize),
        flaws=partial(flaws_of_answers, normalize=normalize),
    )


def _choices(*, version: int) -> Task:
    """Accuracy by likelihood, and by likelihood per character."""
    return Task(
        version=version,
        kind=MultipleChoice,
        measure="accuracy",
        num_examples=0,
        score=_score_choices,
        chance=choice_chance,
        flaws=flaws_of_choices,
    )


GENERAL = ("questions", "multiple_choice")
"""Tasks for records of any origin, which a set's own name describes."""

TASKS: dict[str, Task] = {
    "questions": _short_answers(version=2),
    "multiple_choice": _choices(version=2),
    "triviaqa": _short_answers(version=2, normalize=normalize_triviaqa),
    "nq_open": _short_answers(version=2, num_examples=5, normalize=normalize_nq_open),
    "entityquestions": _short_answers(version=2),
    "simpleqa": _short_answers(version=2),
    "gsm8k": Task(
        version=3,
        kind=Question,
        measure="nats_per_token",
        num_examples=0,
        score=_score_solutions,
        chance=None,
        flaws=flaws_of_solutions,
    ),
    "hellaswag": _choices(version=2),
    "chat": Task(
        version=1,
        kind=Question,
        measure="accuracy",
        num_examples=0,
        score=_score_replies,
        chance=constant_answer_chance,
        flaws=_no_flaws,
    ),
}
