"""Recall over several sweeps of the same facts."""

from dataclasses import replace

import pytest

from memlm.results.comparing.items import SweepItems
from memlm.results.comparing.recall import recalls
from memlm.results.scores import SEEN_WORDINGS, ScoreError, SetScore, TrialResult
from tests.results.making import a_trial, right, share

KNOWN = {"known_facts": share(0.9, 60)}
KEPT = {1.0: 0.85, 2.0: 0.85}
"""Share of the known facts after learning, by rate."""
RATES = (1.0, 2.0)


def facts(*wrong: int) -> SetScore:
    """Twenty facts, of which these are not learned."""
    return right(*(0.0 if number in wrong else 1.0 for number in range(20)))


def trial(
    method: str, learned: SetScore, *, seed: int, checkpoint: str, rate: float, seen: float, known: float
) -> TrialResult:
    settings = {"optimizer.learning_rate": rate}
    extra = {SEEN_WORDINGS: seen} if seen else {}
    return a_trial(
        method,
        learned,
        KNOWN,
        {"known_facts": share(known, 60)},
        seed=seed,
        checkpoint=checkpoint,
        extra=extra,
        **settings,
    )


def sweep(wrong: tuple[int, ...], *, checkpoints=("0", "1"), seen=0.8, tuned=2.0, kept=KEPT) -> SweepItems:
    """At rate 1 nothing is learned, and at rate 2 all but `wrong`; the tuning seed prefers one."""
    trials = [
        trial(
            method,
            facts(*range(20)) if rate != (tuned if seed == 9 else 2.0) else facts(*wrong),
            seed=seed,
            checkpoint=checkpoint,
            rate=rate,
            seen=seen,
            known=kept[rate],
        )
        for method in ("sparse_memory", "full")
        for checkpoint in checkpoints
        for seed in (0, 1, 9)
        for rate in RATES
    ]
    return SweepItems(recipe="r", trials=trials, tuning_seeds=(9,), first_sets=("known_facts",), samples=200)


def test_each_method_is_shown_at_the_setting_that_learned_most_on_the_tuning_split():
    (row,) = recalls({"scratch": sweep((0, 1))}, ["sparse_memory"])
    assert (row.sweep, row.method, row.hyperparameters["optimizer.learning_rate"]) == ("scratch", "sparse_memory", 2.0)
    assert row.unseen == 0.9 and row.unseen_ci is not None and row.unseen_ci[0] < 0.9 < row.unseen_ci[1]
    assert row.seen == pytest.approx(0.8) and row.start == 0 and row.difference is None
    assert row.lost == pytest.approx(3 / 54, abs=0.01) and row.lost_ci is not None
    (other,) = recalls({"scratch": sweep((0, 1), tuned=1.0)}, ["sparse_memory"])
    assert other.hyperparameters["optimizer.learning_rate"] == 1.0 and other.unseen == 0


@pytest.mark.parametrize(("kept", "rate"), [({1.0: 0.85, 2.0: 0.6}, 1.0), ({1.0: 0.3, 2.0: 0.6}, 2.0)])
def test_a_setting_that_loses_too_much_is_shown_only_if_all_do(kept: dict[float, float], rate: float):
    (row,) = recalls({"scratch": sweep((0, 1), kept=kept)}, ["full"])
    assert row.hyperparameters["optimizer.learning_rate"] == rate


def test_where_nothing_is_known_nothing_is_lost():
    items = sweep((0, 1))
    unknown = [replace(each, start=each.start | {"known_facts": share(0, 60)}) for each in items.trials]
    (row,) = recalls({"plain": replace(items, trials=unknown)}, ["full"])
    assert row.hyperparameters["optimizer.learning_rate"] == 2.0 and row.unseen == 0.9 and row.lost is None


def test_differences_are_paired_over_facts():
    """Two sweeps that fail at the same facts and one more: the difference is sure, though each of
    the two intervals is wide."""
    rows = recalls({"scratch": sweep((0, 1, 2, 3, 4, 5)), "added": sweep((0, 1, 2, 3, 4, 5, 6, 7, 8, 9))})
    by_name = {(row.sweep, row.method): row for row in rows}
    assert [row.sweep for row in rows] == ["scratch", "scratch", "added", "added"]
    added, scratch = by_name["added", "sparse_memory"], by_name["scratch", "sparse_memory"]
    assert added.difference == pytest.approx(-0.2) and added.difference_ci is not None
    assert added.difference_ci[1] < 0 and added.unseen_ci[1] > scratch.unseen_ci[0]
    (same,) = [row for row in recalls({"a": sweep((0,)), "b": sweep((0,))}, ["full"]) if row.sweep == "b"]
    assert same.difference == 0 and same.difference_ci == [0, 0]


def test_a_sweep_over_fewer_checkpoints_is_compared_on_these():
    scratch = sweep((0, 1))
    harder = [
        replace(each, end=each.end | {"new_facts": facts(*range(20))})
        for each in scratch.trials
        if each.checkpoint == "1"
    ]
    easy = [each for each in scratch.trials if each.checkpoint == "0"]
    rows = recalls({"scratch": replace(scratch, trials=[*easy, *harder]), "try": sweep((0, 1), checkpoints=("0",))})
    tried = [row for row in rows if row.sweep == "try"]
    assert {row.difference for row in tried} == {0.0}
    with pytest.raises(ScoreError, match="sweep scratch has checkpoints that try lacks"):
        recalls({"try": sweep((0, 1), checkpoints=("0",)), "scratch": scratch})


def test_sweeps_without_seen_wordings_or_of_other_sets_are_told_apart():
    (row, *_) = recalls({"scratch": sweep((0,), seen=0)})
    assert row.seen is None
    other = sweep((0,))
    changed = [
        replace(each, start={**each.start, "text": share(1)}, end={**each.end, "text": share(1)})
        for each in other.trials
    ]
    with pytest.raises(ScoreError, match="score all trials on the same sets"):
        recalls({"a": other, "b": replace(other, trials=changed)})
