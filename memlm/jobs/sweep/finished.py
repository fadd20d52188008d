"""Finished trials of a sweep: those of one checkpoint, those of several together, and their
provenance."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from memlm.jobs.sweep.checkpoint_runs import CheckpointRun
from memlm.jobs.sweep.planned_trials import Inputs, PlannedTrial
from memlm.results.scores import FailedSetting, TrialResult
from memlm.tracking import git_sha


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The trials of one checkpoint, once all have ended."""

    checkpoint: CheckpointRun
    inputs: Inputs
    trials: list[tuple[PlannedTrial, TrialResult]]
    failed: list[FailedSetting]

    def results(self) -> list[TrialResult]:
        """The results, each with the name of its checkpoint."""
        return [replace(result, checkpoint=self.checkpoint.name) for _, result in self.trials]


def join_checkpoints(swept: Sequence[Finished]) -> tuple[list[TrialResult], list[FailedSetting]]:
    """Results of all checkpoints, and the settings that diverged on any. These are left out on all,
    so that no mean hides a divergence."""
    failed: dict[tuple[str, str], FailedSetting] = {}
    for each in swept:
        for setting in each.failed:
            place = f"checkpoint {each.checkpoint.name}: " if each.checkpoint.name else ""
            known = failed.setdefault(_key_of(setting), replace(setting, reason=place + setting.reason, seeds=()))
            seeds = tuple(sorted({*known.seeds, *setting.seeds}))
            failed[_key_of(setting)] = replace(known, seeds=seeds)
    results = [result for each in swept for result in each.results() if _key_of(result) not in failed]
    return results, list(failed.values())


def _key_of(setting: TrialResult | FailedSetting) -> tuple[str, str]:
    return setting.method, json.dumps(setting.hyperparameters, sort_keys=True)


def provenance(swept: Sequence[Finished]) -> dict[str, Any]:
    """What a frontier was computed from: the commit, and for each checkpoint its run, its seeds and
    the digests of what each architecture's trials read."""
    return {"commit": git_sha(), "checkpoints": {each.checkpoint.name: _origin(each) for each in swept}}


def _origin(finished: Finished) -> Mapping[str, Any]:
    config = finished.checkpoint.config
    return {
        "run": config.run_name,
        "world_seed": config.world.seed if config.world is not None else None,
        "pretraining_seed": config.pretraining.seed,
        "inputs": {architecture: dict(digests) for architecture, digests in finished.inputs.items()},
    }
