"""Trials whose workers die: tried again as often as the config allows, whenever they die."""

import os
from pathlib import Path
from typing import Any

import pytest

from memlm import storage
from memlm.config import Config
from memlm.jobs import trials
from memlm.jobs.cluster import connect
from memlm.run import RunError, run_of
from tests.jobs.running import smoke
from tune_spaces import load_spaces

pytestmark = pytest.mark.ray
SHORT = ("--tracking", "off", "--sweep.seeds", "0", "--cluster.num-trials-at-once", "1")


@pytest.fixture(scope="module")
def made(tmp_path_factory, cluster, swept) -> Path:
    """A run that lacks nothing but trials."""
    root: Path = tmp_path_factory.mktemp("trials")
    swept.copy_to(root / "smoke", without=("trials",))
    return root


def sweep(config: Config) -> list[str]:
    """Sparse memory finetuning's trials; the names of the ledger's entries."""
    run, spaces = run_of(config), load_spaces(("sparse_memory",), config.sweep.scale)
    planned, _ = trials.plan_trials(config, spaces)
    with connect(config):
        trials.run_trials(config, run, planned, on_finished=lambda plan, entry: None)
    assert not trials.unfinished(run, planned)
    return storage.list_names(run.trials)


def test_a_worker_that_dies_between_two_trials_is_no_failed_trial(made, monkeypatch):
    """Tune by itself gives it up at once, whatever its max_failures."""

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


def test_a_trial_that_kills_its_workers_ends_the_sweep_and_is_named(made, monkeypatch):
    class Dies(trials.TrialRunner):
        def step(self) -> dict[str, Any]:
            with (made / "tries").open("a") as tries:
                tries.write(f"{self.plan.key}\n")
            os._exit(1)

    monkeypatch.setattr(trials, "TrialRunner", Dies)
    config = smoke(made, *SHORT, "--sweep.max-failures", "1", "--sweep.seeds", "1")
    with pytest.raises(RunError, match=r"2 trials failed, each after 1 new tries \(sweep.max_failures\)") as error:
        sweep(config)
    assert str(error.value).count("sparse_memory") == 2 and "seed 1: " in str(error.value)
    tries = (made / "tries").read_text().split()
    assert len(tries) == 4 and all(tries.count(key) == 2 for key in tries)
