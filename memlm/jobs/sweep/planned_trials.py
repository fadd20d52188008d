"""Trials of a sweep, planned and finished. The ledger has one JSON file per trial, whose key is the
trial's identity."""

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
from memlm.results.comparing.sets import WHOLE_TEXT_SET
from memlm.results.scores import FailedSetting, TrialResult
from memlm.run import Run, RunError
from memlm.training.trial import Trial

Inputs = dict[Architecture, dict[str, str]]
"""Digests of what the trials of each architecture read."""


@dataclass(frozen=True, kw_only=True)
class PlannedTrial:
    key: str
    trial: Trial
    architecture: Architecture

    @property
    def title(self) -> str:
        """Method, learning rate and seed, for people; says which trials only choose settings."""
        tuning = "tuning " if self.trial.stream.part == "tuning" else ""
        return f"{self.trial.title} {tuning}seed {self.trial.seed}"


def plan_trials(config: Config, spaces: Sequence[MethodSpace]) -> tuple[list[PlannedTrial], Inputs]:
    """All trials, and the digests of their inputs. The seed varies slowest, so that all methods
    advance evenly."""
    settings = [setting for space in spaces for setting in space.settings()]
    inputs = {
        base: trial_inputs(config, base, [setting for setting in settings if setting.base == base])
        for base in dict.fromkeys(space.base.base for space in spaces)
    }
    planned: dict[str, PlannedTrial] = {}
    for seed in config.sweep.all_seeds:
        stream = config.sweep.stream_for(config.stream, seed)
        for space in spaces:
            for setting in space.settings():
                trial = trial_of(replace(config, method=setting, seed=seed, stream=stream))
                plan = PlannedTrial(key=trial.key(inputs[setting.base]), trial=trial, architecture=setting.base)
                planned[plan.key] = plan  # search spaces may overlap
    return list(planned.values()), inputs


def lone_seed(config: Config) -> str:
    """A message if the trials that are reported have one seed; empty otherwise."""
    if len(config.sweep.seeds) > 1:
        return ""
    return f"sweep.seeds is {config.sweep.seeds}: with one seed, intervals say nothing about other facts, orders and wordings; give three seeds or more"


def ledger_entry(run: Run, plan: PlannedTrial) -> str:
    return storage.join(run.trials, f"{plan.key}.json")


def unfinished(run: Run, planned: Sequence[PlannedTrial]) -> list[PlannedTrial]:
    """Trials that are in neither ledger."""
    finished = _ledgers(run)
    return [plan for plan in planned if plan.key not in finished]


def read_entries(run: Run, planned: Sequence[PlannedTrial]) -> list[tuple[PlannedTrial, dict[str, Any]]]:
    """Finished trials with their entries. Raises StorageError for an entry that was changed."""
    ledgers = _ledgers(run)
    return [(plan, _entry_at(ledgers[plan.key])) for plan in planned if plan.key in ledgers]


def require_comparable_ledger(run: Run, planned: Sequence[PlannedTrial]) -> None:
    """Read all finished trials. Raises StorageError for an entry that was changed, and RunError if
    trials are missing that could not be compared with those finished: a difference that a frontier
    would find only after all of the work."""
    entries = read_entries(run, planned)
    older = [plan for plan, entry in entries if "result" in entry and WHOLE_TEXT_SET in entry["result"]["start"]]
    missing = len(planned) - len(entries)
    if older and missing:
        entry = _ledgers(run)[older[0].key]
        raise RunError(
            f"{len(older)} finished trials, such as {entry}, are from before text was scored by class of token, and {missing} are still to be run, "
            f"which could not be compared with them; move {entry.rpartition('/')[0]} away to run all again, or give another --run-name"
        )


def _ledgers(run: Run) -> dict[str, str]:
    """Location of each finished trial's entry, by key; the run's own ledger comes first."""
    return {
        name.removesuffix(".json"): storage.join(ledger, name)
        for ledger in dict.fromkeys((run.base_trials, run.trials))
        for name in storage.list_names(ledger)
        if name.endswith(".json")
    }


def _entry_at(uri: str) -> dict[str, Any]:
    entry = storage.read_record(uri)

    def refuse(reason: str) -> storage.DamagedArtifact:
        return storage.DamagedArtifact("trial", uri, f"is not a valid entry of the ledger ({reason})", storage.REMAKE)

    with reading(refuse):
        if "failed" in entry:
            dict(entry["hyperparameters"])
        else:
            TrialResult.from_json(entry["result"])
    return entry


def read_results(
    run: Run, planned: Sequence[PlannedTrial]
) -> tuple[list[tuple[PlannedTrial, TrialResult]], list[FailedSetting]]:
    """Finished trials, and the settings that diverged. These are left out with all their seeds, so
    that no mean hides a divergence."""
    for plan in unfinished(run, planned):
        raise storage.StorageError("trial", ledger_entry(run, plan), "does not exist", "Run the sweep again.")
    entries = read_entries(run, planned)
    diverged: dict[MethodConfig, list[tuple[PlannedTrial, dict[str, Any]]]] = {}
    for plan, entry in entries:
        if "failed" in entry:
            diverged.setdefault(plan.trial.method, []).append((plan, entry))
    failed = [
        FailedSetting(
            method=method.label,
            hyperparameters=found[0][0].trial.hyperparameters(),
            seeds=tuple(plan.trial.seed for plan, _ in found),
            reason=found[0][1]["failed"],
        )
        for method, found in diverged.items()
    ]
    # An entry from before a setting was added names fewer of them, under the same key.
    return [
        (plan, replace(TrialResult.from_json(entry["result"]), hyperparameters=plan.trial.hyperparameters()))
        for plan, entry in entries
        if plan.trial.method not in diverged
    ], failed
