"""The worker's side of `finetune`: it loads the model, learns the stream, scores, and writes the patch."""

import torch

from memlm import storage
from memlm.artifacts import PATCH_KIND
from memlm.config import Config, identity
from memlm.data.streams import num_steps, shortfall
from memlm.jobs.cluster import Progress, quiet, say
from memlm.jobs.finetune import ADVICE, EXPERIMENT, SCORES_FILE, final_metrics, trial_tags
from memlm.jobs.materials import device_of, load_materials, load_model
from memlm.jobs.traces import tracer_of, write_trace
from memlm.run import run_of, tracking_uri, trial_of
from memlm.tracking import Tracker
from memlm.training.diagnosis import has_learned, why_nothing_was_learned
from memlm.training.finetune import SEES_NOTHING, facts_of, run_trial
from memlm.training.patch import PATCH_FILE, changed_rows, save_patch, stored_weights
from memlm.training.step import StepResult


def learn(config: Config, key: str, uri: str, trace: str, inputs: dict[str, str]) -> None:
    quiet()
    torch.set_num_threads(config.cluster.threads_per_worker)
    run, trial = run_of(config), trial_of(config)
    materials = load_materials(run, config.evaluation.num_text_blocks, inputs)
    if told := shortfall(trial.stream, materials.facts):
        say(told)
    model = load_model(run.checkpoint(config.method.base), device_of(config), digest=inputs["checkpoint"])
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
        advice: list[str] = []
        if not has_learned(result):
            advice = why_nothing_was_learned(trial, result, learned, materials, facts_of(trial, materials))
        patch = changed_rows(before, stored_weights(learned))
        with storage.write_artifact(
            uri, kind=PATCH_KIND, config={"method": identity(trial.method), "seed": trial.seed}, inputs=inputs
        ) as draft:
            save_patch(patch, draft.path / PATCH_FILE)
            storage.write_json(str(draft.path / SCORES_FILE), result.to_json())
            draft.details["rows"] = {name: len(change.rows) for name, change in patch.items()}
            draft.details[ADVICE] = advice
