import dataclasses

import pytest

from memlm.results.comparing.trials import method_order
from memlm.results.frontier_tables import format_table
from memlm.results.scores import ScoreError, SetScore, TrialResult
from tests.results.making import a_trial, frontier_of_trials, lost, nats, share


def from_before(method: str, *, seed: int = 0, text: float = 1.5) -> TrialResult:
    """A trial from before text was scored by class of token."""

    def sets(known: float, text: float) -> dict[str, SetScore]:
        return {"background_text": nats(text, text, chance=0.0), "known_facts": share(known)}

    return a_trial(method, 0.5, sets(1.0, 1.0), sets(0.8, text), seed=seed)


def test_older_trials_are_read_and_what_they_lack_is_named() -> None:
    frontier = frontier_of_trials(*(from_before(method) for method in ("sparse_memory", "lora", "full")))
    assert [each.split(":")[0] for each in frontier["lacks"]] == [
        "text by class of token",
        "known_facts_nats",
        "chance of losses",
        "a tuning split",
    ]
    assert frontier["counted_sets"] == ["known_facts", "background_text"]
    for point in frontier["points"]:
        assert point["sets"]["background_text"]["drop"] == pytest.approx(0.5)  # relative to the start
    text = format_table(frontier)
    assert "these trials are older and lack text by class of token" in text
    assert "these trials are older and lack a tuning split" in text


def test_new_trials_lack_nothing() -> None:
    sets = {"known_facts": share(1), "known_facts_nats": nats(1.0), "text": nats(1.0), "text_ends": nats(0.1)}
    assert frontier_of_trials(a_trial("full", 0.5, sets, sets))["lacks"] == []


def test_older_and_newer_trials_together_are_refused() -> None:
    sets = {"known_facts": share(1), "text": nats(1.0)}
    older = [from_before("full", seed=seed) for seed in range(4)]
    with pytest.raises(ScoreError) as caught:
        frontier_of_trials(a_trial("lora", 0.5, sets, sets), *older)
    message = str(caught.value)
    assert "4 of 5 trials (full-{}--0, full-{}--1, full-{}--2, ...) are from before" in message
    assert "move their entries out of the run's trials/" in message and "give another --run-name" in message


def test_one_seed_is_said_to_have_intervals_over_items_alone() -> None:
    one = format_table(frontier_of_trials(lost("full", 0.5, 0.1, seed=3)))
    assert "there is one seed (3), so intervals are over items alone; give sweep.seeds more of them" in one
    assert "one seed" not in format_table(frontier_of_trials(*(lost("full", 0.5, 0.1, seed=seed) for seed in (0, 1))))


def test_the_same_setting_and_seed_may_come_from_two_checkpoints_but_not_twice_from_one() -> None:
    trial = lost("full", 0.5, 0.1)
    pair = [dataclasses.replace(trial, checkpoint=name) for name in ("a", "b")]
    assert frontier_of_trials(*pair)["points"][0]["checkpoints"] == ["a", "b"]
    with pytest.raises(ScoreError, match="appears twice; keep one trial per setting, checkpoint and seed"):
        frontier_of_trials(pair[0], *pair)


def test_our_rules_stand_next_to_the_papers() -> None:
    names = ["full", "replay", "lora", "sparse_memory_ours", "sparse_memory"]
    assert sorted(names, key=method_order) == ["sparse_memory", "sparse_memory_ours", "lora", "full", "replay"]
