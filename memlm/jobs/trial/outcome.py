"""A finetune's result in words, for the terminal: what was asked and answered, what it could not
learn, what it lost, and the time it took."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from memlm.evaluation.answers import exact_match
from memlm.results.scores import LEARNING_SET, NEVER_COUNTED, TEXT_SET, SetScore, TrialResult

MAX_SHOWN = 60
"""Questions up to which each is shown with its answer; scores.json has all."""
MAX_NAMED = 20
"""Questions that are named as not learned, where not all are shown."""


def outcome_lines(result: TrialResult) -> Iterator[str]:
    if asked := result.answers.get(LEARNING_SET):  # of an older version's patch there are none
        yield from _learned_lines(asked)
    for name, score in result.start.items():
        if not score.is_loss and name not in (LEARNING_SET, *NEVER_COUNTED):
            yield from _lost_lines(name, score, result.end[name])
    if TEXT_SET in result.end:
        start, end = result.start[TEXT_SET].value, result.end[TEXT_SET].value
        yield f"lost of {TEXT_SET}: {start:.3f} -> {end:.3f} nats per token ({end / start - 1:+.1%})"
    if "seconds" in result.extra:
        seconds, learning = result.extra["seconds"], result.extra["seconds_learning"]
        yield f"time: {seconds:.0f} s, {learning:.0f} s of it learning and the rest asking before and after"


def _learned_lines(asked: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    missing = [each for each in asked if not _is_right(each, "after")]
    if len(asked) <= MAX_SHOWN:
        yield "asked in wordings that it was not trained on, and answered:"
        for each in asked:
            wanted = "" if _is_right(each, "after") else f" (not {each['accepted'][0]})"
            yield f"  {'no ' if wanted else 'yes'} {each['question']} {each['after'] or '(nothing)'}{wanted}"
    before = sum(_is_right(each, "before") for each in asked)
    yield f"learned: {len(asked) - len(missing)} of {len(asked)} are answered right, and {before} were before"
    if missing:
        more = f"; and {len(missing) - MAX_NAMED} more" if len(missing) > MAX_NAMED else ""
        yield f"not learned: {'; '.join(str(each['question']) for each in missing[:MAX_NAMED])}{more}"


def _lost_lines(name: str, start: SetScore, end: SetScore) -> Iterator[str]:
    known = [after for before, after in zip(start.items, end.items, strict=True) if before == 1]
    if known:
        lost = sum(after < 1 for after in known)
        yield f"lost of {name}: {lost} of {len(known)} that were answered right before ({lost / len(known):.1%})"


def _is_right(answered: Mapping[str, Any], when: str) -> bool:
    return exact_match(answered[when], answered["accepted"]) == 1
