"""Checkpoints of a sweep: each pair of a generated world and a pretraining is a run of its own,
whose artifacts and trials are those of the same run made alone. Where a base run is named, it is a
sweep of checkpoints too, and each pair uses its own. This module imports neither torch nor Ray."""

from dataclasses import dataclass, replace

from memlm import storage
from memlm.config import Config
from memlm.kinds import CHECKPOINTS_FILE
from memlm.run import run_of
from memlm.stages import without_options


@dataclass(frozen=True, kw_only=True)
class CheckpointRun:
    """One checkpoint of a sweep, with the config of its run."""

    name: str
    """The seed of world and pretraining; empty in a sweep of one checkpoint."""
    config: Config


def checkpoint_runs(config: Config) -> list[CheckpointRun]:
    """The run of each checkpoint, in order; the config's own run if `sweep.checkpoints` names
    none."""
    if not config.sweep.checkpoints:
        return [CheckpointRun(name="", config=config)]
    return [CheckpointRun(name=str(seed), config=_with_seeds(config, seed)) for seed in config.sweep.checkpoints]


def _with_seeds(config: Config, seed: int) -> Config:
    """The config of the run of one pair. A recipe without a generated world has another pretraining
    on the same text."""
    name = _run_of_checkpoint(config.run_name, seed)
    base_run = _run_of_checkpoint(config.base_run, seed) if config.base_run else ""
    options = {"--run-name": name, "--pretraining.seed": str(seed)}
    if base_run:
        options["--base-run"] = base_run
    if config.world is not None:
        options["--world.seed"] = str(seed)
    kept = without_options(config.arguments, (*options, "--sweep.checkpoints", "--sweep.compare-with"))
    return replace(
        config,
        run_name=name,
        base_run=base_run,
        world=replace(config.world, seed=seed) if config.world is not None else None,
        pretraining=replace(config.pretraining, seed=seed),
        sweep=replace(config.sweep, checkpoints=(), compare_with=()),
        arguments=(*kept, *(each for option in options.items() for each in option), "--sweep.checkpoints"),
    )


def _run_of_checkpoint(run: str, seed: int) -> str:
    return f"{run}-checkpoint-{seed}"


def record_checkpoints(config: Config) -> None:
    """Write the names of the checkpoints' runs into the sweep's own folder, which has no artifacts
    by which it could be recognised."""
    names = {each.name: each.config.run_name for each in checkpoint_runs(config)}
    storage.write_record(storage.join(run_of(config).uri, CHECKPOINTS_FILE), {"runs": names})
