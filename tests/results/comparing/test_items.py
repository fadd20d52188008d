import dataclasses
import json
from pathlib import Path

import pytest

from memlm import storage
from memlm.results.comparing.items import SweepItems
from memlm.results.frontier import frontier_of
from memlm.results.scores import FailedSetting, ScoreError
from tests.results.making import a_trial, lost, nats, random_trials, right, share


def sweep(**changes: object) -> SweepItems:
    items = SweepItems(
        recipe="laptop",
        trials=random_trials(checkpoints=("a", "b")),
        failed=[FailedSetting(method="full", hyperparameters={"rate": 9.0}, seeds=(0, 2), reason="nan")],
        samples=100,
        seed=3,
        tuning_seeds=[2],
        first_sets=["known_facts", "arithmetic"],
        provenance={"commit": "c0ffee", "checkpoints": {"a": {"world_seed": 1}}},
    )
    return dataclasses.replace(items, **changes)  # type: ignore[arg-type]


def read_back(items: SweepItems, folder: Path) -> SweepItems:
    storage.write_record(str(folder / "items.json"), items.to_json())
    return SweepItems.from_json(storage.read_record(str(folder / "items.json")))


def test_a_frontier_computed_from_the_file_is_the_same_to_the_last_digit(tmp_path: Path) -> None:
    items = sweep()
    both = (items, read_back(items, tmp_path))
    computed = [json.dumps(frontier_of(each), allow_nan=False, sort_keys=True) for each in both]
    assert computed[0] == computed[1]
    frontier = json.loads(computed[0])
    assert frontier["provenance"]["commit"] == "c0ffee" and frontier["failed"] and frontier["chosen_on"] == "tuning"


def test_trials_come_back_as_they_were_whatever_their_items(tmp_path: Path) -> None:
    """0 and 1, millionths, and numbers that are neither, as trials from before rounding have."""
    trials = [
        lost("full", 0.5, 0.1),
        a_trial("full", 0.25, {"a": right(1 / 3, 1.0)}, {"a": right(0.333333, 0.5)}, seed=1, rate=2),
        a_trial("lora", 0.25, {"a": nats(0.123456, 12.0)}, {"a": nats(1e-7, 0.1 + 0.2)}, extra={"steps": 3.0}),
    ]
    assert list(read_back(sweep(trials=trials), tmp_path).trials) == trials


def test_starts_that_trials_share_are_written_once() -> None:
    written = sweep().to_json()
    trials = [trial for trial in written["trials"] if trial["checkpoint"] == "a"]
    assert len({json.dumps(trial["start"]) for trial in trials}) == 6  # two models, three seeds
    assert len({trial["start"]["known_facts"] for trial in trials}) == 2
    ends = {trial["end"]["known_facts"] for trial in written["trials"]}
    starts = {trial["start"]["known_facts"] for trial in written["trials"]}
    assert len(written["sets"]["known_facts"]) == len(starts | ends)


def test_items_take_about_their_digits(tmp_path: Path) -> None:
    """A trial of the recipe laptop has 555 likelihoods and 527 answers: below 9 kB, so that 330
    trials take less than 3 MB."""
    answers = share(0.5, 527)
    losses = [nats(*(round(each / 500 + number / 1000, 6) for each in range(555))) for number in range(20)]
    trials = [
        a_trial("full", 0.5, {"a": answers, "b": losses[0]}, {"a": answers, "b": loss}, rate=loss.items[0])
        for loss in losses
    ]
    read_back(sweep(trials=trials, tuning_seeds=[]), tmp_path)
    assert (tmp_path / "items.json").stat().st_size < 20 * 9000


def test_another_format_is_refused() -> None:
    with pytest.raises(ScoreError, match="format is 2; this version reads format 1"):
        SweepItems.from_json({**sweep().to_json(), "format": 2})
