"""The held-out sets of a sweep: their order, which of them count, and which items choose settings.

A set is named after its questions. `<set>_nats` is the loss on the same questions' answers, in nats
per token; `text` is held-out text without ends and line breaks, `text_ends` those alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from memlm.results.scores import (
    EPSILON,
    LEARNING_SET,
    NEVER_COUNTED,
    OLD_ANSWERS_SET,
    TEXT_ENDS_SET,
    TEXT_SET,
    ScoreError,
    SetScore,
    TrialResult,
    nats_set,
)

HEADLINE_SET = "known_facts"
"""The measure of forgetting where a run does not say which of its sets comes first."""
NATS = nats_set("")
WHOLE_TEXT_SET = "background_text"
"""All of the held-out text, in trials from before text was scored by class of token."""
TEXTS = (TEXT_SET, TEXT_ENDS_SET, WHOLE_TEXT_SET)
MIN_ABOVE_CHANCE = 0.05
MIN_STANDARD_ERRORS = 2.0
"""Nearer to chance than either, a relative drop divides by noise. The first is a share of accuracy
or, for a loss, of chance."""
NOT_FORGETTING = {
    TEXT_ENDS_SET: "learning to end after a sentence is not forgetting",
    OLD_ANSWERS_SET: "an update is to replace these answers",
}
"""Why sets never count."""
TUNING_ITEMS = 3
"""With tuning seeds, the last of every three items of a set of questions chooses settings, and the
others are reported."""


def in_order(names: Iterable[str], first: Sequence[str] = ()) -> list[str]:
    """Held-out sets as they are shown: those of `first` in its order, then the others, text last;
    each is followed by the loss on its answers."""
    first = first or (HEADLINE_SET,)
    held_out = [name for name in names if name != LEARNING_SET]
    texts = [name for name in TEXTS if name in held_out]

    def place(name: str) -> tuple[int, int, str, bool]:
        asked = name.removesuffix(NATS)
        rank = first.index(asked) if asked in first else len(first)
        return name in texts, texts.index(name) if name in texts else rank, asked, name != asked

    return sorted(held_out, key=place)


@dataclass(frozen=True, kw_only=True)
class HeldOutSets:
    """The held-out sets of a sweep."""

    names: list[str]
    """As they are shown."""
    counted: list[str]
    """Those on which every model has something to lose."""
    left_out: dict[str, str]
    """The others, with the reason."""

    @property
    def headline(self) -> str:
        return self.counted[0]

    @property
    def averaged(self) -> list[str]:
        """Counted sets, each set of questions by one of its measures: its own if that counts."""
        asked = {name: name.removesuffix(NATS) for name in self.counted}
        return [name for name in self.counted if asked[name] == name or asked[name] not in self.counted]

    @property
    def decided_by(self) -> str:
        """The set that settings are chosen by: the loss on the first set's answers, which
        moves before an answer does."""
        nats = nats_set(self.names[0])
        return nats if nats in self.counted else self.headline


def held_out_sets(trials: Sequence[TrialResult], first: Sequence[str]) -> HeldOutSets:
    """The trials' sets, those of `first` first. Raises ScoreError if none counts."""
    names, left_out = in_order(trials[0].start, first), {}
    for name in names:
        if name in NEVER_COUNTED:
            left_out[name] = NOT_FORGETTING[name.removesuffix(NATS)]
        elif reason := _too_near_chance({trial.start[name]: trial.method for trial in reversed(trials)}):
            left_out[name] = reason
    if len(left_out) == len(names):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise ScoreError(
            f"no held-out set counts, so forgetting cannot be measured ({reasons or 'no set was scored'}): all models must start "
            f"{MIN_ABOVE_CHANCE:g} and {MIN_STANDARD_ERRORS:g} standard errors better than chance on one; pretrain for longer or add a set measured in nats"
        )
    return HeldOutSets(names=names, counted=[name for name in names if name not in left_out], left_out=left_out)


def _too_near_chance(starts: dict[SetScore, str]) -> str:
    for score, method in starts.items():
        if score.is_loss and not score.chance:  # from before losses had a chance
            continue
        least = MIN_ABOVE_CHANCE * (score.chance if score.is_loss else 1.0)
        near = score.above_chance < least - EPSILON
        if near or score.standard_errors_above_chance < MIN_STANDARD_ERRORS:
            unit = "nats per token" if score.is_loss else "right"
            return f"{method} starts at {score.value:.3g} {unit}, and chance is {score.chance:.3g}"
    return ""


def reported_items(trial: TrialResult) -> TrialResult:
    """The trial on the items that do not choose settings."""
    return _on_items(trial, choosing=False)


def tuning_items(trial: TrialResult) -> TrialResult:
    """The trial on the items that choose settings, and on all of the text."""
    return _on_items(trial, choosing=True)


def _on_items(trial: TrialResult, *, choosing: bool) -> TrialResult:
    return replace(
        trial,
        start={name: _part(name, score, choosing) for name, score in trial.start.items()},
        end={name: _part(name, score, choosing) for name, score in trial.end.items()},
    )


def _part(name: str, score: SetScore, choosing: bool) -> SetScore:
    if name == LEARNING_SET or name in TEXTS:
        return score
    reported = list(score.items)
    del reported[TUNING_ITEMS - 1 :: TUNING_ITEMS]
    items = score.items[TUNING_ITEMS - 1 :: TUNING_ITEMS] if choosing else tuple(reported)
    require_tuning_items({name: len(score.items)})
    return replace(score, items=items)


def require_tuning_items(sizes: Mapping[str, int]) -> None:
    """Raises ScoreError for a held-out set of this size that leaves no item to choose settings
    by."""
    for name, size in sizes.items():
        if size < TUNING_ITEMS:
            raise ScoreError(
                f"{name} has {size} items, of which none is left to choose settings by (every third is); "
                f"ask {TUNING_ITEMS} questions or more, or leave out sweep.tuning_seeds"
            )
