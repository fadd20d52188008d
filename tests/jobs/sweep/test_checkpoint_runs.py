"""Sweeps over several checkpoints: each is a run of its own, and one frontier is drawn over all."""

from dataclasses import replace

import pytest

from memlm import artifacts, storage
from memlm.artifacts import trial_of
from memlm.cli import parse
from memlm.config import Config
from memlm.jobs.on_ray.checks import run_folder
from memlm.jobs.sweep.checkpoint_runs import CheckpointRun, checkpoint_runs, record_checkpoints
from memlm.jobs.sweep.finished import Finished, join_checkpoints, provenance
from memlm.jobs.sweep.planned_trials import PlannedTrial
from memlm.results.scores import FailedSetting, SetScore, TrialResult
from memlm.run import command, run_of

INPUTS = {"memory": {"corpus": "0a", "questions": "0b", "checkpoint": "0c", "counts": "0d"}}


def swept(*arguments: str) -> Config:
    return parse("", ["smoke", "--storage", "/runs", *arguments], stage="pareto_sweep")


def test_a_sweep_of_one_checkpoint_is_the_run_itself() -> None:
    config = swept()
    assert checkpoint_runs(config) == [CheckpointRun(name="", config=config)]


def test_each_checkpoint_is_the_run_that_its_seeds_make_alone() -> None:
    over = swept("--sweep.checkpoints", "3", "40", "--run-name", "x", "--cluster.num-trials-at-once=2")
    three, forty = checkpoint_runs(over)
    assert (three.name, forty.name) == ("3", "40")
    alone = swept(
        *(
            "--cluster.num-trials-at-once=2",
            "--run-name",
            "x-checkpoint-40",
            "--pretraining.seed",
            "40",
            "--world.seed",
            "40",
        ),
        "--sweep.checkpoints",
    )
    assert forty.config == alone and run_of(three.config).uri == "/runs/x-checkpoint-3"
    for made in (artifacts.world, artifacts.corpus, artifacts.counts, artifacts.questions):
        assert made(forty.config) == made(alone)
    assert trial_of(forty.config).key(INPUTS["memory"]) == trial_of(swept()).key(INPUTS["memory"])


def test_a_checkpoint_on_real_text_is_another_pretraining_on_it() -> None:
    over = replace(parse("", ["wiki", "--storage", "/runs"]), world=None)
    over = replace(over, sweep=replace(over.sweep, checkpoints=(7,)))
    (seven,) = checkpoint_runs(over)
    assert seven.config.world is None and seven.config.pretraining.seed == 7
    assert artifacts.corpus(seven.config).identity == artifacts.corpus(over).identity
    assert artifacts.checkpoint(seven.config, "dense").identity != artifacts.checkpoint(over, "dense").identity


def test_a_base_run_of_a_sweep_over_checkpoints_is_a_sweep_over_them_too() -> None:
    over = swept("--sweep.checkpoints", "3", "40", "--base-run", "made")
    three, forty = checkpoint_runs(over)
    assert (three.config.base_run, forty.config.base_run) == ("made-checkpoint-3", "made-checkpoint-40")
    assert (
        run_of(forty.config).base == "/runs/made-checkpoint-40"
        and run_of(forty.config).uri == "/runs/smoke-checkpoint-40"
    )
    again = parse("", command("pareto_sweep.py", forty.config).split()[2:], stage="pareto_sweep")
    assert replace(again, arguments=()) == replace(forty.config, arguments=())


def test_a_checkpoints_commands_name_its_run_and_its_seeds() -> None:
    over = swept("--sweep.checkpoints=3", "--world.num-new", "30", "--sweep.compare-with", "laptop")
    (three,) = checkpoint_runs(over)
    assert command("pretrain.py", three.config) == (
        "python pipelines/pretrain.py smoke --storage /runs --world.num-new 30 --run-name smoke-checkpoint-3 "
        "--pretraining.seed 3 --world.seed 3"
    )
    again = parse("", command("pareto_sweep.py", three.config).split()[2:], stage="pareto_sweep")
    assert replace(again, arguments=()) == replace(three.config, arguments=())


def test_a_name_that_is_too_long_with_its_checkpoint_is_refused() -> None:
    with pytest.raises(ValueError, match="--run-name has 83 characters"):
        checkpoint_runs(swept("--sweep.checkpoints", "3", "--run-name", "x" * 70))


def test_the_folder_of_the_joint_frontier_is_recognised_as_memlms(tmp_path) -> None:
    config = parse("", ["smoke", "--storage", str(tmp_path), "--sweep.checkpoints", "3"])
    folder = tmp_path / "smoke"
    record_checkpoints(config)
    assert storage.read_record(str(folder / "checkpoints.json")) == {"runs": {"3": "smoke-checkpoint-3"}}
    (folder / "frontier.json").write_text("{}")
    assert run_folder(config).state == "ok"
    for other in ("{}", "[]", "not JSON", '{"runs": {}, "digest": "0"}'):
        (folder / "checkpoints.json").write_text(other)
        assert run_folder(config).state == "fail"


def result(rate: float, seed: int, *items: float) -> TrialResult:
    scores = {"new_facts": SetScore(task="facts", measure="exact_match", chance=0.0, items=items or (0.0, 1.0))}
    return TrialResult(
        key=f"{rate} {seed}",
        method="full",
        hyperparameters={"rate": rate},
        seed=seed,
        start=scores,
        end=scores,
        extra={},
    )


def finished(name: str, *results: TrialResult, failed: tuple[FailedSetting, ...] = ()) -> Finished:
    (run,) = checkpoint_runs(swept("--sweep.checkpoints", name))
    plan = PlannedTrial(key="", trial=trial_of(swept()), architecture="dense")
    trials = [(plan, each) for each in results]
    return Finished(checkpoint=run, inputs={"dense": {"checkpoint": f"c{name}"}}, trials=trials, failed=list(failed))


def test_results_of_all_checkpoints_are_joined_under_their_names() -> None:
    results, failed = join_checkpoints([finished("3", result(0.1, 0)), finished("4", result(0.1, 0), result(0.1, 1))])
    assert [(each.checkpoint, each.seed) for each in results] == [("3", 0), ("4", 0), ("4", 1)] and failed == []


def test_a_setting_that_diverged_on_one_checkpoint_is_left_out_on_all() -> None:
    def diverged(*seeds: int) -> FailedSetting:
        return FailedSetting(method="full", hyperparameters={"rate": 0.9}, seeds=seeds, reason="too high")

    results, failed = join_checkpoints(
        [
            finished("3", result(0.1, 0), failed=(diverged(2),)),
            finished("4", result(0.1, 0), result(0.9, 0)),
            finished("5", result(0.1, 0), failed=(diverged(0, 2),)),
        ]
    )
    assert {each.hyperparameters["rate"] for each in results} == {0.1} and len(results) == 3
    assert failed == [replace(diverged(0, 2), reason="checkpoint 3: too high")]


def test_the_provenance_names_seeds_and_digests_of_every_checkpoint() -> None:
    found = provenance([finished("3"), finished("4")])
    assert found["checkpoints"]["4"] == {
        "run": "smoke-checkpoint-4",
        "world_seed": 4,
        "pretraining_seed": 4,
        "inputs": {"dense": {"checkpoint": "c4"}},
    }
    assert set(found["checkpoints"]) == {"3", "4"} and "commit" in found
