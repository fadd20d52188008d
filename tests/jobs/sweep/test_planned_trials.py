"""The ledger: results of finished trials, and detection of changes to them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from memlm import storage
from memlm.artifacts import trial_of
from memlm.cli import parse
from memlm.jobs.sweep import planned_trials
from memlm.jobs.sweep.planned_trials import (
    PlannedTrial,
    ledger_entry,
    lone_seed,
    plan_trials,
    read_entries,
    read_results,
    require_comparable_ledger,
    unfinished,
)
from memlm.results.frontier import build_frontier
from memlm.results.scores import SetScore, TrialResult
from memlm.run import Run, RunError
from tune_spaces import load_spaces


def planned(key: str) -> PlannedTrial:
    return PlannedTrial(key=key, trial=trial_of(parse("", ["smoke", "--method", "lora"])), architecture="dense")


def result(key: str, *items: float) -> TrialResult:
    scores = {"new_facts": SetScore(task="facts", measure="exact_match", chance=0.0, items=items or (0.0, 1.0))}
    settings = planned(key).trial.hyperparameters()
    return TrialResult(key=key, method="lora", hyperparameters=settings, seed=0, start=scores, end=scores, extra={})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(str(tmp_path / "mine"), str(tmp_path / "base"))


def put(run: Run, key: str, *items: float) -> Path:
    path = Path(ledger_entry(run, planned(key)))
    storage.write_record(str(path), {"result": result(key, *items).to_json(), "curve": []})
    return path


def test_entries_are_read_from_both_ledgers_the_runs_own_first(run: Run) -> None:
    base = Run(run.base, run.base)
    put(base, "a", 0.25), put(base, "b", 0.5), put(run, "a", 0.75)
    plans = [planned(key) for key in "abc"]
    assert [plan.key for plan in unfinished(run, plans)] == ["c"]
    results, failed = read_results(run, plans[:2])
    assert ([each.end["new_facts"].value for _, each in results], failed) == ([0.75, 0.5], [])
    with pytest.raises(storage.StorageError, match=r"c.json: does not exist"):
        read_results(run, plans)


def put_older(run: Run, key: str) -> TrialResult:
    """An entry from before text was scored by class of token and before alpha was a setting, as it
    was written."""
    text = SetScore(task="background_text@1", measure="nats_per_token", chance=0.0, items=(1.0,))
    known = SetScore(task="questions@1", measure="exact_match", chance=0.0, items=(1.0, 0.0))
    scores = result(key).start | {"background_text": text, "known_facts": known}
    older = replace(result(key), start=scores, end=scores, extra={"seconds": 1.0})
    written = {name: value for name, value in older.to_json().items() if name != "checkpoint"}
    written["hyperparameters"] = {name: value for name, value in older.hyperparameters.items() if name != "alpha"}
    storage.write_record(ledger_entry(run, planned(key)), {"result": written, "curve": []})
    return older


def test_an_older_ledger_that_is_complete_is_read_and_what_it_lacks_is_named(run: Run) -> None:
    older = put_older(run, "a")
    require_comparable_ledger(run, [planned("a")])
    ((_, found),), _ = read_results(run, [planned("a")])
    assert found == older
    frontier = build_frontier("smoke", [found], samples=10)
    assert [each.split(":")[0] for each in frontier["lacks"]] == [
        "text by class of token",
        "known_facts_nats",
        "chance of losses",
        "a tuning split",
    ]


def test_an_older_ledger_that_is_not_complete_is_refused_before_any_work(run: Run) -> None:
    put_older(run, "a"), put(run, "b")
    message = (
        r"1 finished trials, such as .*/mine/trials/a.json, are from before .* and 1 are still to be run, .*"
        r"move .*/mine/trials away to run all again, or give another --run-name"
    )
    with pytest.raises(RunError, match=message):
        require_comparable_ledger(run, [planned(key) for key in "abc"])
    require_comparable_ledger(run, [planned("b"), planned("c")])


def test_a_changed_number_is_detected(run: Run) -> None:
    path = put(run, "a")
    path.write_text(path.read_text().replace("1.0", "0.5"))
    for read in (read_entries, read_results, require_comparable_ledger):
        with pytest.raises(
            storage.DamagedArtifact, match=r"trials/a.json: does not match its own digest.*Move it away"
        ):
            read(run, [planned("a")])


def test_an_old_entry_without_a_digest_is_read(run: Run) -> None:
    path = put(run, "a")
    path.write_text(json.dumps({"result": result("a").to_json(), "curve": []}))
    ((_, found),), _ = read_results(run, [planned("a")])
    assert found == result("a")


@pytest.mark.parametrize(
    "entry",
    ["{}", '{"result": {}}', '{"result": 1}', '{"failed": "x"}', '{"failed": 1, "hyperparameters": 3}', "[]", ""],
)
def test_an_invalid_entry_is_reported_on_one_line(run: Run, entry: str) -> None:
    put(run, "a").write_text(entry)
    with pytest.raises(storage.StorageError, match=r"a.json") as caught:
        read_results(run, [planned("a")])
    assert "\n" not in str(caught.value)


def plans_of(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[PlannedTrial]:
    monkeypatch.setattr(
        planned_trials, "trial_inputs", lambda config, architecture, methods: {"checkpoint": architecture}
    )
    config = parse("", ["smoke", *arguments])
    return plan_trials(config, load_spaces(config.sweep.methods, config.sweep.scale))[0]


def test_trials_of_tuning_seeds_learn_facts_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, tuned = plans_of(monkeypatch), plans_of(monkeypatch, "--sweep.tuning-seeds", "8")
    assert {(plan.trial.seed, plan.trial.stream.part) for plan in plain} == {(0, "all"), (1, "all")}
    assert {(plan.trial.seed, plan.trial.stream.part) for plan in tuned} == {
        (0, "evaluation"),
        (1, "evaluation"),
        (8, "tuning"),
    }
    assert len(plain) == 12 and len(tuned) == 18 and not {plan.key for plan in plain} & {plan.key for plan in tuned}
    assert [plan.title for plan in tuned][::6] == [
        f"sparse_memory lr2 {seed}" for seed in ("seed 0", "seed 1", "tuning seed 8")
    ]


def test_one_seed_is_pointed_out() -> None:
    assert "sweep.seeds is (3,): with one seed" in lone_seed(parse("", ["smoke", "--sweep.seeds", "3"]))
    assert lone_seed(parse("", ["smoke"])) == ""
