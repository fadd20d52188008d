"""Trials whose workers die are retried as often as the config allows, and never by two drivers at
once."""

import os
from pathlib import Path
from typing import Any

import pytest

from memlm import storage
from memlm.artifacts import learned_name, trial_inputs
from memlm.config import Config
from memlm.jobs import count_accesses, finetune, pareto_sweep
from memlm.jobs.on_ray import alone
from memlm.jobs.on_ray.cluster import connect
from memlm.jobs.sweep import trials
from memlm.jobs.sweep.planned_trials import plan_trials, unfinished
from memlm.run import RunError, run_of
from tests.jobs.running import smoke
from tune_spaces import load_spaces

pytestmark = pytest.mark.ray
SHORT = ("--tracking", "off", "--sweep.seeds", "0", "--cluster.num-trials-at-once", "1")


@pytest.fixture(scope="module")
def made(tmp_path_factory, cluster, swept) -> Path:
    """Run that is complete except for its trials."""
    root: Path = tmp_path_factory.mktemp("trials")
    swept.copy_to(root / "smoke", without=("trials",))
    return root


def sweep(config: Config) -> list[str]:
    """Trials of sparse memory finetuning, and the names of their ledger entries."""
    run, spaces = run_of(config), load_spaces(("sparse_memory",), config.sweep.scale)
    planned, inputs = plan_trials(config, spaces)
    with connect(config), storage.lease(run.sweep_lease, owner="test") as lease:
        trials.run_trials(
            config, run, planned, inputs=inputs, holder=lease.holder, on_finished=lambda plan, entry: None
        )
    assert not unfinished(run, planned)
    return storage.list_names(run.trials)


def test_a_worker_that_dies_between_trials_fails_no_trial(made, monkeypatch):
    """Tune itself would give the trial up at once, whatever its max_failures."""

    class DiesOnce(trials.TrialRunner):
        def reset_config(self, new_config: dict[str, Any]) -> bool:
            try:
                (made / "died").touch(exist_ok=False)
            except FileExistsError:
                return super().reset_config(new_config)
            os._exit(1)

    monkeypatch.setattr(trials, "TrialRunner", DiesOnce)
    names = sweep(smoke(made, *SHORT, "--sweep.max-failures", "1"))
    assert (made / "died").exists() and len(names) == 2


@pytest.mark.slow
def test_a_trial_that_kills_its_workers_ends_the_sweep_and_is_named(made, monkeypatch):
    class Dies(trials.TrialRunner):
        def step(self) -> dict[str, Any]:
            with (made / "tries").open("a") as tries:
                tries.write(f"{self.plan.key}\n")
            os._exit(1)

    monkeypatch.setattr(trials, "TrialRunner", Dies)
    config = smoke(made, *SHORT, "--sweep.max-failures", "1", "--sweep.seeds", "1")
    with pytest.raises(RunError, match=r"2 trials failed, each after 1 retries \(sweep.max_failures\)") as error:
        sweep(config)
    assert str(error.value).count("sparse_memory") == 2 and "seed 1: " in str(error.value)
    tries = (made / "tries").read_text().split()
    assert len(tries) == 4 and all(tries.count(key) == 2 for key in tries)


@pytest.mark.slow
def test_a_driver_that_lost_its_lease_runs_no_trial(made):
    config = smoke(made, *SHORT, "--sweep.seeds", "2")
    run = run_of(config)
    planned, inputs = plan_trials(config, load_spaces(("sparse_memory",), config.sweep.scale))
    silent = storage.acquire(run.sweep_lease, owner="silent", ttl_seconds=1)
    with storage.lease(run.sweep_lease, owner="the other", wait_seconds=5):
        with connect(config), pytest.raises(storage.LeaseLost, match="of silent is over; now the other"):
            trials.run_trials(
                config, run, planned, inputs=inputs, holder=silent.holder, on_finished=lambda plan, entry: None
            )
    assert len(unfinished(run, planned)) == len(planned)


@pytest.mark.usefixtures("cluster")
def test_a_sweep_that_another_driver_runs_is_refused_before_any_work(tmp_path, monkeypatch, capfd):
    config = smoke(tmp_path, *SHORT)
    monkeypatch.setattr(alone, "LEASE_SECONDS", 1.0)
    with storage.lease(run_of(config).sweep_lease, owner="the other", ttl_seconds=30):
        with pytest.raises(storage.LeaseHeld, match="held by the other"):
            pareto_sweep.run(config, load_spaces(("sparse_memory",), config.sweep.scale))
    assert "waiting at most 3 s for the lease" in capfd.readouterr().out
    assert [path.name for path in (tmp_path / "smoke").iterdir()] == ["leases"]


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_two_commands_never_count_or_learn_the_same_thing_at_once(swept, tmp_path, monkeypatch):
    swept.copy_to(tmp_path / "smoke", without=("counts", "leases"))
    config = smoke(tmp_path, "--tracking", "off")
    monkeypatch.setattr(alone, "LEASE_SECONDS", 1.0)
    with storage.lease(run_of(config).counting_lease, owner="the other"):
        with pytest.raises(storage.LeaseHeld, match="held by the other"):
            count_accesses.run(config)
    assert not (tmp_path / "smoke" / "counts-partial").exists()
    count_accesses.run(config)
    trial = learned_name(config, trial_inputs(config, "memory"))
    with storage.lease(run_of(config).learning_lease(trial), owner="the other"):
        with pytest.raises(storage.LeaseHeld, match="held by the other"):
            finetune.run(config)
