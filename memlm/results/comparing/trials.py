"""Whether trials can be compared, what they lack, and their settings."""

import itertools
import json
from collections.abc import Mapping, Sequence

from memlm.results.comparing.sets import HEADLINE_SET, WHOLE_TEXT_SET
from memlm.results.scores import LEARNING_SET, TEXT_SET, ScoreError, SetScore, TrialResult, nats_set

COMPARED_METHODS = ("sparse_memory", "lora", "full")
"""The paper's three; a level is matched when all of them reach it."""
SPARSE = "sparse_memory"
"""The paper's rule. The names of our rules are its name, an underscore and more."""

Sets = Mapping[str, tuple[str, str]]
"""Task and measure of each set."""


def method_order(method: str) -> tuple[int, str]:
    """Place of a method in tables: the paper's rule, our rules, its rivals, all others."""
    if method != SPARSE and method.startswith(f"{SPARSE}_"):
        return 1, method
    return (2 * COMPARED_METHODS.index(method) if method in COMPARED_METHODS else 2 * len(COMPARED_METHODS)), method


def setting_key(trial: TrialResult) -> str:
    return json.dumps(trial.hyperparameters, sort_keys=True)


def settings_of(trials: Sequence[TrialResult]) -> list[list[TrialResult]]:
    """One method's trials, by setting."""
    ordered = sorted(trials, key=lambda trial: (setting_key(trial), trial.checkpoint, trial.seed))
    return [list(group) for _, group in itertools.groupby(ordered, key=setting_key)]


def require_comparable(trials: Sequence[TrialResult]) -> None:
    if not trials:
        raise ScoreError("no trials: a frontier needs at least one finished trial; run the sweep first")
    expected = _sets(trials[0].start)
    if expected.get(LEARNING_SET, ("", "nats_per_token"))[1] == "nats_per_token":
        raise ScoreError(f"trial {trials[0].key}: learning is the accuracy on a set named {LEARNING_SET!r}; add it")
    _require_one_kind_of_text(trials)
    seen: set[tuple[str, str, str, int]] = set()
    for trial in trials:
        for side, scores in (("start", trial.start), ("end", trial.end)):
            if (found := _sets(scores)) != expected:
                raise ScoreError(
                    f"trial {trial.key}: {side} was scored on {found}, trial {trials[0].key} on {expected}; "
                    "score all trials on the same sets and task versions"
                )
        if any(len(score.items) != len(trial.end[name].items) for name, score in trial.start.items()):
            raise ScoreError(f"trial {trial.key}: start and end must be scored on the same items; score it again")
        if clash := expected.keys() & trial.extra.keys():
            raise ScoreError(f"trial {trial.key}: extra {sorted(clash)} are names of sets; rename them")
        if (identity := (trial.method, setting_key(trial), trial.checkpoint, trial.seed)) in seen:
            raise ScoreError(
                f"trial {trial.key}: {identity} appears twice; keep one trial per setting, checkpoint and seed"
            )
        seen.add(identity)


def _sets(scores: Mapping[str, SetScore]) -> Sets:
    return {name: (score.task, score.measure) for name, score in scores.items()}


def _require_one_kind_of_text(trials: Sequence[TrialResult]) -> None:
    """Refuse trials of which only some were scored by class of token."""
    old = [trial.key for trial in trials if WHOLE_TEXT_SET in trial.start]
    new = [trial.key for trial in trials if TEXT_SET in trial.start]
    if old and new:
        named = ", ".join(old[:3]) + (", ..." if len(old) > 3 else "")
        raise ScoreError(
            f"{len(old)} of {len(trials)} trials ({named}) are from before text was scored by class of token, and cannot be compared with the others; "
            "move their entries out of the run's trials/ (and its base run's) and run the sweep again, or give another --run-name"
        )


def split_by_seed(
    trials: Sequence[TrialResult], tuning_seeds: Sequence[int]
) -> tuple[list[TrialResult], list[TrialResult]]:
    """Trials that are reported, and trials that choose settings. Raises ScoreError if a method has
    none of either."""
    parts = (
        [trial for trial in trials if trial.seed not in tuning_seeds],
        [trial for trial in trials if trial.seed in tuning_seeds],
    )
    methods = {trial.method for trial in trials}
    for part, seeds in zip(parts, ("other seeds", "one of them"), strict=True):
        if tuning_seeds and (missing := methods - {trial.method for trial in part}):
            raise ScoreError(
                f"sweep.tuning_seeds is {tuple(tuning_seeds)}, and {min(missing)} has no trial with {seeds}: settings are chosen with these seeds and "
                "compared with others; run the sweep with seeds of both kinds"
            )
    return parts


def lacks(trials: Sequence[TrialResult], tuning_seeds: Sequence[int]) -> list[str]:
    """What trials from before these measures lack, in words."""
    scores = trials[0].start
    asked = [name for name, score in scores.items() if name != LEARNING_SET and score.measure in ("exact_match", "f1")]
    missing = []
    if WHOLE_TEXT_SET in scores:
        missing.append("text by class of token: ends and line breaks are part of the text's score")
    if asked and not any(nats_set(name) in scores for name in asked):
        named = HEADLINE_SET if HEADLINE_SET in asked else asked[0]
        missing.append(f"{nats_set(named)}: the loss on the known answers")
    if any(score.is_loss and not score.chance for score in scores.values()):
        missing.append(
            "chance of losses: their drop is relative to the start, and nothing says whether it is near chance"
        )
    if missing and not tuning_seeds:
        missing.append("a tuning split: settings are chosen on the trials that are reported")
    return missing
