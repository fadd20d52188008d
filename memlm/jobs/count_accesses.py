"""Background counts of a checkpoint on a corpus. Units of micro-batches go to a pool of model
actors; each unit's partial count is written once.

Ray Data runs a task at least once, so a count is never a side effect: a partial is keyed by its
unit and committed atomically, and the driver adds up exactly the units of the plan. A unit is
defined by its numbers alone (training/counting.py), so the sum is the same for any workers, deaths
and restarts. A unit that kills its workers goes into quarantine and is reported.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from memlm import artifacts, storage
from memlm.artifacts import Artifact
from memlm.config import Config
from memlm.jobs.on_ray.alone import alone
from memlm.jobs.on_ray.checks import require_ready
from memlm.jobs.on_ray.cluster import connect, num_processors
from memlm.jobs.on_ray.console import Progress, quiet, say
from memlm.jobs.on_ray.workers import task_resources
from memlm.jobs.tracked import corpus_read, log_config
from memlm.kinds import COUNTS_FILE
from memlm.run import RunError, run_of, tracking_uri
from memlm.tracking import Tracker
from memlm.training.units import num_batches, units

if TYPE_CHECKING:
    from memlm.slots.counts import BackgroundCounts

EXPERIMENT = "memlm background counts"


@dataclass(kw_only=True)
class _Counted:
    """Result of one run of the job."""

    counts: "BackgroundCounts"
    quarantined: list[list[int]]
    """Half-open ranges of micro-batches of the units that are not in the counts."""
    tokens_per_second: float
    """Speed of this run's own counting; 0 if there was nothing left to count."""


def run(config: Config) -> str:
    """Count all units, or only the missing ones, or reuse the counts; return their uri."""
    require_ready(config)
    counts = artifacts.counts(config).pinned()

    def is_there() -> bool:
        made = counts.is_made()
        if made:
            left_out = counts.manifest().details.get("quarantined", [])
            what, remedy = f"{counts.uri} was made without the units", f"move {counts.uri} away to count again"
            _require_few(left_out, config, what, remedy)
            say(f"count: reusing {counts.uri}")
        return made

    if is_there():
        return counts.uri
    tracker = Tracker(tracking_uri(config), EXPERIMENT, forgiving=True)
    with alone(run_of(config).counting_lease):
        if not is_there():  # unless another driver made it meanwhile
            _count_all(config, counts, tracker)
    return counts.uri


def _count_all(config: Config, counts: Artifact, tracker: Tracker) -> None:
    """Count the missing units and write the artifact."""
    run, inputs = run_of(config), counts.digests()
    artifacts.checkpoint(config, "memory").open()  # finds damage before any work
    num_blocks = int(artifacts.corpus(config).manifest().details["num_blocks"])
    counted = _count(config, _tasks(config, num_blocks), inputs)
    from memlm.jobs.on_ray.attempts import ATTEMPT_NAMES

    with counts.write() as draft:
        counted.counts.save(draft.path / COUNTS_FILE)
        draft.details.update(**counted.counts.usage(), quarantined=counted.quarantined)
    storage.delete_made(counts.units)
    storage.delete_made(run.counting_attempts, loose=ATTEMPT_NAMES)
    tags = {
        "stage": "count",
        "checkpoint": inputs["checkpoint"][:16],
        "data": inputs["corpus"][:16],
    }
    params = {"num_batches": num_batches(config.counting, num_blocks), "batch_blocks": config.counting.batch_blocks}
    with tracker.run(
        f"count/{counts.digest}",
        name=f"count-{config.run_name}-{inputs['checkpoint'][:6]}",
        params=params,
        tags=tags,
    ) as tracked:
        log_config(tracked, config)
        tracked.log_inputs([corpus_read(config, inputs["corpus"])])
        of_job = {"units_quarantined": len(counted.quarantined), "tokens_per_second": counted.tokens_per_second}
        tracked.log_metrics(
            {f"slots/{name}": value for name, value in counted.counts.usage().items()}
            | {f"count/{name}": value for name, value in of_job.items()}
        )
    say(
        f"count: {counted.counts.num_batches} batches, {counted.counts.num_tokens} tokens, {counted.counts.usage()['share_read']:.0%} of the slots read, in {counts.uri}"
    )


def _tasks(config: Config, num_blocks: int) -> list[dict[str, Any]]:
    return [
        {"first": unit.start, "last": unit.stop, "unit": artifacts.unit_name(unit.start, unit.stop)}
        for unit in units(config.counting, num_blocks)
    ]


def _require_few(quarantined: list[list[int]], config: Config, what: str, remedy: str) -> None:
    """Raise RunError if more units are in quarantine than the config allows."""
    if len(quarantined) > config.counting.max_quarantined:
        names = ", ".join(f"{first} to {last - 1}" for first, last in quarantined[:10])
        more = f" and {len(quarantined) - 10} more" if len(quarantined) > 10 else ""
        raise RunError(
            f"{what} of micro-batches {names}{more}, more than counting.max_quarantined ({config.counting.max_quarantined}) allows; "
            f"{remedy}, or raise counting.max_quarantined to leave them out"
        )


def _count(config: Config, tasks: list[dict[str, Any]], inputs: dict[str, str]) -> _Counted:
    from memlm.jobs.counting_units import is_counted, partial_of  # imports torch
    from memlm.slots.counts import BackgroundCounts

    run = run_of(config)
    missing = [task for task in tasks if not is_counted(partial_of(config, task, inputs))]
    quarantined: list[list[int]] = []
    seconds, num_tokens = 0.0, 0
    if missing:
        done = sum(task["last"] - task["first"] for task in tasks if task not in missing)
        if done:
            say(f"counting accesses: {len(tasks) - len(missing)} of {len(tasks)} units are already counted")
        with connect(config):
            progress = Progress("counting accesses", tasks[-1]["last"], done=done)
            began = time.monotonic()
            for row in _rows(config, missing, inputs):
                num_tokens, seconds = num_tokens + int(row["tokens"]), time.monotonic() - began
                if row["quarantined"]:
                    quarantined.append([int(row["first"]), int(row["last"])])
                    say(
                        f"counting accesses: {row['unit']} killed {config.counting.max_attempts} workers and is now in quarantine"
                    )
                progress.advance(int(row["last"] - row["first"]), note=f"{num_tokens / seconds:,.0f} tokens/s")
    quarantined.sort()
    _require_few(
        quarantined,
        config,
        f"{config.counting.max_attempts} workers died, probably out of memory, in each of the units",
        f"see Ray's logs for why, and move {run.counting_attempts} away to try again",
    )
    total: BackgroundCounts | None = None
    for task in tasks:
        if [task["first"], task["last"]] not in quarantined:
            with partial_of(config, task, inputs).open_temporarily() as path:
                part = BackgroundCounts.load(path / COUNTS_FILE)
            total = part if total is None else total + part
    if total is None:
        raise RunError(f"all {len(tasks)} units are in quarantine; move {run.counting_attempts} away to try again")
    return _Counted(counts=total, quarantined=quarantined, tokens_per_second=num_tokens / seconds if seconds else 0.0)


def _rows(config: Config, tasks: list[dict[str, Any]], inputs: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Rows of the tasks, each as soon as it is done."""
    import ray.data
    from ray.data import ActorPoolStrategy

    from memlm.jobs.counting_units import CountUnits

    quiet()  # again, now that Ray Data is imported
    session = f"{time.time_ns():x}"
    counted = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
        CountUnits,
        fn_constructor_args=(config, inputs, session),
        batch_size=1,
        compute=ActorPoolStrategy(size=min(len(tasks), num_processors(config))),
        **task_resources(config.cluster),
    )
    yield from counted.iter_rows()
