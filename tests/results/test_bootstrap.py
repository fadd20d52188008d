import numpy as np
import pytest

from memlm.results.bootstrap import Resamples, interval
from tests.results.making import a_trial, frontier_of_trials, random_trials, right, share


def test_one_checkpoint_has_the_same_intervals_whatever_its_name() -> None:
    frontiers = [frontier_of_trials(*random_trials(checkpoints=(name,))) for name in ("", "7")]
    for points in zip(*(frontier["points"] for frontier in frontiers), strict=True):
        assert points[0] | {"checkpoints": []} == points[1] | {"checkpoints": []}
    assert frontiers[0]["paired"] == frontiers[1]["paired"]


def test_an_interval_covers_checkpoints_when_seeds_and_items_do_not_vary() -> None:
    """One in nine resamples is one of three checkpoints three times."""
    known = {"known_facts": share(1)}, {"known_facts": share(1)}
    constant = [right(*[value] * 20) for value in (0.3, 0.5, 0.7)]
    trials = [
        a_trial("full", score, *known, seed=seed, checkpoint=str(number))
        for number, score in enumerate(constant)
        for seed in range(2)
    ]
    (point,) = frontier_of_trials(*trials, samples=2000)["points"]
    assert (point["learning"], point["learning_ci"]) == (pytest.approx(0.5), pytest.approx([0.3, 0.7]))
    assert (point["checkpoints"], point["seeds"]) == (["0", "1", "2"], [0, 1])


def test_a_checkpoint_that_is_drawn_twice_has_two_draws_of_its_own() -> None:
    """Four checkpoints with the same items are four times the items: half the width. With one draw
    shared by both, it would be wider by a third."""
    known = {"known_facts": share(1)}, {"known_facts": share(1)}
    widths = []
    for names in (("",), ("a", "b", "c", "d")):
        trials = [a_trial("full", share(0.5, 100), *known, checkpoint=name) for name in names]
        (point,) = frontier_of_trials(*trials, samples=4000)["points"]
        widths.append(np.diff(point["learning_ci"])[0])
    assert widths[1] == pytest.approx(widths[0] / 2, rel=0.1)


def test_checkpoints_may_have_sets_of_different_sizes() -> None:
    """Another world has other questions."""
    trials = [
        a_trial(
            "full", share(0.5), {"known_facts": share(1, size)}, {"known_facts": share(drop, size)}, checkpoint=name
        )
        for name, size, drop in (("a", 20, 0.9), ("b", 30, 0.5))
    ]
    (point,) = frontier_of_trials(*trials)["points"]
    assert point["sets"]["known_facts"]["drop"] == pytest.approx((0.1 + 0.5) / 2)


def test_sums_of_items_are_exact_in_any_order() -> None:
    """Values with six decimals are summed as whole millionths."""
    rng = np.random.default_rng(0)
    items = [round(float(value), 6) for value in rng.random(300)]
    draws = Resamples(50, 0)
    forwards = draws.means("a", [right(*items)], "")[0, 0]
    backwards = draws.means("a", [right(*reversed(items))], "")[0, 0]
    assert forwards == backwards == sum(round(item * 10**6) for item in items) / (300 * 10**6)


def test_an_interval_is_of_the_resamples_that_have_a_value() -> None:
    assert interval(np.array([9.0, np.nan, 1.0, 1.0])) == [1.0, 1.0]
    assert interval(np.array([9.0, np.nan])) is None


def test_checkpoints_draw_seeds_and_items_apart() -> None:
    draws = Resamples(50, 0, ["a", "b"])
    first, second = (draws.counts("seeds", 5, name)[:, 1:20] for name in ("a", "b"))
    assert not np.array_equal(first, second)
    assert (draws.counts("seeds", 5, "a").sum(axis=0) == 5).all()
