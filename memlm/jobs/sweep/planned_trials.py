"""The trials that a sweep plans, and what became of them. The ledger holds one JSON per trial,
keyed by everything that names its result."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from memlm import storage
from memlm.artifacts import trial_inputs, trial_of
from memlm.config import Config
from memlm.jobs.sweep.spaces import MethodSpace
from memlm.methods.config import MethodConfig
from memlm.model.config import Architecture
from memlm.outside import reading
from memlm.results.scores import FailedSetting, TrialResult
from memlm.run import Run
from memlm.training.trial import Trial


@dataclass(frozen=True, kw_only=True)
class PlannedTrial:
    key: str
    trial: Trial
    architecture: Architecture


def plan_trials(
    config: Config, spaces: Sequence[MethodSpace]
) -> tuple[list[PlannedTrial], dict[Architecture, dict[str, str]]]:
    """Every setting of every method with every seed, and the digests of what they read. Seeds go
    first, so all methods fill evenly."""
    inputs = {space.base.base: trial_inputs(config, space.base.base) for space in spaces}
    planned: dict[str, PlannedTrial] = {}
    for seed in config.sweep.seeds:
        for space in spaces:
            for setting in space.settings():
                trial = trial_of(replace(config, method=setting, seed=seed))
                plan = PlannedTrial(key=trial.key(inputs[setting.base]), trial=trial, architecture=setting.base)
                planned[plan.key] = plan  # spaces may overlap
    return list(planned.values()), inputs


def ledger_entry(run: Run, plan: PlannedTrial) -> str:
    return storage.join(run.trials, f"{plan.key}.json")


def unfinished(run: Run, planned: Sequence[PlannedTrial]) -> list[PlannedTrial]:
    """The trials that neither ledger holds."""
    finished = _ledgers(run)
    return [plan for plan in planned if plan.key not in finished]


def read_entries(run: Run, planned: Sequence[PlannedTrial]) -> list[tuple[PlannedTrial, dict[str, Any]]]:
    """The finished trials and their entries. Raises StorageError at one that is not what was
    written."""
    ledgers = _ledgers(run)
    return [(plan, _entry_at(ledgers[plan.key])) for plan in planned if plan.key in ledgers]


def _ledgers(run: Run) -> dict[str, str]:
    """Where each finished trial's entry lies, by key; the run's own ledger first."""
    return {
        name.removesuffix(".json"): storage.join(ledger, name)
        for ledger in dict.fromkeys((run.base_trials, run.trials))
        for name in storage.list_names(ledger)
        if name.endswith(".json")
    }


def _entry_at(uri: str) -> dict[str, Any]:
    entry = storage.read_record(uri)

    def refuse(reason: str) -> storage.DamagedArtifact:
        return storage.DamagedArtifact("trial", uri, f"is no entry of the ledger ({reason})", storage.REMAKE)

    with reading(refuse):
        if "failed" in entry:
            dict(entry["hyperparameters"])
        else:
            TrialResult.from_json(entry["result"])
    return entry


def read_results(
    run: Run, planned: Sequence[PlannedTrial]
) -> tuple[list[tuple[PlannedTrial, TrialResult]], list[FailedSetting]]:
    """The finished trials, and the settings that diverged: left out with all their seeds, so
    that no mean hides it."""
    for plan in unfinished(run, planned):
        raise storage.StorageError("trial", ledger_entry(run, plan), "nothing is there", "Run the sweep again.")
    entries = read_entries(run, planned)
    diverged: dict[MethodConfig, list[tuple[PlannedTrial, dict[str, Any]]]] = {}
    for plan, entry in entries:
        if "failed" in entry:
            diverged.setdefault(plan.trial.method, []).append((plan, entry))
    failed = [
        FailedSetting(
            method=method.label,
            hyperparameters=found[0][1]["hyperparameters"],
            seeds=tuple(plan.trial.seed for plan, _ in found),
            reason=found[0][1]["failed"],
        )
        for method, found in diverged.items()
    ]
    return [
        (plan, TrialResult.from_json(entry["result"])) for plan, entry in entries if plan.trial.method not in diverged
    ], failed
