"""Sweep: many finetunes, and the frontier of learning against forgetting. Makes missing inputs
first.

The ledger records finished trials, so an interrupted sweep continues, and a finished one is only
drawn again. There is no early stopping: a trial that is stopped early has forgotten less.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from memlm import artifacts, storage
from memlm.config import Config, varied
from memlm.data.corpus.corpus import open_corpus
from memlm.data.questions.answer_tokens import silent_statements
from memlm.data.questions.sets import open_question_sets
from memlm.data.questions.streams import learns_values_only, shortfall
from memlm.jobs import count_accesses, prepare_corpus, pretrain
from memlm.jobs.finetune import GUIDE
from memlm.jobs.on_ray.alone import alone
from memlm.jobs.on_ray.checks import require_ready
from memlm.jobs.on_ray.cluster import connect
from memlm.jobs.on_ray.console import say
from memlm.jobs.on_ray.notice import forward_sigterm_to_threads
from memlm.jobs.on_ray.resources import nodes_now, requests_of, shortage
from memlm.jobs.sweep.checkpoint_runs import CheckpointRun, checkpoint_runs, record_checkpoints
from memlm.jobs.sweep.finished import Finished, join_checkpoints, provenance
from memlm.jobs.sweep.planned_trials import lone_seed, plan_trials, read_results, require_comparable_ledger, unfinished
from memlm.jobs.sweep.report import EXPERIMENT, FRONTIER_FILE, SweepTracker, write_frontier
from memlm.jobs.sweep.spaces import MethodSpace
from memlm.jobs.sweep.trials import run_trials
from memlm.model.config import ARCHITECTURES
from memlm.outside import reading
from memlm.results.comparing.items import SweepItems
from memlm.results.comparing.sets import require_tuning_items
from memlm.results.scores import ScoreError
from memlm.run import Run, command, run_of, tracking_uri
from memlm.tracking import Tracker
from memlm.training.diagnosis import has_learned
from memlm.training.materials import check_stream

STAGES_FILE = "stages.json"
SERIES_FILE, SERIES_PICTURE_FILE = "series.json", "series.png"


def run(config: Config, spaces: Sequence[MethodSpace]) -> str:
    """Run the missing trials and draw the frontier, or one for each of sweep.values; return the uri
    of the run's folder."""
    if config.sweep.vary:
        return _sweep_values(config, spaces)
    run, runs = run_of(config), checkpoint_runs(config)
    for part in dict.fromkeys((config, *(each.config for each in runs))):
        require_ready(part)
        _Stages(run_of(part), part).read()  # finds a changed record before hours of work
    Tracker(tracking_uri(config), EXPERIMENT)
    for space in spaces:
        for setting in space.settings():
            replace(config, method=setting)  # fails for an impossible setting, before an hour of pretraining
    if line := lone_seed(config):
        say(line)
    if not config.sweep.checkpoints:
        _sweep_checkpoint(runs[0], spaces)
        return run.uri
    with alone(run.sweep_lease) as lease:
        record_checkpoints(config)
        swept = []
        for number, each in enumerate(runs, start=1):
            say(f"checkpoint {each.name}, {number} of {len(runs)}: {run_of(each.config).uri}")
            swept.append(_sweep_checkpoint(each, spaces))
        lease.holder.require()
        _join(config, swept)
    return run.uri


def _sweep_values(config: Config, spaces: Sequence[MethodSpace]) -> str:
    """A whole sweep for each value of the varied field, and their points together."""
    from memlm.results.series import draw_series, format_series, series_of  # imports matplotlib

    folder, frontiers = run_of(config).uri, {}
    sweeps = {value: varied(config, value) for value in config.sweep.values}
    for value, one in sweeps.items():
        say(f"sweep: {config.sweep.vary} = {value}, in {run_of(one).uri}")
        frontiers[value] = storage.read_record(storage.join(run(one, spaces), FRONTIER_FILE))
    series = series_of(config.recipe, config.sweep.vary, frontiers)
    storage.write_record(storage.join(folder, SERIES_FILE), series)
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / SERIES_PICTURE_FILE
        draw_series(series, path)
        storage.write_bytes(storage.join(folder, SERIES_PICTURE_FILE), path.read_bytes())
    print(format_series(series))
    say(f"series: {storage.join(folder, SERIES_PICTURE_FILE)}, {SERIES_FILE}")
    return folder


def _sweep_checkpoint(checkpoint: CheckpointRun, spaces: Sequence[MethodSpace]) -> Finished:
    """Make what one checkpoint's trials need, run those that are missing, and draw its frontier."""
    # Each checkpoint has a connection of its own, at whose end Ray frees what its trials shared.
    with connect(checkpoint.config), alone(run_of(checkpoint.config).sweep_lease) as lease:
        return _sweep(checkpoint, spaces, lease.holder)


def _sweep(checkpoint: CheckpointRun, spaces: Sequence[MethodSpace], holder: storage.Holder) -> Finished:
    config, run = checkpoint.config, run_of(checkpoint.config)
    stages = _Stages(run, config)
    _make_upstream(config, stages, spaces)
    planned, inputs = plan_trials(config, spaces)
    require_comparable_ledger(run, planned)  # before hours of work
    pending = unfinished(run, planned)
    tuning = sum(plan.trial.seed in config.sweep.tuning_seeds for plan in planned)
    choosing = f" ({tuning} to choose settings)" if tuning else ""
    say(f"sweep: {len(planned)} trials{choosing}, {len(planned) - len(pending)} of them already finished")
    tracker = SweepTracker(config, [(config, inputs)])
    with tracker.parent, tracker.parent.measuring():
        if pending:
            with stages.timed("pareto_sweep"):
                run_trials(config, run, pending, inputs=inputs, holder=holder, on_finished=tracker.log_trial)
        trials, failed = read_results(run, planned)
        finished = Finished(checkpoint=checkpoint, inputs=inputs, trials=trials, failed=failed)
        by_itself = replace(finished, checkpoint=replace(checkpoint, name=""))
        try:
            write_frontier(config, run, _items_of(config, [by_itself]), stages.read(), tracker, trials)
        except ScoreError as error:
            if not checkpoint.name:
                raise
            say(f"checkpoint {checkpoint.name} has no frontier of its own: {error}")
    if not any(has_learned(result) for _, result in trials):
        say(
            f"NOTHING WAS LEARNED by any of {len(trials)} trials, so there is nothing to compare; find out why with: "
            f"{command('finetune.py', config)}, and {GUIDE}"
        )
    return finished


def _join(config: Config, swept: Sequence[Finished]) -> None:
    """Draw one frontier over all checkpoints, into the sweep's own folder."""
    stages = {
        f"{stage}, checkpoint {each.checkpoint.name}": made
        for each in swept
        for stage, made in _Stages(run_of(each.checkpoint.config), each.checkpoint.config).read().items()
    }
    tracker = SweepTracker(config, [(each.checkpoint.config, each.inputs) for each in swept])
    with tracker.parent, tracker.parent.measuring():
        write_frontier(config, run_of(config), _items_of(config, swept), stages, tracker, [])


def _items_of(config: Config, swept: Sequence[Finished]) -> SweepItems:
    results, failed = join_checkpoints(swept)
    return SweepItems(
        recipe=config.recipe,
        trials=results,
        failed=failed,
        tuning_seeds=config.sweep.tuning_seeds,
        first_sets=[held_out.name for held_out in config.questions.held_out],
        provenance=provenance(swept),
    )


def _make_upstream(config: Config, stages: "_Stages", spaces: Sequence[MethodSpace]) -> None:
    """Make what the trials read: of the checkpoints, those that a method starts from."""
    with stages.timed("prepare_corpus"):
        corpus = open_corpus(prepare_corpus.run(config))
    questions = open_question_sets(artifacts.questions(config).uri)
    facts = questions.facts()
    if config.sweep.tuning_seeds:
        require_tuning_items({name: len(records) for name, records in questions.held_out().items()})
    streams = {seed: config.sweep.stream_for(config.stream, seed) for seed in config.sweep.all_seeds}
    for line in dict.fromkeys(shortfall(stream, facts) for stream in streams.values()):
        if line:
            say(line)
    if learns_values_only(config.stream) and (line := silent_statements(corpus.tokenizer, facts)):
        say(line)
    for seed, stream in streams.items():
        check_stream(stream, facts, corpus.tokenizer, seed=seed)
    needed = {space.base.base for space in spaces}
    models = [replace(config, architecture=each) for each in ARCHITECTURES if each in needed]
    with stages.timed("pretrain"):
        _pretrain_in_parallel(models)
    if "memory" in needed:
        with stages.timed("count_accesses"):
            with_reads = any(space.base.uses_reads for space in spaces)
            count_accesses.run(replace(config, architecture="memory"), with_reads=with_reads)


def _pretrain_in_parallel(configs: Sequence[Config]) -> None:
    """Pretrain the models in parallel: on two cores, two models with one thread each are faster
    than one with two. If the cluster has no room for both, pretrain one after the other, since the
    second would wait for workers and give up."""
    (request, *_) = requests_of(configs[0])
    both = replace(request, workers=request.workers * len(configs))
    drivers = ThreadPoolExecutor(max_workers=1 if shortage(both, nodes_now()) else len(configs))
    with forward_sigterm_to_threads():
        running = [drivers.submit(pretrain.run, config) for config in configs]
        try:
            for finished in running:
                try:
                    finished.result()
                except pretrain.Interrupted:
                    drivers.shutdown(cancel_futures=True)  # the other model saves its state too
                    raise
        finally:
            # On an error or Ctrl-C, do not wait for the other model; its newest training state is
            # kept.
            drivers.shutdown(wait=False, cancel_futures=True)


class _Stages:
    """Record of how long each stage took when it was last made; reusing a stage keeps its entry."""

    def __init__(self, run: Run, config: Config) -> None:
        self.folder, self.config = run.uri, config

    @property
    def uri(self) -> str:
        return storage.join(self.folder, STAGES_FILE)

    def read(self) -> dict[str, dict[str, Any]]:
        if STAGES_FILE not in storage.list_names(self.folder):
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

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Record the block's duration, if it is longer than the recorded one."""
        began = time.monotonic()
        yield
        seconds = time.monotonic() - began
        known = self.read()
        if seconds > known.get(stage, {}).get("seconds", 0.0):
            made = {"seconds": round(seconds, 1), "command": command(f"{stage}.py", self.config)}
            storage.write_record(self.uri, known | {stage: made})
