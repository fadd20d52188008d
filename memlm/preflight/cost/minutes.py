"""Duration of each stage of a recipe: the arithmetic of `memlm plan` for this machine's cores or
for the recipe's GPUs."""

import os
from dataclasses import replace

from memlm.config import Config
from memlm.preflight.cost.bases import base_flops
from memlm.preflight.cost.machines import MACHINES
from memlm.preflight.cost.stages import Assumptions, Trials, make_plan

STARTUP_MINUTES = 0.4
"""Minutes that a stage takes to start: imports, a local Ray, reading its inputs."""
CPU_UTILISATION = 0.5
"""Share of a core's peak that the laptop recipe reaches."""
GPU_TYPE = "h100"


def describe_machine(config: Config) -> str:
    if config.cluster.use_gpu:
        return f"{config.cluster.num_workers} GPUs of the kind {GPU_TYPE}"
    return f"{os.cpu_count() or 1} CPU cores"


def fit_side_by_side(config: Config, num_models: int) -> bool:
    """Whether this machine has cores for the workers of all models at once, as a sweep pretrains
    them."""
    return not config.cluster.use_gpu and num_models * config.cluster.num_workers <= (os.cpu_count() or 1)


def stage_minutes(config: Config, trials: Trials, *, num_chunks: int = 0) -> dict[str, float]:
    """Minutes of each stage, by its name. `num_chunks` are those of the documents to learn, if they
    are counted. Raises ValueError for a config that cannot be planned."""
    workers, gpu = config.cluster.num_workers, config.cluster.use_gpu
    assumptions = Assumptions(num_chunks=num_chunks)
    assumptions = assumptions if gpu else replace(assumptions, utilisation=CPU_UTILISATION)
    machine = MACHINES[GPU_TYPE if gpu else "cpu"]
    plan = make_plan(config, machine, workers, assumptions, trials)
    hours = plan.stage_lines()
    rate = assumptions.utilisation * machine.fp32_flops
    base_hours = base_flops(config) / rate / 3600 if config.model.base else 0.0
    cores = os.cpu_count() or 1
    side_by_side = config.cluster.num_trials_at_once or (workers if gpu else cores)
    shares = {
        "prepare_corpus": plan.preparation_lines()["prepare_corpus"] / cores + base_hours / side_by_side,
        "pretrain, memory": hours["pretrain memory"] / workers,
        "pretrain, dense": hours["pretrain dense"] / workers,
        "count_accesses": (hours["count_accesses"] - plan.reading_hours()) / side_by_side,
        "count_accesses, reads": plan.reading_hours() / side_by_side,
        "finetune": hours["finetune and score, one trial"],
        "evaluate": hours["finetune and score, one trial"] / 2,
        "pareto_sweep": hours["pareto_sweep"] / side_by_side,
    }
    return {name: STARTUP_MINUTES + 60 * share for name, share in shares.items()}
