"""Scores of a checkpoint on the facts to learn, the held-out questions and the held-out text."""

import hashlib
import json
from dataclasses import asdict
from typing import Any

import ray

from memlm import artifacts, storage
from memlm.artifacts import trial_of
from memlm.config import Config
from memlm.identity import settings
from memlm.jobs.on_ray.checks import require_ready
from memlm.jobs.on_ray.cluster import connect
from memlm.jobs.on_ray.console import say
from memlm.jobs.on_ray.workers import device_of, enter_worker, task_resources
from memlm.jobs.tracked import log_config, log_model, sets_read
from memlm.kinds import CHECKPOINT_KIND
from memlm.results.scores import Scores
from memlm.run import run_of, tracking_uri
from memlm.tracking import Tracker

EXPERIMENT = "memlm evaluation"


def run(config: Config) -> str:
    """Score the run's checkpoint, or the one that --checkpoint names; return the uri of the
    scores."""
    run = run_of(config)
    require_ready(config)
    inputs = {
        "corpus": artifacts.corpus(config).require().digest,
        "questions": artifacts.questions(config).require().digest,
    }
    if config.checkpoint:
        uri = storage.require_absolute(config.checkpoint, "--checkpoint")
        checkpoint = storage.read_manifest(uri, CHECKPOINT_KIND)
    else:
        own = artifacts.checkpoint(config, config.architecture)
        uri, checkpoint = own.uri, own.require()
    tracker = Tracker(tracking_uri(config), EXPERIMENT, forgiving=True)
    with connect(config):
        task = ray.remote(_score).options(**task_resources(config.cluster))
        scores: Scores = ray.get(task.remote(config, uri, checkpoint.digest, inputs))
    asked = {"stream": settings(config.stream), "evaluation": settings(config.evaluation), "seed": config.seed}
    named = hashlib.sha256(json.dumps([checkpoint.digest, asked], sort_keys=True).encode()).hexdigest()[:16]
    output = storage.join(run.scores, f"{named}.json")
    report: dict[str, Any] = {"checkpoint": uri, "digest": checkpoint.digest, "settings": asked, **asdict(scores)}
    storage.write_json(output, report)
    tags = {"stage": "evaluate", "checkpoint": checkpoint.digest[:16], "data": inputs["corpus"][:16]}
    with tracker.run(
        f"evaluate/{named}",
        name=f"evaluate-{config.run_name}-{config.architecture}-{named[:6]}",
        params={"seed": config.seed},
        tags={**tags, "checkpoint.digest": checkpoint.digest, "checkpoint.uri": uri},
    ) as tracked:
        log_config(tracked, config)
        tracked.log_inputs(sets_read(config, inputs, learned=False))
        tracked.log_metrics({f"final/{name}": value.value for name, value in scores.sets.items()})
        tracked.log_metrics({f"final/{name}": value for name, value in scores.extra.items()})
        log_model(tracked, storage.open_artifact(uri, digest=checkpoint.digest), config)
    for name, value in scores.sets.items():
        others = {
            other.removeprefix(f"{name}_"): number
            for other, number in scores.extra.items()
            if other.startswith(f"{name}_")
        }
        shown = "".join(f"  {other} {number:.3f}" for other, number in others.items())
        say(f"  {value.task:24} {value.measure:16} {value.value:.3f}  chance {value.chance:.3f}{shown}")
    say(f"scores: {output}")
    return output


def _score(config: Config, checkpoint: str, digest: str, inputs: dict[str, str]) -> Scores:
    from memlm.data.questions.streams import shortfall  # these import torch: only in a worker
    from memlm.jobs.preparing.questions import report_unanswerable
    from memlm.jobs.trial.materials import load_materials, load_model
    from memlm.model.reader import Reader
    from memlm.training.finetune import score

    enter_worker(config.cluster)
    materials = load_materials(config, inputs)
    if line := shortfall(config.stream, materials.facts):
        say(line)
    report_unanswerable(config)
    reader = Reader(load_model(checkpoint, device_of(config.cluster), digest=digest), materials.tokenizer)
    return score(trial_of(config), reader, materials)
