"""The scores of one model on every set, as plain numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from memlm.results.frontier import SetScore


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One question, and what the model answered."""

    id: str
    question: str
    accepted: tuple[str, ...]
    answer: str


@dataclass(frozen=True, kw_only=True)
class Scores:
    sets: dict[str, SetScore]
    extra: dict[str, float]
    """Secondary measures, as means: known_facts_f1, hellaswag_acc_norm, gsm8k_final_number,
    background_text_bits_per_byte."""
    answers: dict[str, tuple[Answered, ...]] = field(default_factory=dict)
    """What was answered, in the sets that ask for text."""


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
