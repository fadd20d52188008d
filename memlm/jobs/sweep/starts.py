"""Data shared by the trials of a sweep: the base model's scores, and a recording of its trunk on
the sets and streams.

Both are computed before the first trial begins: one task per checkpoint for the held-out sets, and
one per checkpoint and seed for the stream and its new facts. Trials read the results from the
object store, which has one copy per node.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
import torch
from ray import ObjectRef
from transformers import PreTrainedConfig

from memlm.config import Config
from memlm.jobs.on_ray.cluster import num_processors
from memlm.jobs.on_ray.workers import device_of, enter_worker, task_resources
from memlm.jobs.sweep.weights import TrialWeights
from memlm.model.config import Architecture
from memlm.model.reader import PackedRecording, Reader, Recording
from memlm.results.scores import Scores, join
from memlm.run import Run
from memlm.training.finetune import score_held_out, score_learning
from memlm.training.materials import Materials, stream_of
from memlm.training.trial import Trial


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Read-only data of all trials."""

    config: Config
    run: Run
    model_configs: dict[Architecture, PreTrainedConfig]
    weights: dict[Architecture, dict[str, np.ndarray]]
    materials: Materials
    commit: str = ""
    """Commit of the driver's code; empty outside a checkout."""


Part = tuple[Architecture, int | None]
"""Checkpoint, with the seed of a stream and its new facts, or with None for the held-out sets."""


@dataclass(frozen=True, kw_only=True)
class Starts:
    """Starting point of every trial. The recordings are in the object store; each process unpacks
    those of a seed once."""

    scores: dict[Part, Scores]
    packed: "dict[Part, ObjectRef[PackedRecording]]"
    unpacked: dict[Part, Recording] = field(default_factory=dict)

    def of(self, architecture: Architecture, seed: int) -> tuple[Scores, Recording]:
        """Scores of the base model, and its recording."""
        parts: list[Part] = [(architecture, seed), (architecture, None)]
        if parts[0] not in self.unpacked:
            packed = ray.get([self.packed[part] for part in parts if part in self.packed])
            self.unpacked[parts[0]] = Recording.unpack(packed)
        return join([self.scores[part] for part in parts]), self.unpacked[parts[0]]


def compute_starts(config: Config, shared: "ObjectRef[Shared]", trials: Sequence[tuple[Architecture, Trial]]) -> Starts:
    """Compute scores and recordings, in as many parallel tasks as there will be trials. Raises the
    error of a task that fails."""
    trial_of_part: dict[Part, Trial] = {}
    for architecture, trial in trials:
        parts: list[Part] = [(architecture, None), (architecture, trial.seed)]
        for part in parts:
            # Among trials with the same start, prefer one that can use a recording.
            if part not in trial_of_part or trial.method.moves == "values":
                trial_of_part[part] = trial
    sharing = [part for part, trial in trial_of_part.items() if trial.method.moves == "values"]
    max_bytes = config.sweep.trunk_cache_bytes // max(1, len(sharing))
    task = ray.remote(start_of).options(num_returns=2, **task_resources(config.cluster))
    scores: dict[Part, Any] = {}
    recordings: dict[Part, ObjectRef[PackedRecording]] = {}
    running: list[ObjectRef[Scores]] = []
    at_once = num_processors(config)
    for part, trial in trial_of_part.items():
        if len(running) == at_once:
            _, running = ray.wait(running)
        scores[part], packed = task.remote(shared, part, trial, max_bytes)
        running.append(scores[part])
        if part in sharing:
            recordings[part] = packed
    return Starts(scores={part: ray.get(ref) for part, ref in scores.items()}, packed=recordings)


def start_of(shared: Shared, part: Part, trial: Trial, max_bytes: int) -> tuple[Scores, PackedRecording]:
    """Scores of the base model, and a recording of its trunk for scoring and for the stream.

    The stream is recorded before the questions: its small batches gain most, and prompts need most
    bytes for their keys and values.
    """
    enter_worker(shared.config.cluster)
    (architecture, seed), materials = part, shared.materials
    weights = TrialWeights(
        shared.model_configs[architecture], shared.weights[architecture], device_of(shared.config.cluster)
    )
    reader = Reader(weights.model(), materials.tokenizer)
    if trial.method.moves != "values":
        max_bytes = 0
    with reader.recording(max_bytes=max_bytes, device=torch.device("cpu")) as recording:
        if seed is None:
            scores = score_held_out(trial, reader, materials)
        else:
            for batch in stream_of(trial, materials):
                reader.record(batch.tokens.to(reader.device))
            scores = score_learning(trial, reader, materials)
    return scores, recording.pack()
