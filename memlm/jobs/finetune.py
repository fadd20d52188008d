"""One method learns one stream: base checkpoint -> scores before and after, and a patch that can be applied and undone."""

from typing import Any

import ray
import torch

from memlm import storage
from memlm.config import Config, identity
from memlm.data.streams import num_steps
from memlm.frontier import TrialResult
from memlm.jobs.checks import require_ready
from memlm.jobs.cluster import Progress, connect, quiet, say
from memlm.jobs.materials import device_of, load_materials, load_model, trial_inputs, trial_of
from memlm.jobs.traces import say_trace, tracer_of, write_trace
from memlm.run import RunError, command, run_of, tracking_uri
from memlm.tracking import Tracker, git_sha
from memlm.training.finetune import SEES_NOTHING, run_trial
from memlm.training.patch import KIND, PATCH_FILE, changed_rows, save_patch, stored_weights
from memlm.training.step import StepResult

EXPERIMENT = "memlm finetuning"
SCORES_FILE = "scores.json"


def run(config: Config) -> str:
    """Learn and write the patch, or find it learned; returns the patch's uri."""
    run = run_of(config)
    require_ready(config)
    if config.trace and config.method.moves == "nothing":
        raise RunError(
            f"trace is True, and method {config.method.name} changes nothing that could be followed; leave --trace out"
        )
    inputs = trial_inputs(config, config.method.base)
    trial = trial_of(config)
    key = trial.key(inputs)
    name = f"{config.method.label}-{key}"
    uri, trace = run.learned(name), run.trace(name) if config.trace else ""
    if storage.has_artifact(uri) and (not trace or storage.has_artifact(trace)):
        say(f"finetune: reusing {uri}")
    else:
        Tracker(tracking_uri(config), EXPERIMENT)
        with connect(config):
            ray.get(
                ray.remote(_learn)
                .options(num_cpus=1, num_gpus=int(config.cluster.use_gpu))
                .remote(config, key, uri, trace, inputs)
            )
    result = TrialResult.from_json(storage.read_json(str(storage.open_artifact(uri, kind=KIND) / SCORES_FILE)))
    for name, score in result.end.items():
        say(f"  {score.task:24} {score.measure:16} {result.start[name].value:.3f} -> {score.value:.3f}")
    if trace:
        say_trace(trace)
    checkpoint = run.checkpoint(config.method.base)
    say(
        f"patch: {uri}; put it in with: memlm apply {checkpoint} {uri} OUTPUT; compare methods with: {command('pareto_sweep.py', config)}"
    )
    return uri


def _learn(config: Config, key: str, uri: str, trace: str, inputs: dict[str, str]) -> None:
    quiet()
    torch.set_num_threads(config.cluster.threads_per_worker)
    run, trial = run_of(config), trial_of(config)
    materials = load_materials(run, config.evaluation.num_text_blocks, with_counts="counts" in inputs)
    model = load_model(run.checkpoint(config.method.base), device_of(config))
    before = {name: tensor.clone() for name, tensor in stored_weights(model).items()}
    progress = Progress(
        f"learning with {trial.method.label}", num_steps(trial.stream, materials.facts, seed=trial.seed)
    )
    tracked = Tracker(tracking_uri(config), EXPERIMENT).run(
        f"finetune/{key}",
        name=f"{trial.method.label}-{config.run_name}-{trial.seed}",
        params={"method": trial.method.label, "seed": trial.seed, **trial.hyperparameters()},
        tags=trial_tags(config, inputs),
    )

    def on_step(step: int, result: StepResult) -> None:
        progress.advance(note=f"loss {result.loss:.3f}")
        if step % max(1, progress.total // 50) == 0:
            tracked.log_metrics(
                {"train/loss": result.loss, **{f"step/{name}": value for name, value in result.report.items()}},
                step=step,
            )

    tracer = tracer_of(trial, materials, tracked) if trace else None
    with tracked:
        result, learned = run_trial(trial, model, materials, key=key, on_step=on_step, observer=tracer or SEES_NOTHING)
        tracked.log_metrics(final_metrics(result), step=progress.total)
        if tracer:
            write_trace(trace, tracer, learned, materials, config, inputs, tracked)
        patch = changed_rows(before, stored_weights(learned))
        with storage.write_artifact(
            uri, kind=KIND, config={"method": identity(trial.method), "seed": trial.seed}, inputs=inputs
        ) as draft:
            save_patch(patch, draft.path / PATCH_FILE)
            storage.write_json(str(draft.path / SCORES_FILE), result.to_json())
            draft.details["rows"] = {name: len(change.rows) for name, change in patch.items()}


def trial_tags(config: Config, inputs: dict[str, str]) -> dict[str, str]:
    return {
        "stage": "finetune",
        "recipe": config.recipe,
        "checkpoint": inputs["checkpoint"][:16],
        "data": inputs["corpus"][:16],
        "git_sha": git_sha(),
    }


def final_metrics(result: TrialResult) -> dict[str, Any]:
    """What the tracking server compares: every set at the end, and the learning."""
    learned = {f"final/{name}": score.value for name, score in result.end.items()}
    return learned | {f"final/{name}": value for name, value in result.extra.items()}
