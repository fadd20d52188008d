"""Report of a sweep: the frontier's files, and the runs on the tracking server, one parent with a
child per trial."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from memlm import storage
from memlm.config import Config
from memlm.jobs.on_ray.console import say
from memlm.jobs.sweep.drawing import FRONTIER_FILE, ITEMS_FILE, PICTURE_FILE, draw_files
from memlm.jobs.sweep.planned_trials import Inputs, PlannedTrial
from memlm.jobs.tracked import (
    final_metrics,
    log_config,
    model_sizes,
    sets_read,
    start_metrics,
    trial_name,
    trial_params,
    trial_tags,
    ui_line,
)
from memlm.kinds import REPORT_FILE
from memlm.outside import reading
from memlm.results.comparing.items import SweepItems
from memlm.results.frontier import frontier_of
from memlm.results.frontier_picture import draw_frontiers
from memlm.results.frontier_tables import format_table
from memlm.results.scores import LEARNING_SET, TrialResult
from memlm.run import Run, RunError, tracking_uri
from memlm.tracking import Run as TrackedRun
from memlm.tracking import Tracker

EXPERIMENT = "memlm pareto sweeps"
AVERAGE = "average"
"""Name of the metrics that average over sets, gains not counted."""
JOINT_FILE = "joint.png"


class SweepTracker:
    """Tracked runs of a sweep: one parent, and a child per trial. A frontier over several
    checkpoints has a parent of its own; the trials are children of their checkpoint's parent."""

    def __init__(self, config: Config, runs: Sequence[tuple[Config, Inputs]]) -> None:
        """`runs`: each checkpoint's config, and the digests of what its trials read."""
        self.config = config
        self.tracker = Tracker(tracking_uri(config), EXPERIMENT, forgiving=True)
        (_, self.inputs), *_ = runs
        self.sets = [
            data for part, inputs in runs for data in sets_read(part, next(iter(inputs.values())), learned=True)
        ]
        read = {digest for _, inputs in runs for part in inputs.values() for digest in part.values()}
        digests = "-".join(sorted({digest[:8] for digest in read}))
        tags = {"stage": "sweep", "recipe": config.recipe}
        if config.sweep.checkpoints:
            tags["checkpoints"] = ", ".join(map(str, config.sweep.checkpoints))
        digest = hashlib.sha256(digests.encode()).hexdigest()
        self.parent = self.tracker.run(
            f"sweep/{config.run_name}/{digests}",
            name=f"sweep-{config.run_name}-{digest[:6]}",
            params=model_sizes(config),
            tags=tags,
        )
        log_config(self.parent, config)
        self.parent.log_inputs(self.sets)

    def child(self, plan: PlannedTrial) -> TrackedRun:
        trial = plan.trial
        return self.tracker.run(
            f"trial/{plan.key}",
            name=trial_name(trial, plan.key),
            parent=self.parent,
            params=trial_params(self.config, trial),
            tags={
                "method": trial.method.label,
                "seed": str(trial.seed),
                **trial_tags(self.config, self.inputs[plan.architecture]),
            },
        )

    def log_trial(self, plan: PlannedTrial, entry: Mapping[str, Any]) -> None:
        """Log a finished trial. If the server does not answer, the end of the sweep logs the trial,
        or the same command run again."""
        trial = plan.trial
        with self.child(plan) as child:
            log_config(child, replace(self.config, method=trial.method, seed=trial.seed, stream=trial.stream))
            child.log_inputs(self.sets)
            if "failed" in entry:
                child.set_tags({"failed": entry["failed"]})
                return
            for point in entry["curve"]:
                child.log_metrics(
                    {name: value for name, value in point.items() if name != "step"}, step=int(point["step"])
                )
            result = TrialResult.from_json(entry["result"])
            child.log_metrics(start_metrics(result) | final_metrics(result))

    def log_frontier(
        self, frontier: Mapping[str, Any], files: Sequence[Path], trials: Sequence[tuple[PlannedTrial, TrialResult]]
    ) -> None:
        self.parent.log_metrics({f"hypervolume/{method}": value for method, value in frontier["hypervolume"].items()})
        for level in frontier["matched"]:
            for method, value in level["methods"].items():
                lost = {name: each["forgetting"] for name, each in value["sets"].items()} | {
                    AVERAGE: value["forgetting"]
                }
                at_level = f"forgetting_at_{level['learning']:g}"
                self.parent.log_metrics({f"{at_level}/{name}/{method}": share for name, share in lost.items()})
        for file in files:
            self.parent.log_file(file)
        points = {(point["method"], _setting(point["hyperparameters"])): point for point in frontier["points"]}
        for plan, result in trials:
            point = points[result.method, _setting(result.hyperparameters)]
            drops = {name: result.start[name].drop_to(result.end[name]) for name in frontier["counted_sets"]}
            clipped = [max(drops[name], 0.0) for name in frontier["forgetting_sets"]]
            with self.child(plan) as child:
                child.log_metrics(
                    start_metrics(result) | final_metrics(result)
                )  # again, in case the driver was interrupted before
                child.set_tags({"pareto": str(point["on_frontier"]).lower()})
                drops[AVERAGE] = sum(clipped) / len(clipped)
                child.log_metrics(
                    {
                        "final/learning": result.end[LEARNING_SET].value,
                        **{f"drop/{name}": drop for name, drop in drops.items()},
                    }
                )


def _others(config: Config) -> list[dict[str, Any]]:
    """Existing frontiers of the runs to compare with."""
    found = []
    for name in config.sweep.compare_with:
        folder = storage.join(config.storage, name)
        if FRONTIER_FILE in storage.list_names(folder):
            found.append(storage.read_record(storage.join(folder, FRONTIER_FILE)))
        else:
            say(f"joint picture: {folder} has no frontier yet; run pareto_sweep.py {name}, then this command again")
    return found


def _draw_joint(config: Config, frontier: dict[str, Any], path: Path) -> bool:
    """Draw the joint picture; returns whether it was drawn. A frontier of another run that cannot
    be read costs only this picture."""

    def refuse(reason: str) -> RunError:
        others = ", ".join(config.sweep.compare_with)
        return RunError(f"a frontier of {others} cannot be drawn ({reason}); run the sweep of that run again")

    try:
        with reading(refuse):
            draw_frontiers([frontier, *_others(config)], path)
    except (RunError, storage.StorageError) as error:
        say(f"warning: no joint picture: {error}")
        return False
    return True


def _setting(hyperparameters: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(hyperparameters.items()))


def write_frontier(
    config: Config,
    run: Run,
    items: SweepItems,
    stages: dict[str, Any],
    tracker: SweepTracker,
    trials: Sequence[tuple[PlannedTrial, TrialResult]],
) -> None:
    """Write the items, and picture, report and tables of their frontier, into the run's folder and
    log them; print the table. Raises ScoreError if the items cannot be compared."""
    frontier = frontier_of(items)
    with TemporaryDirectory() as scratch:
        files = draw_files(frontier, Path(scratch), stages)
        files.append(Path(scratch) / ITEMS_FILE)
        storage.write_record(str(files[-1]), items.to_json())
        if config.sweep.compare_with and _draw_joint(config, frontier, Path(scratch) / JOINT_FILE):
            files.append(Path(scratch) / JOINT_FILE)
        for file in files:
            storage.write_bytes(storage.join(run.uri, file.name), file.read_bytes())
        tracker.log_frontier(frontier, files, trials)
    print(format_table(frontier))
    say(f"frontier: {storage.join(run.uri, PICTURE_FILE)}, {storage.join(run.uri, REPORT_FILE)}")
    if line := ui_line(config, "compare the trials"):
        say(line)
