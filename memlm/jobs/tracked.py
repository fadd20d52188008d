"""Entries of every stage on the tracking server: config, sizes, data sets and scores."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memlm import artifacts
from memlm.config import Config
from memlm.identity import settings
from memlm.jobs.on_ray.console import say
from memlm.kinds import FACTS_FILE, HELD_OUT_FOLDER
from memlm.results.scores import LEARNING_SET, TrialResult
from memlm.run import command, tracking_uri
from memlm.tracking import DataSet, TrackingError
from memlm.tracking import Run as TrackedRun
from memlm.training.trial import Trial

CONFIG_FILE = "config.json"
FINETUNING = "memlm finetuning"
"""Experiment of the runs of `finetune`."""


def log_config(tracked: TrackedRun, config: Config) -> None:
    """Log the whole config, so that the run's page is enough to repeat it."""
    tracked.log_json({**settings(config), "method": settings(config.method)}, CONFIG_FILE)


def model_sizes(config: Config) -> dict[str, int]:
    """Sizes of the model, for every run that trains or scores one; a base's are in its
    checkpoint."""
    if config.model.base:
        return {}
    return {"width": config.model.hidden_size, "layers": config.model.num_layers}


def trial_params(config: Config, trial: Trial) -> dict[str, Any]:
    return {
        "method": trial.method.label,
        "seed": trial.seed,
        "batch": trial.stream.num_wordings,
        **model_sizes(config),
        **{name.removeprefix("optimizer."): value for name, value in trial.hyperparameters().items()},
    }


def trial_tags(config: Config, inputs: Mapping[str, str]) -> dict[str, str]:
    return {
        "stage": "finetune",
        "recipe": config.recipe,
        "checkpoint": inputs["checkpoint"][:16],
        "data": inputs["corpus"][:16],
    }


def trial_name(trial: Trial, key: str) -> str:
    """Name of a trial, unique within the run."""
    return f"{trial.title}-seed{trial.seed}-{key[:6]}".replace(" ", "-")


def start_metrics(result: TrialResult) -> dict[str, float]:
    """Scores of every set before learning, to compare with `final/`."""
    return {f"start/{name}": score.value for name, score in result.start.items()}


def final_metrics(result: TrialResult) -> dict[str, float]:
    """Scores of every set after learning, and the learning itself."""
    learned = {f"final/{name}": score.value for name, score in result.end.items()}
    return learned | {f"final/{name}": value for name, value in result.extra.items()}


def corpus_read(config: Config, digest: str, context: str = "training") -> DataSet:
    return DataSet(name="corpus", digest=digest, uri=artifacts.corpus(config).uri, context=context)


def sets_read(config: Config, inputs: Mapping[str, str], *, learned: bool) -> list[DataSet]:
    """Data sets that a trial or an evaluation reads: each question set by its own digest, and the
    corpus with its held-out text."""
    found = [corpus_read(config, inputs["corpus"], "evaluation")]
    sets = artifacts.questions(config)
    for file, content in sets.manifest().files.items():
        name = LEARNING_SET if file == FACTS_FILE else Path(file).stem
        if name == LEARNING_SET or file.startswith(f"{HELD_OUT_FOLDER}/"):
            context = "training" if learned and name == LEARNING_SET else "evaluation"
            found.append(DataSet(name=name, digest=content["sha256"], uri=sets.uri, context=context))
    return found


def log_model(tracked: TrackedRun, folder: str | Path, config: Config) -> None:
    """Log the model of a checkpoint's folder if the config asks for it. If MLflow refuses it, only
    warn: the model is on storage in any case."""
    if not (config.log_model or config.register_model):
        return
    import torch

    from memlm.data.tokenizer import load_tokenizer
    from memlm.model.language_model import load_checkpoint

    model = load_checkpoint(folder, torch.device("cpu"))
    tokenizer = load_tokenizer(str(folder), num_rows=model.get_input_embeddings().num_embeddings)
    try:
        address = tracked.log_model(model, tokenizer, register=config.register_model)
    except TrackingError as error:
        say(f"warning: {error} The model is not in MLflow; to log it: {command('evaluate.py', config)}")
        return
    if address:
        say(f"model in MLflow: {address}")


def ui_line(config: Config, what: str) -> str:
    """Line with the command that opens the logged runs; empty if nothing is tracked."""
    uri = tracking_uri(config)
    if not uri.startswith("sqlite"):
        return f"{what}: {uri}" if uri else ""
    mlflow = Path(sys.executable).parent / "mlflow"
    return (
        f"{what}: {mlflow} ui --host 127.0.0.1 --backend-store-uri {shlex.quote(uri)}   then open http://127.0.0.1:5000"
    )
