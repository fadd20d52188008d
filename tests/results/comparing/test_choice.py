import dataclasses
import json
import re
from typing import Any

import pytest

from memlm.results.scores import ScoreError, SetScore, TrialResult
from tests.results.making import a_trial, frontier_of_trials, lost, nats, right, share

TUNING = 9
"""The tuning seed."""


def by_rate(frontier: dict[str, Any]) -> dict[float, dict[str, Any]]:
    return {point["hyperparameters"]["rate"]: point for point in frontier["points"]}


def known(reported: float, tuning: float, *, parts: int = 10) -> SetScore:
    """Nats of known answers, of which every third item chooses settings."""
    return nats(*(reported, reported, tuning) * parts, task="known_facts_nats@1")


def a_setting(rate: float, learning: dict[int, float], end: SetScore) -> list[TrialResult]:
    """Trials with evaluation seeds 0 and 1 and the tuning seed; the known facts stay right."""
    facts = {"known_facts": share(0.5, 30)}
    before, after = facts | {"known_facts_nats": known(1.0, 1.0)}, facts | {"known_facts_nats": end}
    return [a_trial("full", learning[seed], before, after, seed=seed, rate=rate) for seed in (0, 1, TUNING)]


def test_settings_are_chosen_on_tuning_seeds_and_tuning_items_and_reported_on_the_others() -> None:
    """On the tuning split rate 1 beats rate 2; on the reported one rate 2 beats rate 1."""
    first = a_setting(1.0, {0: 0.4, 1: 0.5, TUNING: 0.9}, known(2.0, 1.1))
    second = a_setting(2.0, {0: 0.6, 1: 0.7, TUNING: 0.8}, known(1.4, 1.2))
    frontier = frontier_of_trials(*first, *second, tuning_seeds=(TUNING,))
    assert (frontier["chosen_on"], frontier["chosen_by"]) == ("tuning", "known_facts_nats")
    points = by_rate(frontier)
    assert {rate: point["on_frontier"] for rate, point in points.items()} == {1.0: True, 2.0: False}
    assert points[1.0]["seeds"] == [0, 1] and points[1.0]["learning"] == pytest.approx(0.45)
    assert points[1.0]["sets"]["known_facts_nats"]["drop"] == pytest.approx(1 / 4)
    tuning = points[1.0]["tuning"]
    assert (tuning["seeds"], tuning["learning"]) == ([TUNING], pytest.approx(0.9))
    assert tuning["drops"] == {"known_facts": 0.0, "known_facts_nats": pytest.approx(0.1 / 4)}
    # The line goes from the untrained model to rate 1, past rate 2, which learns more.
    assert [row["learning"] for row in frontier["partly_matched"]] == [0.1, 0.2, 0.3, 0.4]
    at = frontier["partly_matched"][1]["methods"]["full"]["sets"]["known_facts_nats"]["forgetting"]
    assert at == pytest.approx(0.2 / 0.45 * 1 / 4)


def test_without_tuning_seeds_settings_are_chosen_on_what_is_reported() -> None:
    first = a_setting(1.0, {0: 0.4, 1: 0.4, TUNING: 0.4}, known(2.0, 1.1))
    second = a_setting(2.0, {0: 0.6, 1: 0.6, TUNING: 0.6}, known(1.4, 1.2))
    frontier = frontier_of_trials(*first, *second)
    assert frontier["chosen_on"] == "evaluation"
    points = by_rate(frontier)
    assert {rate: (point["on_frontier"], point["tuning"]) for rate, point in points.items()} == {
        1.0: (False, None),
        2.0: (True, None),
    }
    assert points[2.0]["seeds"] == [0, 1, TUNING]
    assert points[2.0]["sets"]["known_facts_nats"]["drop"] == pytest.approx((0.4 * 2 + 0.2) / 3 / 4)


def test_without_their_likelihood_settings_are_chosen_by_the_headline_set() -> None:
    """By text, the other set, rate 1 would be chosen too."""

    def trial(rate: float, learning: float, drop: float, text: float) -> TrialResult:
        before, after = (
            {"known_facts": share(1), "text": nats(1.0)},
            {"known_facts": share(1 - drop), "text": nats(text)},
        )
        return a_trial("full", learning, before, after, rate=rate)

    frontier = frontier_of_trials(trial(1.0, 0.5, 0.4, 1.0), trial(2.0, 0.6, 0.2, 1.5))
    assert frontier["chosen_by"] == "known_facts"
    assert {rate: point["on_frontier"] for rate, point in by_rate(frontier).items()} == {1.0: False, 2.0: True}


def test_the_choice_is_not_made_again_in_a_resample() -> None:
    """Rate 1 is beaten by a hair and wins in half of the resamples: the line still leaves it
    out."""
    known_facts = {1.0: right(*(1.0,) * 10, *(0.0,) * 10), 2.0: right(*(0.0,) * 9, *(1.0,) * 11)}
    trials = [
        a_trial("full", share(0.5), {"known_facts": share(1)}, {"known_facts": end}, rate=rate)
        for rate, end in known_facts.items()
    ]
    frontier = frontier_of_trials(*trials, samples=1000)
    points = by_rate(frontier)
    assert not points[1.0]["on_frontier"]
    (row,) = [row for row in frontier["partly_matched"] if row["learning"] == 0.5]
    alone = frontier_of_trials(trials[1], samples=1000)
    (row_alone,) = [row for row in alone["partly_matched"] if row["learning"] == 0.5]
    assert row == row_alone


def test_a_method_without_trials_of_either_kind_is_refused() -> None:
    trials = [lost("full", 0.5, 0.1, seed=seed) for seed in (0, TUNING)]
    with pytest.raises(
        ScoreError, match=re.escape("sweep.tuning_seeds is (9,), and lora has no trial with one of them")
    ):
        frontier_of_trials(*trials, lost("lora", 0.5, 0.1, seed=0), tuning_seeds=(TUNING,))
    with pytest.raises(ScoreError, match="lora has no trial with other seeds"):
        frontier_of_trials(*trials, lost("lora", 0.5, 0.1, seed=TUNING), tuning_seeds=(TUNING,))


def test_a_set_too_small_to_be_parted_is_refused() -> None:
    small = {"known_facts": share(1), "riddles": right(1.0, 1.0)}
    trials = [a_trial("full", 0.5, small, small, seed=seed) for seed in (0, TUNING)]
    with pytest.raises(ScoreError, match="riddles has 2 items, of which none is left to choose settings by"):
        frontier_of_trials(*trials, tuning_seeds=(TUNING,))


def test_a_setting_without_tuning_trials_is_shown_and_not_chosen() -> None:
    trials = [lost("full", 0.5, 0.1, seed=seed, rate=1.0) for seed in (0, TUNING)]
    points = by_rate(frontier_of_trials(*trials, lost("full", 0.9, 0.0, rate=2.0), tuning_seeds=(TUNING,)))
    assert {rate: point["on_frontier"] for rate, point in points.items()} == {1.0: True, 2.0: False}
    assert points[2.0]["tuning"] is None


def test_tuning_trials_change_no_reported_number_but_the_choice() -> None:
    trials = [lost("full", 0.5, 0.2, seed=0, rate=1.0), lost("full", 0.4, 0.2, seed=TUNING, rate=1.0)]
    other = dataclasses.replace(trials[1], end=trials[0].end)
    frontiers = [frontier_of_trials(trials[0], each, tuning_seeds=(TUNING,)) for each in (trials[1], other)]
    for frontier in frontiers:
        frontier["points"] = [{**point, "tuning": None} for point in frontier["points"]]
    assert json.dumps(frontiers[0]) == json.dumps(frontiers[1])
