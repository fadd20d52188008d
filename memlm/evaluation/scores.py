"""The scores of one model on every set, as plain numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

from memlm.frontier import SetScore


@dataclass(frozen=True, kw_only=True)
class Scores:
    sets: dict[str, SetScore]
    extra: dict[str, float]
    """Secondary measures, as means: known_facts_f1, hellaswag_acc_norm, gsm8k_final_number, background_text_bits_per_byte."""


def join(parts: Sequence[Scores]) -> Scores:
    return Scores(
        sets={name: score for part in parts for name, score in part.sets.items()},
        extra={name: value for part in parts for name, value in part.extra.items()},
    )
