"""Many finetunes -> the learning-forgetting frontier. Makes whatever upstream artifact is missing.

Which trials are finished is known from the ledger: a sweep that was interrupted goes on, and one that is done is only drawn again. No
early stopping: a trial that was stopped has forgotten less.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ray

from memlm import storage
from memlm.config import Config
from memlm.frontier import build_frontier
from memlm.jobs import count_accesses, prepare_corpus, pretrain
from memlm.jobs.cluster import connect, say
from memlm.jobs.sweep_report import EXPERIMENT, SweepTracker, write_frontier
from memlm.jobs.trials import MethodSpace, plan_trials, read_results, run_trials, unfinished
from memlm.run import Run, run_of, tracking_uri
from memlm.tracking import Tracker


def run(config: Config, spaces: Sequence[MethodSpace]) -> str:
    """Sweep, or go on with the trials that are missing; returns the uri of the run's folder."""
    run = run_of(config)
    Tracker(tracking_uri(config), EXPERIMENT)
    stages = _Stages(run)
    with connect(config):
        _make_upstream(config, run, stages)
        planned, inputs = plan_trials(config, run, spaces)
        pending = unfinished(run, planned)
        say(f"sweep: {len(planned)} trials, {len(planned) - len(pending)} of them finished before")
        tracker = SweepTracker(config, inputs)
        if pending:
            with stages.timed("pareto_sweep"):
                run_trials(config, run, pending, on_finished=tracker.log_trial)
        trials = read_results(run, planned)
    frontier = build_frontier(config.recipe, [result for _, result in trials])
    write_frontier(config, run, frontier, stages.read(), tracker, trials)
    return run.uri


def _make_upstream(config: Config, run: Run, stages: "_Stages") -> None:
    with stages.timed("prepare_corpus"):
        prepare_corpus.run(config)
    memory, dense = (replace(config, architecture=architecture) for architecture in ("memory", "dense"))
    with stages.timed("pretrain"):
        # Side by side, a worker each: two cores do more for two models of one thread than for one of two.
        quiet_run = ray.remote(pretrain.run).options(num_cpus=0)
        ray.get([quiet_run.remote(memory), quiet_run.remote(dense)])
    with stages.timed("count_accesses"):
        count_accesses.run(memory)


class _Stages:
    """How long each stage took when it was last made; a stage that was reused keeps its figure."""

    def __init__(self, run: Run) -> None:
        self.uri = storage.join(run.uri, "stages.json")

    def read(self) -> dict[str, dict[str, Any]]:
        name = self.uri.rsplit("/", 1)[1]
        return storage.read_json(self.uri) if name in storage.list_names(self.uri.rsplit("/", 1)[0]) else {}

    def timed(self, stage: str) -> "_Timed":
        return _Timed(self, stage)


class _Timed:
    def __init__(self, stages: _Stages, stage: str) -> None:
        self.stages, self.stage = stages, stage

    def __enter__(self) -> None:
        self.began = time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        seconds = time.monotonic() - self.began
        known = self.stages.read()
        if kind is None and seconds > known.get(self.stage, {}).get("seconds", 0.0):
            storage.write_json(
                self.stages.uri,
                known | {self.stage: {"seconds": round(seconds, 1), "command": f"python pipelines/{self.stage}.py"}},
            )
