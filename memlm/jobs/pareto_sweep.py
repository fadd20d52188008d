"""Many finetunes -> the learning-forgetting frontier. Makes whatever upstream artifact is missing.

Which trials are finished is known from the ledger: a sweep that was interrupted continues, and
one that is done is only drawn again. No early stopping: a trial that was stopped has forgotten
less.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from memlm import artifacts, storage
from memlm.config import Config
from memlm.data.corpus.corpus import open_corpus
from memlm.data.questions.sets import open_question_sets
from memlm.data.questions.streams import shortfall
from memlm.jobs import count_accesses, prepare_corpus, pretrain
from memlm.jobs.finetune import GUIDE
from memlm.jobs.on_ray.alone import alone
from memlm.jobs.on_ray.checks import require_ready
from memlm.jobs.on_ray.cluster import connect
from memlm.jobs.on_ray.console import say
from memlm.jobs.on_ray.notice import forward_sigterm_to_threads
from memlm.jobs.on_ray.resources import nodes_now, requests_of, shortage
from memlm.jobs.sweep.planned_trials import plan_trials, read_entries, read_results, unfinished
from memlm.jobs.sweep.report import EXPERIMENT, SweepTracker, write_frontier
from memlm.jobs.sweep.spaces import MethodSpace
from memlm.jobs.sweep.trials import run_trials
from memlm.outside import reading
from memlm.results.frontier import build_frontier
from memlm.run import Run, command, run_of, tracking_uri
from memlm.tracking import Tracker
from memlm.training.diagnosis import has_learned
from memlm.training.finetune import check_stream


def run(config: Config, spaces: Sequence[MethodSpace]) -> str:
    """Sweep, or go on with the trials that are missing; returns the uri of the run's folder."""
    run = run_of(config)
    require_ready(config)
    Tracker(tracking_uri(config), EXPERIMENT)
    for space in spaces:
        for setting in space.settings():
            replace(config, method=setting)  # an impossible setting is found before an hour of pretraining
    stages = _Stages(run, config)
    stages.read()  # one that was changed is found before hours of work
    with connect(config), alone(run.sweep_lease) as lease:
        _make_upstream(config, stages)
        planned, inputs = plan_trials(config, spaces)
        read_entries(run, planned)  # one that was changed is found before hours of work
        pending = unfinished(run, planned)
        say(f"sweep: {len(planned)} trials, {len(planned) - len(pending)} of them finished before")
        tracker = SweepTracker(config, inputs)
        with tracker.parent, tracker.parent.measuring():
            if pending:
                with stages.timed("pareto_sweep"):
                    run_trials(config, run, pending, inputs=inputs, holder=lease.holder, on_finished=tracker.log_trial)
            trials, failed = read_results(run, planned)
            frontier = build_frontier(config.recipe, [result for _, result in trials], failed=failed)
            write_frontier(config, run, frontier, stages.read(), tracker, trials)
            if not any(has_learned(result) for _, result in trials):
                say(
                    f"NOTHING WAS LEARNED by any of {len(trials)} trials, so there is nothing to compare; one of them says why: "
                    f"{command('finetune.py', config)}, and {GUIDE}"
                )
    return run.uri


def _make_upstream(config: Config, stages: "_Stages") -> None:
    with stages.timed("prepare_corpus"):
        corpus = open_corpus(prepare_corpus.run(config))
    facts = open_question_sets(artifacts.questions(config).uri).facts()
    if told := shortfall(config.stream, facts):
        say(told)
    for seed in config.sweep.seeds:
        check_stream(config.stream, facts, corpus.tokenizer, seed=seed)
    memory, dense = (replace(config, architecture=architecture) for architecture in ("memory", "dense"))
    with stages.timed("pretrain"):
        _pretrain_side_by_side([memory, dense])
    with stages.timed("count_accesses"):
        count_accesses.run(memory)


def _pretrain_side_by_side(configs: Sequence[Config]) -> None:
    """A worker each: two cores do more for two models of one thread than for one of two. One
    after the other where the cluster has no room for both: the second would wait for its workers
    until it gives up."""
    (asked, *_) = requests_of(configs[0])
    both = replace(asked, workers=asked.workers * len(configs))
    drivers = ThreadPoolExecutor(max_workers=1 if shortage(both, nodes_now()) else len(configs))
    with forward_sigterm_to_threads():
        running = [drivers.submit(pretrain.run, config) for config in configs]
        try:
            for finished in running:
                try:
                    finished.result()
                except pretrain.Interrupted:
                    drivers.shutdown(cancel_futures=True)  # the other one saves what it has too
                    raise
        finally:
            # On an error or Ctrl-C nobody waits for the other model; its newest training state
            # is kept.
            drivers.shutdown(wait=False, cancel_futures=True)


class _Stages:
    """How long each stage took when it was last made; a stage that was reused keeps its figure."""

    def __init__(self, run: Run, config: Config) -> None:
        self.uri = storage.join(run.uri, "stages.json")
        self.config = config

    def read(self) -> dict[str, dict[str, Any]]:
        name = self.uri.rsplit("/", 1)[1]
        if name not in storage.list_names(self.uri.rsplit("/", 1)[0]):
            return {}
        record = storage.read_record(self.uri)

        def refuse(reason: str) -> storage.DamagedArtifact:
            rule = f"does not say how long each stage took ({reason})"
            return storage.DamagedArtifact("record", self.uri, rule, "Move it away, and run the command again.")

        with reading(refuse):
            return {
                stage: {"seconds": float(made["seconds"]), "command": str(made["command"])}
                for stage, made in record.items()
            }

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
            storage.write_record(
                self.stages.uri,
                known
                | {
                    self.stage: {
                        "seconds": round(seconds, 1),
                        "command": command(f"{self.stage}.py", self.stages.config),
                    }
                },
            )
