"""What every stage tells the tracking server of itself: the whole config, the sizes that runs
are compared by, the data that was read."""

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


def log_config(tracked: TrackedRun, config: Config) -> None:
    """Whole, so that a run can be made again from its page alone."""
    tracked.log_json({**settings(config), "method": settings(config.method)}, CONFIG_FILE)


def model_sizes(config: Config) -> dict[str, int]:
    """The model's sizes, for every run that trains or asks one."""
    return {"width": config.model.hidden_size, "layers": config.model.num_layers}


def trial_params(config: Config, trial: Trial) -> dict[str, Any]:
    return {
        "method": trial.method.label,
        "seed": trial.seed,
        "batch": trial.stream.num_wordings,
        **model_sizes(config),
        **{name.removeprefix("optimizer."): value for name, value in trial.hyperparameters().items()},
    }


def trial_name(trial: Trial, key: str) -> str:
    """No two trials of a run have the same."""
    return f"{trial.title}-seed{trial.seed}-{key[:6]}".replace(" ", "-")


def start_metrics(result: TrialResult) -> dict[str, float]:
    """Every set before learning, so that a drop can be seen next to `final/`."""
    return {f"start/{name}": score.value for name, score in result.start.items()}


def final_metrics(result: TrialResult) -> dict[str, float]:
    """What the tracking server compares: every set at the end, and the learning."""
    learned = {f"final/{name}": score.value for name, score in result.end.items()}
    return learned | {f"final/{name}": value for name, value in result.extra.items()}


def corpus_read(config: Config, digest: str, context: str = "training") -> DataSet:
    return DataSet(name="corpus", digest=digest, uri=artifacts.corpus(config).uri, context=context)


def sets_read(config: Config, inputs: Mapping[str, str], *, learned: bool) -> list[DataSet]:
    """What a trial or an evaluation reads: each set of the questions by its own digest, and the
    corpus, whose held-out text is scored."""
    found = [corpus_read(config, inputs["corpus"], "evaluation")]
    sets = artifacts.questions(config)
    for file, content in sets.manifest().files.items():
        name = LEARNING_SET if file == FACTS_FILE else Path(file).stem
        if name == LEARNING_SET or file.startswith(f"{HELD_OUT_FOLDER}/"):
            context = "training" if learned and name == LEARNING_SET else "evaluation"
            found.append(DataSet(name=name, digest=content["sha256"], uri=sets.uri, context=context))
    return found


def log_model(tracked: TrackedRun, folder: str | Path, config: Config) -> None:
    """The model of a checkpoint's folder, where the config asks for it. What MLflow refuses is
    said: the model is on storage anyway."""
    if not (config.log_model or config.register_model):
        return
    import torch

    from memlm.data.tokenizer import load_tokenizer
    from memlm.model.language_model import load_checkpoint

    model, tokenizer = load_checkpoint(folder, torch.device("cpu")), load_tokenizer(str(folder))
    try:
        address = tracked.log_model(model, tokenizer, register=config.register_model)
    except TrackingError as error:
        say(f"warning: {error} The model is not in MLflow; to log it: {command('evaluate.py', config)}")
        return
    if address:
        say(f"model in MLflow: {address}")


def ui_line(config: Config, what: str) -> str:
    """How to look at what was logged; empty where nothing is."""
    uri = tracking_uri(config)
    if not uri.startswith("sqlite"):
        return f"{what}: {uri}" if uri else ""
    mlflow = Path(sys.executable).parent / "mlflow"
    return (
        f"{what}: {mlflow} ui --host 127.0.0.1 --backend-store-uri {shlex.quote(uri)}   then open http://127.0.0.1:5000"
    )
