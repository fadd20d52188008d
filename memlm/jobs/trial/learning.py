"""Worker's side of `finetune`: load the model, learn the stream, score it, and write the patch."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import nn

from memlm import artifacts, storage
from memlm.artifacts import trial_of
from memlm.config import Config
from memlm.data.questions.answer_tokens import silent_statements
from memlm.data.questions.streams import learns_values_only, num_steps, shortfall
from memlm.jobs.on_ray.console import Progress, say
from memlm.jobs.on_ray.workers import device_of, enter_worker
from memlm.jobs.tracked import (
    FINETUNING,
    final_metrics,
    log_config,
    log_model,
    sets_read,
    start_metrics,
    trial_name,
    trial_params,
    trial_tags,
)
from memlm.jobs.trial.materials import load_materials, load_model
from memlm.jobs.trial.traces import tracer_of, write_trace
from memlm.kinds import ADVICE, PATCH_FILE, PREFIX_FILE, REPORT_FILE, SCORES_FILE, SCORES_PICTURE_FILE
from memlm.model.reader.prefixes import prefix_before, save_prefix
from memlm.results.trial_report import draw_scores, write_trial_report
from memlm.run import tracking_uri
from memlm.tracking import Tracker
from memlm.training.diagnosis import has_learned, reasons_nothing_was_learned
from memlm.training.finetune import run_trial
from memlm.training.materials import facts_of
from memlm.training.observers.observer import NULL_OBSERVER
from memlm.training.patch import ChangedRows, changed_rows, save_patch, stored_weights
from memlm.training.step import StepResult


def learn(config: Config, inputs: dict[str, str]) -> None:
    enter_worker(config.cluster)
    trial = trial_of(config)
    key, materials = trial.key(inputs), load_materials(config, inputs)
    if line := shortfall(trial.stream, materials.facts):
        say(line)
    if learns_values_only(trial.stream) and (
        line := silent_statements(materials.tokenizer, facts_of(trial, materials))
    ):
        say(line)
    model = load_model(
        artifacts.checkpoint(config, config.method.base).uri, device_of(config.cluster), digest=inputs["checkpoint"]
    )
    before = {name: tensor.clone() for name, tensor in stored_weights(model).items()}
    progress = Progress(
        f"learning with {trial.method.label}", num_steps(trial.stream, materials.facts, seed=trial.seed)
    )
    tracked = Tracker(tracking_uri(config), FINETUNING, forgiving=True).run(
        f"finetune/{key}",
        name=trial_name(trial, key),
        params=trial_params(config, trial),
        tags=trial_tags(config, inputs),
    )

    def on_step(step: int, result: StepResult) -> None:
        progress.advance(note=f"loss {result.loss:.3f}")
        if step % max(1, progress.total // 50) == 0:
            tracked.log_metrics(
                {"train/loss": result.loss, **{f"step/{name}": value for name, value in result.report.items()}},
                step=step,
            )

    tracer = tracer_of(trial, materials, tracked) if config.trace else None
    with tracked, tracked.measuring():
        log_config(tracked, config)
        tracked.log_inputs(sets_read(config, inputs, learned=True))
        result, learned = run_trial(trial, model, materials, key=key, on_step=on_step, observer=tracer or NULL_OBSERVER)
        tracked.log_metrics(start_metrics(result))
        tracked.log_metrics(final_metrics(result), step=progress.total)
        if config.log_model or config.register_model:
            with TemporaryDirectory() as folder:
                learned.save_pretrained(folder)
                materials.tokenizer.save_pretrained(folder)
                log_model(tracked, folder, config)
        if tracer:
            write_trace(tracer, learned, materials, config, inputs, tracked)
        advice: list[str] = []
        if not has_learned(result):
            advice = reasons_nothing_was_learned(trial, result, learned, materials, facts_of(trial, materials))
        patch = changed_rows(before, stored_weights(learned))
        with artifacts.learned(config, inputs).write() as draft:
            _save_learned(patch, learned, draft.path)
            storage.write_json(str(draft.path / SCORES_FILE), {**result.to_json(), "answers": result.answers})
            draw_scores(result, draft.path / SCORES_PICTURE_FILE)
            write_trial_report(result, draft.path / REPORT_FILE, heading=f"{config.run_name}: {trial.title}")
            for file in (SCORES_FILE, SCORES_PICTURE_FILE, REPORT_FILE):
                tracked.log_file(draft.path / file)
            draft.details["rows"] = {name: len(change.rows) for name, change in patch.items()}
            draft.details[ADVICE] = advice


def _save_learned(patch: Mapping[str, ChangedRows], learned: nn.Module, folder: Path) -> None:
    save_patch(patch, folder / PATCH_FILE)
    if prefix := prefix_before(learned):
        save_prefix(prefix, folder / PREFIX_FILE)
