"""Many finetunes -> the learning-forgetting frontier. Makes whatever upstream artifact is missing.

Ray Tune runs the trials on a few actors that live through the sweep and share one copy of the weights in the object store. Which
trials are finished is known from a ledger of one JSON per trial, keyed by everything that names its result: a sweep that was
interrupted goes on, and one that is done is only drawn again. No early stopping: a trial that was stopped has forgotten less.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
import torch
from ray import tune
from ray.tune.search.variant_generator import generate_variants

from memlm import storage
from memlm.config import Config, replace_field
from memlm.evaluation.suite import Scores
from memlm.frontier import LEARNING_SET, TrialResult, build_frontier, write_csv
from memlm.jobs import count_accesses, prepare_corpus, pretrain
from memlm.jobs.cluster import Progress, connect, num_processors, quiet, say
from memlm.jobs.finetune import final_metrics, trial_tags
from memlm.jobs.materials import load_materials, load_model, model_of_weights, trial_inputs, trial_of
from memlm.methods.config import MethodConfig
from memlm.report import PAPER_FORGETTING, draw_frontier, format_table, write_report
from memlm.run import Run, RunError, run_of, tracking_uri
from memlm.tracking import Run as TrackedRun
from memlm.tracking import Tracker, git_sha
from memlm.training.finetune import DivergedError, Materials, Trial, run_trial, score
from memlm.training.step import StepResult

EXPERIMENT = "memlm pareto sweeps"


@dataclass(frozen=True, kw_only=True)
class MethodSpace:
    """One method's settings: its base config and the Tune spaces that are swept around it."""

    base: MethodConfig
    spaces: Sequence[Mapping[str, Any]]
    """Each maps dotted fields of the base to values or tune.grid_search; their settings are joined."""

    def settings(self) -> list[MethodConfig]:
        """Every setting once, in order."""
        found: dict[MethodConfig, None] = {}
        for space in self.spaces:
            for _, variant in generate_variants(dict(space)):
                setting = self.base
                for field, value in variant.items():
                    setting = replace_field(setting, field, value)
                found[setting] = None
        return list(found)


@dataclass(frozen=True, kw_only=True)
class PlannedTrial:
    key: str
    trial: Trial
    architecture: str


def run(config: Config, spaces: Sequence[MethodSpace]) -> str:
    """Sweep, or go on with the trials that are missing; returns the uri of the run's folder."""
    run = run_of(config)
    Tracker(tracking_uri(config), EXPERIMENT)
    stages = _Stages(run)
    with connect(config):
        _make_upstream(config, run, stages)
        planned, inputs = plan_trials(config, run, spaces)
        finished = set(storage.list_names(run.trials))
        pending = [plan for plan in planned if f"{plan.key}.json" not in finished]
        say(f"sweep: {len(planned)} trials, {len(planned) - len(pending)} of them finished before")
        tracker = _SweepTracker(config, inputs)
        if pending:
            with stages.timed("sweep"):
                _run_trials(config, run, pending, on_finished=tracker.log_trial)
        results = _read_results(run, planned)
    frontier = build_frontier(config.recipe, [TrialResult.from_json(entry["result"]) for entry in results])
    _write_outputs(config, run, frontier, stages.read(), tracker, planned)
    return run.uri


def plan_trials(
    config: Config, run: Run, spaces: Sequence[MethodSpace]
) -> tuple[list[PlannedTrial], dict[str, dict[str, str]]]:
    """Every setting of every method with every seed, and the digests of what they read. Seeds go first, so all methods fill evenly."""
    inputs = {space.base.base: trial_inputs(config, run, space.base.base) for space in spaces}
    planned = []
    for seed in config.sweep.seeds:
        for space in spaces:
            for setting in space.settings():
                trial = trial_of(replace(config, method=setting, seed=seed))
                planned.append(
                    PlannedTrial(key=trial.key(inputs[setting.base]), trial=trial, architecture=setting.base)
                )
    return planned, inputs


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


def _ledger_entry(run: Run, plan: PlannedTrial) -> str:
    return storage.join(run.trials, f"{plan.key}.json")


def _run_trials(
    config: Config,
    run: Run,
    pending: Sequence[PlannedTrial],
    *,
    on_finished: Callable[[PlannedTrial, dict[str, Any]], None],
) -> None:
    architectures = sorted({plan.architecture for plan in pending})
    weights = {
        architecture: {
            name: tensor.numpy() for name, tensor in load_model(run.checkpoint(architecture)).state_dict().items()
        }
        for architecture in architectures
    }
    materials = load_materials(run, config.evaluation.num_text_blocks, with_counts="memory" in architectures)
    resources = {"gpu": 1, "cpu": 0} if config.cluster.use_gpu else {"cpu": 1}
    runner = tune.with_resources(
        tune.with_parameters(TrialRunner, shared=_Shared(config, run, weights, materials)), resources
    )
    at_once = num_processors(config)
    by_key = {plan.key: plan for plan in pending}
    tuner = tune.Tuner(
        runner,
        param_space={"plan": tune.grid_search(list(by_key.values()))},
        tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=at_once),
        run_config=tune.RunConfig(
            name=f"sweep-{time.time_ns()}",
            storage_path=storage.join(run.uri, "ray"),
            verbose=0,
            callbacks=[_Finished(run, by_key, on_finished)],
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=1),
        ),
    )
    failed = [result.error for result in tuner.fit() if result.error is not None]
    if failed:
        raise RunError(
            f"{len(failed)} of {len(pending)} trials failed, the first with: {failed[0]}; what is finished is kept: run the same command again"
        )


@dataclass(frozen=True)
class _Shared:
    """Goes to the object store once; every trial actor reads it there."""

    config: Config
    run: Run
    weights: dict[str, dict[str, Any]]
    materials: Materials


class TrialRunner(tune.Trainable):
    """An actor that runs one trial after another. One call of step is one whole trial."""

    def setup(self, config: dict[str, Any], shared: _Shared | None = None) -> None:
        assert shared is not None, "given by tune.with_parameters"
        quiet()
        torch.set_num_threads(shared.config.cluster.threads_per_worker)
        self.shared = shared
        self.plan: PlannedTrial = config["plan"]
        self.starts: dict[tuple[str, int], Scores] = {}
        self.weights = {
            architecture: {name: torch.from_numpy(array) for name, array in arrays.items()}
            for architecture, arrays in shared.weights.items()
        }

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.plan = new_config["plan"]
        return True

    def step(self) -> dict[str, Any]:
        shared, plan = self.shared, self.plan
        trial = plan.trial
        model = model_of_weights(shared.run.checkpoint(plan.architecture), self.weights[plan.architecture])
        start_key = (plan.architecture, trial.seed)
        if start_key not in self.starts:
            self.starts[start_key] = score(trial, model, shared.materials)
        curve: list[dict[str, float]] = []
        every = max(1, trial.stream.num_facts * trial.stream.num_passes // 40)

        def on_step(step: int, result: StepResult) -> None:
            if step % every == 0:
                curve.append(
                    {
                        "step": step,
                        "train/loss": result.loss,
                        **{f"step/{name}": value for name, value in result.report.items()},
                    }
                )

        try:
            result, _ = run_trial(
                trial, model, shared.materials, key=plan.key, start=self.starts[start_key], on_step=on_step
            )
            entry: dict[str, Any] = {"result": result.to_json(), "curve": curve}
        except DivergedError as error:
            entry = {
                "failed": str(error),
                "method": trial.method.label,
                "hyperparameters": trial.hyperparameters(),
                "seed": trial.seed,
            }
        storage.write_json(_ledger_entry(shared.run, plan), entry)
        return {"done": True, "key": plan.key}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the ledger is the sweep's memory."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: a trial that was cut off starts again."""


class _Finished(tune.Callback):
    """In the driver, when a trial ends: a line of progress, and its child run on the tracking server."""

    def __init__(
        self, run: Run, by_key: Mapping[str, PlannedTrial], on_finished: Callable[[PlannedTrial, dict[str, Any]], None]
    ) -> None:
        self.run, self.by_key, self.on_finished = run, by_key, on_finished
        self.progress = Progress("sweep", len(by_key), every_seconds=0)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        plan = self.by_key[trial.config["plan"].key]
        entry = storage.read_json(_ledger_entry(self.run, plan))
        self.on_finished(plan, entry)
        self.progress.advance(note=_describe(plan, entry))


def _describe(plan: PlannedTrial, entry: Mapping[str, Any]) -> str:
    rate = plan.trial.method.optimizer.learning_rate
    name = f"{plan.trial.method.label} rate {rate:g} seed {plan.trial.seed}"
    if "failed" in entry:
        return f"{name}: {entry['failed']}"
    result = TrialResult.from_json(entry["result"])
    held_out = ", ".join(
        f"{name} {result.start[name].value:.2f} -> {score.value:.2f}"
        for name, score in result.end.items()
        if name != LEARNING_SET
    )
    return f"{name}: learned {result.end[LEARNING_SET].value:.2f}; {held_out}"


def _read_results(run: Run, planned: Sequence[PlannedTrial]) -> list[dict[str, Any]]:
    """The finished trials. One that diverged is shown; its setting is left out with all its seeds, so no mean hides it."""
    entries = [(plan, storage.read_json(_ledger_entry(run, plan))) for plan in planned]
    diverged = [(plan, entry) for plan, entry in entries if "failed" in entry]
    for plan, entry in diverged:
        say(
            f"left out: {plan.trial.method.label} {entry['hyperparameters']} (seed {plan.trial.seed}): {entry['failed']}"
        )
    settings = {plan.trial.method for plan, _ in diverged}
    return [entry for plan, entry in entries if plan.trial.method not in settings]


class _SweepTracker:
    """One parent run per sweep, a child per trial."""

    def __init__(self, config: Config, inputs: Mapping[str, dict[str, str]]) -> None:
        self.config, self.inputs = config, inputs
        self.tracker = Tracker(tracking_uri(config), EXPERIMENT)
        digests = "-".join(sorted({digest[:8] for part in inputs.values() for digest in part.values()}))
        tags = {"stage": "sweep", "recipe": config.recipe, "git_sha": git_sha()}
        self.parent = self.tracker.run(f"sweep/{config.run_name}/{digests}", name=f"sweep-{config.run_name}", tags=tags)

    def child(self, plan: PlannedTrial) -> TrackedRun:
        trial = plan.trial
        return self.tracker.run(
            f"trial/{plan.key}",
            name=f"{trial.method.label}-lr{trial.method.optimizer.learning_rate:g}-{plan.key[:4]}-seed{trial.seed}",
            parent=self.parent,
            params={name.removeprefix("optimizer."): value for name, value in trial.hyperparameters().items()},
            tags={
                "method": trial.method.label,
                "seed": str(trial.seed),
                **trial_tags(self.config, self.inputs[plan.architecture]),
            },
        )

    def log_trial(self, plan: PlannedTrial, entry: Mapping[str, Any]) -> None:
        with self.child(plan) as child:
            if "failed" in entry:
                child.set_tags({"failed": entry["failed"]})
                return
            for point in entry["curve"]:
                child.log_metrics(
                    {name: value for name, value in point.items() if name != "step"}, step=int(point["step"])
                )
            child.log_metrics(final_metrics(TrialResult.from_json(entry["result"])))

    def log_frontier(self, frontier: Mapping[str, Any], files: Sequence[Path], planned: Sequence[PlannedTrial]) -> None:
        with self.parent as parent:
            parent.log_metrics({f"hypervolume/{method}": value for method, value in frontier["hypervolume"].items()})
            for level in frontier["matched"]:
                parent.log_metrics(
                    {
                        f"forgetting_at_{level['learning']:g}/{name}": value["forgetting"]
                        for name, value in level["methods"].items()
                    }
                )
            for file in files:
                parent.log_file(file)
        points = {
            (point["method"], tuple(sorted(point["hyperparameters"].items()))): point for point in frontier["points"]
        }
        for plan in planned:
            point = points.get((plan.trial.method.label, tuple(sorted(plan.trial.hyperparameters().items()))))
            if point is not None:
                child = self.child(plan)
                child.set_tags({"pareto": str(point["on_frontier"]).lower()})
                child.log_metrics(
                    {"final/setting_learning": point["learning"], "final/setting_forgetting": point["forgetting"]}
                )
                with child:
                    pass


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


def _write_outputs(
    config: Config,
    run: Run,
    frontier: dict[str, Any],
    stages: dict[str, Any],
    tracker: _SweepTracker,
    planned: Sequence[PlannedTrial],
) -> None:
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) if storage.is_remote(run.uri) else Path(run.uri)
        files = [folder / name for name in ("frontier.json", "frontier.csv", "frontier.png", "report.html")]
        storage.write_json(str(files[0]), frontier)
        write_csv(frontier, files[1])
        draw_frontier(frontier, files[2])
        write_report(frontier, files[3], stages=stages, paper=PAPER_FORGETTING)
        tracker.log_frontier(frontier, files, planned)
        if storage.is_remote(run.uri):
            storage.write_json(storage.join(run.uri, "frontier.json"), frontier)
    print(format_table(frontier))
    say(f"frontier: {storage.join(run.uri, 'frontier.png')}, {storage.join(run.uri, 'report.html')}")
    uri = tracking_uri(config)
    if uri.startswith("sqlite"):
        say(
            f"compare the trials: mlflow ui --host 127.0.0.1 --backend-store-uri {uri}   then open http://127.0.0.1:5000"
        )
    elif uri:
        say(f"compare the trials: {uri}")
