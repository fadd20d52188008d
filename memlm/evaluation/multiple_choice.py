"""Which choice does the model hold most likely? HellaSwag's two accuracies, as
lm-evaluation-harness defines them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedTokenizerBase

from memlm.data.questions.records import MultipleChoice
from memlm.evaluation.continuations import Continuation, continuation_nats, continuation_trunks
from memlm.model.reader.trunk_cache import NO_TRUNKS, TrunkCache, TrunkInput


@dataclass(frozen=True, kw_only=True)
class ChoiceScores:
    """One entry per record, in the order asked."""

    accuracy: tuple[float, ...]
    """1 where the likeliest choice is right."""
    accuracy_by_length: tuple[float, ...]
    """1 where the choice that is likeliest per character is right: acc_norm. Else long choices
    would lose by their length."""


def choose(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[MultipleChoice],
    *,
    examples: Sequence[MultipleChoice] = (),
    batch_size: int,
    trunks: TrunkCache = NO_TRUNKS,
) -> ChoiceScores:
    """Each choice is scored as what follows the query. Of equally likely ones the first counts."""
    scored = continuation_nats(
        model, tokenizer, _continuations(records, examples), batch_size=batch_size, trunks=trunks
    )
    nats = iter(scored)
    accuracy, by_length = [], []
    for record in records:
        own = [next(nats).nats for _ in record.choices]
        accuracy.append(_is_least(own, record.gold))
        by_length.append(_is_least([n / len(c) for n, c in zip(own, record.choices, strict=True)], record.gold))
    return ChoiceScores(accuracy=tuple(accuracy), accuracy_by_length=tuple(by_length))


def choice_chance(records: Sequence[MultipleChoice]) -> float:
    """The accuracy of guessing."""
    return sum(1 / len(record.choices) for record in records) / len(records)


def choice_trunks(
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[MultipleChoice],
    *,
    examples: Sequence[MultipleChoice] = (),
    batch_size: int,
    window: int,
) -> Iterator[TrunkInput]:
    """What choosing runs the trunk on."""
    return continuation_trunks(tokenizer, _continuations(records, examples), batch_size=batch_size, window=window)


def _continuations(records: Sequence[MultipleChoice], examples: Sequence[MultipleChoice]) -> list[Continuation]:
    shown = "".join(f"{example.query} {example.choices[example.gold]}\n\n" for example in examples)
    return [Continuation(shown + record.query, f" {choice}") for record in records for choice in record.choices]


def _is_least(values: Sequence[float], place: int) -> float:
    return float(min(range(len(values)), key=values.__getitem__) == place)
