"""Multiple choice by likelihood: HellaSwag's two accuracies, as lm-evaluation-harness defines
them."""

from collections.abc import Sequence
from dataclasses import dataclass

from memlm.data.questions.records import MultipleChoice
from memlm.evaluation.continuations import Continuation, continuation_nats
from memlm.model.reader import Reader


@dataclass(frozen=True, kw_only=True)
class ChoiceScores:
    """One entry per record, in the order asked."""

    accuracy: tuple[float, ...]
    """1 where the likeliest choice is right."""
    accuracy_by_length: tuple[float, ...]
    """1 where the choice that is likeliest per character is right: acc_norm. It does not penalise
    long choices."""


def choose(
    reader: Reader,
    records: Sequence[MultipleChoice],
    *,
    examples: Sequence[MultipleChoice] = (),
    batch_size: int,
) -> ChoiceScores:
    """Each choice is scored as the continuation of the query. The first of equally likely choices
    counts."""
    nats = iter(continuation_nats(reader, _continuations(records, examples), batch_size=batch_size))
    accuracy, by_length = [], []
    for record in records:
        own = [next(nats).nats for _ in record.choices]
        accuracy.append(_is_lowest(own, record.gold))
        by_length.append(_is_lowest([n / len(c) for n, c in zip(own, record.choices, strict=True)], record.gold))
    return ChoiceScores(accuracy=tuple(accuracy), accuracy_by_length=tuple(by_length))


def choice_chance(records: Sequence[MultipleChoice]) -> float:
    """The accuracy of guessing."""
    return sum(1 / len(record.choices) for record in records) / len(records)


def _continuations(records: Sequence[MultipleChoice], examples: Sequence[MultipleChoice]) -> list[Continuation]:
    shown = "".join(f"{example.query} {example.choices[example.gold]}\n\n" for example in examples)
    return [Continuation(shown + record.query, f" {choice}") for record in records for choice in record.choices]


def _is_lowest(values: Sequence[float], place: int) -> float:
    return float(min(range(len(values)), key=values.__getitem__) == place)
