"""The scores of a model on the evaluation sets, and of a finished trial before and after it."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

import numpy as np

LEARNING_SET = "new_facts"
SEEN_WORDINGS = f"{LEARNING_SET}_seen"
"""A secondary measure: the share of the wordings that facts were learned in that the model
completes."""
TEXT_SET = "text"
"""Held-out text without ends of text and newlines."""
TEXT_ENDS_SET = "text_ends"
"""The ends of text and newlines of held-out text. They show what a model learned about where to
stop, and do not count as forgetting."""
OLD_ANSWERS_SET = "old_answers"
"""The answers that updates replace. Losing them is meant, so they never count as forgetting."""
Measure = Literal["exact_match", "f1", "accuracy", "nats_per_token"]
EPSILON = 1e-9
"""Numbers that differ by less are equal but for rounding."""
DECIMALS = 6
"""Decimals of a measured item, so that a file holds exactly what is computed with."""


class ScoreError(ValueError):
    """Scores that cannot be read or compared."""


def nats_set(name: str) -> str:
    """The name of the loss on the preferred answers of a set that is answered with text."""
    return f"{name}_nats"


def kept_set(name: str) -> str:
    """The name of the questions of a set that the model answered before it learned. Their share
    that it no longer answers is not offset by questions that it answers only afterwards."""
    return f"{name}_kept"


NEVER_COUNTED = (TEXT_ENDS_SET, OLD_ANSWERS_SET, nats_set(OLD_ANSWERS_SET))
"""Held-out sets that are shown and never count as forgetting."""


def rounded(items: Iterable[float]) -> tuple[float, ...]:
    """The items of a set as they are kept."""
    return tuple(round(item, DECIMALS) for item in items)


@dataclass(frozen=True, kw_only=True)
class SetScore:
    """One model's scores on one evaluation set: one per question (exact match, F1, accuracy, nats
    per token of an answer or a solution) or per block (nats per token)."""

    task: str
    measure: Measure
    chance: float
    """The score without any knowledge: of guessing, of the best constant answer or, for a loss, of
    a unigram model on the same tokens. 0 for a loss from before that was measured."""
    items: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.measure not in get_args(Measure):
            raise ScoreError(f"{self.task}: measure {self.measure!r} is not one of {', '.join(get_args(Measure))}")
        if not self.items or not np.isfinite(self.items).all():
            raise ScoreError(f"{self.task}: needs one or more items, all finite; check the model and the set")
        if not self.is_loss and not all(0 <= value <= 1 for value in (*self.items, self.chance)):
            raise ScoreError(f"{self.task}: {self.measure} and chance lie in 0..1; divide percentages by 100")

    @property
    def is_loss(self) -> bool:
        return self.measure == "nats_per_token"

    @property
    def value(self) -> float:
        return float(np.mean(self.items))

    @property
    def above_chance(self) -> float:
        """By how much the mean is better than chance: what there is to lose. The mean itself for a
        loss without chance."""
        if self.is_loss:
            return self.chance - self.value if self.chance else self.value
        return self.value - self.chance

    @property
    def standard_errors_above_chance(self) -> float:
        """The mean's distance from chance in its standard errors, positive where it is better;
        infinite for a loss without chance, and where all items are alike."""
        error = float(np.std(self.items)) / len(self.items) ** 0.5
        measured = error > EPSILON and not (self.is_loss and not self.chance)
        return self.above_chance / error if measured else float("inf")

    def drop_to(self, end: "SetScore") -> float:
        """The share lost of what was better than chance, unclipped; nan where the start leaves no
        room. For a loss without chance, the relative rise."""
        lost = end.value - self.value if self.is_loss else self.value - end.value
        return lost / self.above_chance if self.above_chance > EPSILON else float("nan")


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """A finished finetuning run: its settings, and every set's scores before and after."""

    key: str
    method: str
    hyperparameters: dict[str, float | int | str]
    seed: int
    start: dict[str, SetScore]
    end: dict[str, SetScore]
    extra: dict[str, float]
    checkpoint: str = ""
    """Name of the pair of world and pretraining seed that the trial started from; empty in a run
    of one checkpoint."""
    commit: str = ""
    """Commit of the code that ran it; empty outside a checkout, and in a trial from before trials
    kept theirs."""
    answers: dict[str, list[dict[str, Any]]] = dataclasses.field(default_factory=dict, repr=False)
    """By set, each question with its accepted answers and the model's answers before and after.
    Kept with a finetune, and not in a sweep."""

    def to_json(self) -> dict[str, Any]:
        """The result as JSON, without the answers."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "answers"}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read the output of to_json. Raises ScoreError, KeyError or TypeError for anything
        else."""

        def scores(side: Mapping[str, Any]) -> dict[str, SetScore]:
            return {name: SetScore(**{**score, "items": tuple(score["items"])}) for name, score in side.items()}

        read = cls(**{**value, "start": scores(value["start"]), "end": scores(value["end"])})
        kinds: dict[str, type] = {"key": str, "method": str, "checkpoint": str, "commit": str, "seed": int}
        kinds |= {"hyperparameters": Mapping, "extra": Mapping}
        wrong = [name for name, kind in kinds.items() if not isinstance(getattr(read, name), kind)]
        numbers = (*read.extra.values(), *read.hyperparameters.values()) if not wrong else ()
        if wrong or not all(isinstance(each, int | float | str) for each in numbers):
            raise ScoreError(
                f"trial {str(read.key)[:80]!r}: {', '.join(wrong) or 'a number'} is of the wrong type; run the trial again"
            )
        return read


@dataclass(frozen=True, kw_only=True)
class FailedSetting:
    """A setting with which learning diverged for one seed or more: it has no mean and no point on
    the frontier."""

    method: str
    hyperparameters: dict[str, float | int | str]
    seeds: tuple[int, ...]
    """The seeds for which it diverged."""
    reason: str


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One question and the model's answer."""

    id: str
    question: str
    accepted: tuple[str, ...]
    answer: str


@dataclass(frozen=True, kw_only=True)
class Scores:
    sets: dict[str, SetScore]
    extra: dict[str, float]
    """Secondary measures, as means: known_facts_f1, hellaswag_acc_norm, gsm8k_final_number,
    text_bits_per_byte."""
    answers: dict[str, tuple[Answered, ...]] = field(default_factory=dict)
    """The model's answers in the sets that ask for text."""


def join(parts: Sequence[Scores]) -> Scores:
    return Scores(
        sets={name: score for part in parts for name, score in part.sets.items()},
        extra={name: value for part in parts for name, value in part.extra.items()},
        answers={name: given for part in parts for name, given in part.answers.items()},
    )


def before_and_after(
    start: Mapping[str, Sequence[Answered]], end: Mapping[str, Sequence[Answered]]
) -> dict[str, list[dict[str, Any]]]:
    """Each question once, with the answers of the model before and after learning."""
    return {
        name: [
            {
                "id": after.id,
                "question": after.question,
                "accepted": list(after.accepted),
                "before": before.answer,
                "after": after.answer,
            }
            for before, after in zip(start[name], given, strict=True)
        ]
        for name, given in end.items()
        if name in start
    }
