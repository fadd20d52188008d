"""Trials of a sweep on Ray Tune. Each trial writes its result into the ledger (planned_trials.py).

Ray Tune runs the trials on a few actors that live through the sweep. They share, in the object
store, one copy of the weights (weights.py) and all data that no trial changes (starts.py).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import ray
from ray import tune
from ray.tune.execution import class_cache
from torch import nn

from memlm import artifacts, credentials, storage
from memlm.config import Config
from memlm.data.questions.streams import num_steps
from memlm.jobs.on_ray.cluster import num_processors
from memlm.jobs.on_ray.console import Progress, say
from memlm.jobs.on_ray.ray_files import ray_storage
from memlm.jobs.on_ray.workers import device_of, enter_worker, task_resources
from memlm.jobs.sweep.planned_trials import Inputs, PlannedTrial, ledger_entry, unfinished
from memlm.jobs.sweep.starts import Shared, Starts, compute_starts
from memlm.jobs.sweep.weights import TrialWeights
from memlm.jobs.trial.materials import load_materials, load_model, read_model_config
from memlm.results.scores import LEARNING_SET, TrialResult
from memlm.run import Run, RunError
from memlm.tracking import git_sha
from memlm.training.finetune import run_trial
from memlm.training.finite import DivergedError
from memlm.training.step import StepResult

# Ray Tune would copy these variables into each trial's runtime_env, which Ray's agent logs in full.
# Trials do not need that: they have the environment of their node, like all other workers.
class_cache.ENV_VARS_TO_PROPAGATE.difference_update(credentials.AWS)


def run_trials(
    config: Config,
    run: Run,
    pending: Sequence[PlannedTrial],
    *,
    inputs: Inputs,
    holder: storage.Holder,
    on_finished: Callable[[PlannedTrial, dict[str, Any]], None],
) -> None:
    """Run the pending trials. `inputs` are the digests of the inputs that they were planned for,
    and that they read. Raises LeaseLost if another driver took over from `holder`."""
    architectures = sorted({plan.architecture for plan in pending})
    checkpoints = {name: (artifacts.checkpoint(config, name).uri, inputs[name]["checkpoint"]) for name in architectures}
    read = {name: digest for architecture in architectures for name, digest in inputs[architecture].items()}
    shared = ray.put(
        Shared(
            config=config,
            run=run,
            model_configs={name: read_model_config(uri, digest=digest) for name, (uri, digest) in checkpoints.items()},
            weights={name: _arrays_of(load_model(uri, digest=digest)) for name, (uri, digest) in checkpoints.items()},
            materials=load_materials(config, read),
            commit=git_sha(),
        )
    )
    began = time.monotonic()
    starts = compute_starts(config, shared, [(plan.architecture, plan.trial) for plan in pending])
    say(f"sweep: computed what the trials share in {time.monotonic() - began:.0f} s")
    runner = tune.with_parameters(TrialRunner, shared=shared, starts=starts, holder=holder)
    for tries_left in reversed(range(config.sweep.max_failures + 1)):
        events, name = _TrialEvents(run, pending, on_finished), f"sweep-{time.time_ns()}"
        _tuner(config, run, runner, pending, events, name=name).fit()
        # Nothing reads Ray's own records: the ledger records the sweep.
        storage.delete(storage.join(run.ray_records, name))
        pending = unfinished(run, pending)
        if any(plan.key not in events.given_up for plan in pending):
            # Tune handles the first Ctrl-C itself and returns as after success.
            raise KeyboardInterrupt
        if not pending:
            return
        holder.require()
        failed = "\n".join(f"  {plan.title}: {events.given_up[plan.key]}" for plan in pending)
        if tries_left:
            say(f"sweep: {len(pending)} trials failed or lost their workers; trying them again:\n{failed}")
    raise RunError(
        f"{len(pending)} trials failed, each after {config.sweep.max_failures} retries (sweep.max_failures), "
        f"and no frontier is drawn without them:\n{failed}\n"
        "Finished trials are kept: run the same command again, or leave the setting out of tune_spaces/"
    )


def _tuner(
    config: Config,
    run: Run,
    runner: type[tune.Trainable],
    pending: Sequence[PlannedTrial],
    events: "_TrialEvents",
    *,
    name: str,
) -> tune.Tuner:
    """Tuner that tries each trial once. Tune's own retries would not do: the death of one worker
    can count as two failures, and a trial whose worker dies between two trials is not retried."""
    needed = task_resources(config.cluster)
    return tune.Tuner(
        tune.with_resources(runner, {"cpu": needed["num_cpus"], "gpu": needed["num_gpus"]}),
        param_space={"plan": tune.grid_search(list(pending))},
        tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=num_processors(config)),
        run_config=tune.RunConfig(
            name=name,
            **ray_storage(run.ray_records),
            verbose=0,
            callbacks=[events],
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        ),
    )


def _arrays_of(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


class TrialRunner(tune.Trainable):
    """Actor that runs one trial after another: each call of `step` is a whole trial."""

    def setup(
        self,
        config: dict[str, Any],
        shared: Shared | None = None,
        starts: Starts | None = None,
        holder: storage.Holder | None = None,
    ) -> None:
        assert shared is not None and starts is not None and holder is not None, "given by tune.with_parameters"
        self.shared, self.starts, self.holder = shared, starts, holder
        enter_worker(shared.config.cluster)
        self.plan: PlannedTrial = config["plan"]
        device = device_of(self.shared.config.cluster)
        self.weights = {
            name: TrialWeights(self.shared.model_configs[name], arrays, device)
            for name, arrays in self.shared.weights.items()
        }

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.plan = new_config["plan"]
        return True

    def step(self) -> dict[str, Any]:
        self.holder.require()  # another driver might run the same trial
        shared, plan = self.shared, self.plan
        trial = plan.trial
        start, recording = self.starts.of(plan.architecture, trial.seed)
        materials = replace(shared.materials, recording=recording)
        curve: list[dict[str, float]] = []
        every = max(1, num_steps(trial.stream, materials.facts, seed=trial.seed) // 40)

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
            with self.weights[plan.architecture].model_for(trial.method) as model:
                result, _ = run_trial(trial, model, materials, key=plan.key, start=start, on_step=on_step)
            entry: dict[str, Any] = {"result": replace(result, commit=shared.commit).to_json(), "curve": curve}
        except DivergedError as error:
            entry = {
                "failed": str(error),
                "method": trial.method.label,
                "hyperparameters": trial.hyperparameters(),
                "seed": trial.seed,
            }
        storage.write_record(ledger_entry(shared.run, plan), entry)
        return {"done": True, "key": plan.key}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Do nothing: the ledger records the sweep."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Do nothing: an interrupted trial starts again."""


class _TrialEvents(tune.Callback):
    """Callbacks of Tune in the driver: a trial that ends gets a line of progress and its run on the
    tracking server."""

    def __init__(
        self, run: Run, pending: Sequence[PlannedTrial], on_finished: Callable[[PlannedTrial, dict[str, Any]], None]
    ) -> None:
        self.run, self.by_key, self.on_finished = run, {plan.key: plan for plan in pending}, on_finished
        self.given_up: dict[str, str] = {}
        """Reason for each trial that failed, by key."""
        self.progress = Progress("sweep", len(pending), every_seconds=0)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        plan = self.by_key[trial.config["plan"].key]
        entry = storage.read_record(ledger_entry(self.run, plan))
        self.on_finished(plan, entry)
        self.progress.advance(note=_describe(plan, entry))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record a failure. Tune may call this twice for the death of one worker."""
        self.given_up[trial.config["plan"].key] = (
            str(trial.get_error() or "its worker was lost").strip().splitlines()[-1]
        )


def _describe(plan: PlannedTrial, entry: Mapping[str, Any]) -> str:
    if "failed" in entry:
        return f"{plan.title}: {entry['failed']}"
    result = TrialResult.from_json(entry["result"])
    held_out = ", ".join(
        f"{name} {result.start[name].value:.2f} -> {score.value:.2f}"
        for name, score in result.end.items()
        if name != LEARNING_SET
    )
    return f"{plan.title}: learned {result.end[LEARNING_SET].value:.2f}; {held_out}"
