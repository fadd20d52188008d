"""What the trials of a sweep share: the base model's scores, and a recording of its trunk on the
sets and streams.

Both are made once, in tasks that end before the first trial begins, one per checkpoint for
the held-out sets and one per checkpoint and seed for the stream and its new facts; trials read
the results in the object store, one copy a node.
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
from memlm.jobs.on_ray.workers import enter_worker, task_resources
from memlm.jobs.sweep.weights import TrialWeights
from memlm.jobs.trial.materials import device_of
from memlm.model.config import Architecture
from memlm.model.reader import PackedRecording, Reader, Recording
from memlm.results.scores import Scores, join
from memlm.run import Run
from memlm.training.finetune import Materials, score_held_out, score_learning, stream_of
from memlm.training.trial import Trial


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What all trials read as it is."""

    config: Config
    run: Run
    model_configs: dict[Architecture, PreTrainedConfig]
    weights: dict[Architecture, dict[str, np.ndarray]]
    materials: Materials


Part = tuple[Architecture, int | None]
"""A checkpoint with a seed, for the stream and its new facts, or with None for the held-out
sets."""


@dataclass(frozen=True, kw_only=True)
class Starts:
    """Where every trial starts from. The recordings lie in the object store; each process unpacks
    those of a seed once."""

    scores: dict[Part, Scores]
    packed: "dict[Part, ObjectRef[PackedRecording]]"
    unpacked: dict[Part, Recording] = field(default_factory=dict)

    def of(self, architecture: Architecture, seed: int) -> tuple[Scores, Recording]:
        """The scores of the base model, and what was recorded of it."""
        parts: list[Part] = [(architecture, seed), (architecture, None)]
        if parts[0] not in self.unpacked:
            packed = ray.get([self.packed[part] for part in parts if part in self.packed])
            self.unpacked[parts[0]] = Recording.unpack(packed)
        return join([self.scores[part] for part in parts]), self.unpacked[parts[0]]


def compute_starts(config: Config, shared: "ObjectRef[Shared]", trials: Sequence[tuple[Architecture, Trial]]) -> Starts:
    """As many tasks side by side as trials will be. An error in one is raised here."""
    trial_of_part: dict[Part, Trial] = {}
    for architecture, trial in trials:
        parts: list[Part] = [(architecture, None), (architecture, trial.seed)]
        for part in parts:
            # Of the trials that start alike, one that can use a recording.
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
    """The base model's scores, and what scoring them and learning the stream read of its trunk.

    The stream is recorded before the questions: its small batches gain the most, and prompts,
    which keep keys and values, take the most bytes.
    """
    enter_worker(shared.config.cluster)
    (architecture, seed), materials = part, shared.materials
    weights = TrialWeights(shared.model_configs[architecture], shared.weights[architecture], device_of(shared.config))
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
