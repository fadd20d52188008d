"""What do many trials of a sweep compute alike? The base model's scores, and what the trunk
makes of the sets and streams.

Both are computed once, in tasks that end before the first trial begins, one per checkpoint for
the held-out sets and one per checkpoint and seed for the stream and its new facts; trials read
the results in the object store, one copy a node.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import ray
from ray import ObjectRef
from transformers import PreTrainedConfig

from memlm.config import Config
from memlm.evaluation.suite import held_out_trunks
from memlm.jobs.on_ray.cluster import num_processors
from memlm.jobs.on_ray.workers import enter_worker, task_resources
from memlm.jobs.sweep.weights import TrialWeights
from memlm.jobs.trial.materials import device_of
from memlm.model.config import Architecture
from memlm.model.reader.trunk_cache import NO_TRUNKS, PackedTrunks, TrunkCache
from memlm.results.scores import Scores, join
from memlm.run import Run
from memlm.training.finetune import Materials, learning_trunks, score_held_out, score_learning
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
    """Where every trial starts from. The activations lie in the object store; each process opens
    those of a seed once."""

    scores: dict[Part, Scores]
    trunks: "dict[Part, ObjectRef[PackedTrunks]]"
    opened: dict[Part, TrunkCache] = field(default_factory=dict)

    def of(self, architecture: Architecture, seed: int) -> tuple[Scores, TrunkCache]:
        """The scores of the untrained model, and what is known of its trunk."""
        parts: list[Part] = [(architecture, seed), (architecture, None)]
        if parts[0] not in self.opened:
            packed = ray.get([self.trunks[part] for part in parts if part in self.trunks])
            self.opened[parts[0]] = TrunkCache.of(packed)
        return join([self.scores[part] for part in parts]), self.opened[parts[0]]


def compute_starts(config: Config, shared: "ObjectRef[Shared]", trials: Sequence[tuple[Architecture, Trial]]) -> Starts:
    """As many tasks side by side as trials will be. An error in one is raised here."""
    trial_of_part: dict[Part, Trial] = {}
    for architecture, trial in trials:
        parts: list[Part] = [(architecture, None), (architecture, trial.seed)]
        for part in parts:
            # Of the trials that start alike, one that can use the trunk's activations.
            if part not in trial_of_part or trial.method.moves == "values":
                trial_of_part[part] = trial
    sharing = [part for part, trial in trial_of_part.items() if trial.method.moves == "values"]
    max_bytes = config.sweep.trunk_cache_bytes // max(1, len(sharing))
    task = ray.remote(start_of).options(num_returns=2, **task_resources(config.cluster))
    scores: dict[Part, Any] = {}
    trunks: dict[Part, ObjectRef[PackedTrunks]] = {}
    running: list[ObjectRef[Scores]] = []
    at_once = num_processors(config)
    for part, trial in trial_of_part.items():
        if len(running) == at_once:
            _, running = ray.wait(running)
        scores[part], packed = task.remote(shared, part, trial, max_bytes)
        running.append(scores[part])
        if part in sharing:
            trunks[part] = packed
    return Starts(scores={part: ray.get(ref) for part, ref in scores.items()}, trunks=trunks)


def start_of(shared: Shared, part: Part, trial: Trial, max_bytes: int) -> tuple[Scores, PackedTrunks]:
    enter_worker(shared.config.cluster)
    architecture, seed = part
    model = TrialWeights(
        shared.model_configs[architecture], shared.weights[architecture], device_of(shared.config)
    ).model()
    materials, trunks = shared.materials, NO_TRUNKS
    if trial.method.moves == "values" and max_bytes:
        window = model.config.max_position_embeddings
        inputs = (
            held_out_trunks(materials.tokenizer, materials.held_out, trial.evaluation, window=window)
            if seed is None
            else learning_trunks(trial, materials, window=window)
        )
        device = device_of(shared.config)
        trunks = TrunkCache.build(model, (each.to(device) for each in inputs), max_bytes=max_bytes)
        materials = replace(materials, trunks=trunks)
    scored = score_held_out if seed is None else score_learning
    return scored(trial, model, materials), trunks.pack()
