import json
import math

import pytest

from memlm.results.comparing.sets import HeldOutSets, in_order
from memlm.results.scores import ScoreError, SetScore
from tests.results.making import a_trial, frontier_of_trials, lost, nats, right, share


def unchanged(*methods: str, **sets: SetScore) -> list:
    return [a_trial(method, 0.5, sets, sets) for method in methods or ("full",)]


def test_sets_are_shown_in_the_order_of_the_run_each_before_its_likelihood_and_text_last() -> None:
    names = ["arithmetic", "arithmetic_nats", "known_facts", "known_facts_nats", "new_facts", "text", "text_ends"]
    facts, sums = ["known_facts", "known_facts_nats"], ["arithmetic", "arithmetic_nats"]
    assert in_order(names) == [*facts, *sums, "text", "text_ends"]
    assert in_order(names, ["arithmetic", "known_facts"]) == [*sums, *facts, "text", "text_ends"]
    assert in_order(["gsm8k", "known_facts", "hellaswag"], ["known_facts"]) == ["known_facts", "gsm8k", "hellaswag"]


def test_the_average_has_each_set_of_questions_once() -> None:
    counted = ["known_facts", "known_facts_nats", "sums_nats", "text"]
    sets = HeldOutSets(names=[*counted, "sums"], counted=counted, left_out={"sums": "near chance"})
    assert sets.averaged == ["known_facts", "sums_nats", "text"]


def test_ends_of_text_are_shown_and_never_count() -> None:
    before = {"known_facts": share(1), "text": nats(1.0), "text_ends": nats(0.1)}
    after = {"known_facts": share(0.9), "text": nats(1.4), "text_ends": nats(4.9)}
    frontier = frontier_of_trials(a_trial("full", 0.5, before, after))
    assert frontier["counted_sets"] == ["known_facts", "text"] and frontier["headline_set"] == "known_facts"
    assert frontier["left_out"] == {"text_ends": "learning to end after a sentence is not forgetting"}
    (point,) = frontier["points"]
    assert point["sets"]["text_ends"]["drop"] == pytest.approx(4.8 / 4.9)
    assert point["forgetting"] == pytest.approx((0.1 + 0.1) / 2)
    assert {row["set"] for row in frontier["paired"]} == set()
    assert list(frontier["partly_matched"][0]["methods"]["full"]["sets"]) == ["known_facts", "text"]


@pytest.mark.parametrize(
    ("loss", "counts"),
    [
        (nats(4.7, 4.7), True),  # 6 % of the way from a unigram model
        (nats(4.8, 4.8), False),
        (nats(5.2, 5.2), False),
        (nats(1.0, 8.0), False),  # far from chance, and within two standard errors
        (nats(4.8, 4.8, chance=0.0), True),  # from before a loss had a chance
    ],
)
def test_a_loss_counts_where_the_model_is_better_than_a_unigram_model(loss: SetScore, counts: bool) -> None:
    frontier = frontier_of_trials(*unchanged(known_facts=share(1), text=loss))
    assert frontier["counted_sets"] == (["known_facts", "text"] if counts else ["known_facts"])
    if not counts:
        assert frontier["left_out"] == {"text": f"full starts at {loss.value:.3g} nats per token, and chance is 5"}


def test_one_method_near_chance_leaves_a_set_out_for_all() -> None:
    trials = [*unchanged("lora", known_facts=share(1), text=nats(1.0))]
    trials += unchanged("sparse_memory", known_facts=share(1), text=nats(4.9))
    frontier = frontier_of_trials(*trials)
    assert frontier["left_out"] == {"text": "sparse_memory starts at 4.9 nats per token, and chance is 5"}


def test_without_a_set_that_counts_the_reason_of_each_is_named() -> None:
    near = {"known_facts": right(*(0.0,) * 20), "text": nats(4.9, 4.9), "text_ends": nats(0.1)}
    with pytest.raises(ScoreError) as caught:
        frontier_of_trials(*unchanged(**near))
    message = str(caught.value)
    assert "\n" not in message and "pretrain for longer or add a set measured in nats" in message
    assert "known_facts: full starts at 0 right, and chance is 0; text: full starts at 4.9 nats per token" in message
    with pytest.raises(ScoreError, match="no set was scored"):
        frontier_of_trials(*unchanged())


def test_a_set_that_a_resample_starts_at_chance_on_still_has_an_interval() -> None:
    """Where the draw leaves no room, there is no drop; the JSON stays free of NaN."""
    before = {"known_facts": right(1.0, *(0.0,) * 3, 1.0, 1.0, 1.0, chance=0.1)}
    after = {"known_facts": right(1.0, *(0.0,) * 3, 0.0, 1.0, 1.0, chance=0.1)}
    frontier = frontier_of_trials(a_trial("full", 0.5, before, after), samples=500)
    low, high = frontier["points"][0]["sets"]["known_facts"]["drop_ci"]
    assert math.isfinite(low) and low <= high and json.dumps(frontier, allow_nan=False)


def test_a_level_that_only_some_methods_reach_is_kept_apart() -> None:
    frontier = frontier_of_trials(lost("sparse_memory", 0.25, 0.1), lost("lora", 0.12, 0.1), lost("full", 0.2, 0.2))
    assert [row["learning"] for row in frontier["matched"]] == [0.1]
    assert [(row["learning"], sorted(row["methods"])) for row in frontier["partly_matched"]] == [
        (0.2, ["full", "sparse_memory"])
    ]
