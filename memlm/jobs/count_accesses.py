"""Background counts of a checkpoint on a corpus, and its background reads. Units of micro-batches
go to a pool of model actors; each unit's partial result is written once.

Ray Data runs a task at least once, so a count is never a side effect: a partial is keyed by its
unit and committed atomically, and the driver adds up exactly the units of the plan. A unit is
defined by its numbers alone (training/counting.py), so the sum is the same for any workers, deaths
and restarts. A unit that kills its workers goes into quarantine and is reported. Reads are those
of the first micro-batches; they are stacked in the order of the units.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

from memlm import artifacts, storage
from memlm.artifact import Artifact
from memlm.config import Config
from memlm.jobs.on_ray.alone import alone
from memlm.jobs.on_ray.checks import require_ready
from memlm.jobs.on_ray.cluster import connect, num_processors
from memlm.jobs.on_ray.console import Progress, quiet, say
from memlm.jobs.on_ray.workers import task_resources
from memlm.jobs.tracked import corpus_read, log_config
from memlm.kinds import COUNTS_FILE, COUNTS_KIND, READS_FILE, READS_KIND
from memlm.run import RunError, run_of, tracking_uri
from memlm.tracking import Tracker
from memlm.training.units import read_units, units

if TYPE_CHECKING:
    from memlm.slots.counts import BackgroundCounts
    from memlm.slots.reads import BackgroundReads

EXPERIMENT = "memlm background counts"
UNIT_PREFIX = {COUNTS_KIND: "", READS_KIND: "reads_"}
"""Prefixes of the units' names in the records of attempts."""


@dataclass(kw_only=True)
class _Counted:
    """Result of one run of the job."""

    quarantined: dict[str, list[list[int]]]
    """By kind: half-open ranges of micro-batches of the units that are not in the artifact."""
    tokens_per_second: float
    """Speed of this run's own counting; 0 if there was nothing left to count."""


def run(config: Config, *, with_reads: bool = True) -> str:
    """Make the counts and, unless they are not needed, the reads: all units, only the missing ones,
    or none where the artifacts exist. Return the uri of the counts."""
    require_ready(config)
    counts, reads = artifacts.counts(config).pinned(), artifacts.reads(config).pinned()
    wanted = [counts, reads] if with_reads else [counts]
    missing = [each for each in wanted if not _is_there(each, config)]
    if missing:
        tracker = Tracker(tracking_uri(config), EXPERIMENT, forgiving=True)
        with alone(run_of(config).counting_lease):
            # unless another driver made them meanwhile
            if missing := [each for each in missing if not _is_there(each, config)]:
                _make(config, missing, tracker)
    return counts.uri


def _is_there(artifact: Artifact, config: Config) -> bool:
    made = artifact.is_made()
    if made:
        left_out = artifact.manifest().details.get("quarantined", [])
        what, remedy = f"{artifact.uri} was made without the units", f"move {artifact.uri} away to count again"
        _require_few(left_out, config, what, remedy)
        say(f"count: reusing {artifact.uri}")
    return made


def _make(config: Config, missing: list[Artifact], tracker: Tracker) -> None:
    """Count the missing units of these artifacts, and write them."""
    inputs = missing[0].digests()
    artifacts.checkpoint(config, "memory").open()  # finds damage before any work
    num_blocks = int(artifacts.corpus(config).manifest().details["num_blocks"])
    tasks = {each.kind: _tasks(config, each.kind, num_blocks) for each in missing}
    counted = _count(config, [task for each in tasks.values() for task in each], inputs)
    from memlm.jobs.on_ray.attempts import ATTEMPT_NAMES

    for artifact in missing:
        kind = artifact.kind
        merged = _merged(config, tasks[kind], counted.quarantined[kind], inputs)
        if kind == COUNTS_KIND:
            _write_counts(config, artifact, merged, counted, tracker, planned=tasks[kind][-1]["last"])
        else:
            _write_reads(artifact, merged, counted)
        storage.delete_made(artifact.units)
    storage.delete_made(run_of(config).counting_attempts, loose=ATTEMPT_NAMES)


def _write_counts(
    config: Config,
    counts: Artifact,
    found: "BackgroundCounts",
    counted: _Counted,
    tracker: Tracker,
    *,
    planned: int,
) -> None:
    """`planned` is the number of micro-batches, those in quarantine included."""
    inputs, quarantined = counts.digests(), counted.quarantined[COUNTS_KIND]
    with counts.write() as draft:
        found.save(draft.path / COUNTS_FILE)
        draft.details.update(**found.usage(), quarantined=quarantined)
    tags = {
        "stage": "count",
        "checkpoint": inputs["checkpoint"][:16],
        "data": inputs["corpus"][:16],
    }
    with tracker.run(
        f"count/{counts.digest}",
        name=f"count-{config.run_name}-{inputs['checkpoint'][:6]}",
        params={"num_batches": planned, "batch_blocks": config.counting.batch_blocks},
        tags=tags,
    ) as tracked:
        log_config(tracked, config)
        tracked.log_inputs([corpus_read(config, inputs["corpus"])])
        of_job = {"units_quarantined": len(quarantined), "tokens_per_second": counted.tokens_per_second}
        tracked.log_metrics(
            {f"slots/{name}": value for name, value in found.usage().items()}
            | {f"count/{name}": value for name, value in of_job.items()}
        )
    say(
        f"count: {found.num_batches} batches, {found.num_tokens} tokens, {found.usage()['share_read']:.0%} of the slots read, in {counts.uri}"
    )


def _write_reads(reads: Artifact, found: "BackgroundReads", counted: _Counted) -> None:
    with reads.write() as draft:
        found.save(draft.path / READS_FILE)
        draft.details.update(num_tokens=found.num_tokens, quarantined=counted.quarantined[READS_KIND])
    say(f"count: the reads of {found.num_tokens} tokens, in {reads.uri}")


def _tasks(config: Config, kind: str, num_blocks: int) -> list[dict[str, Any]]:
    planned = units(config.counting, num_blocks)
    if kind == READS_KIND:
        planned = read_units(config.counting, num_blocks, config.corpus.block_size)
    return [
        {
            "kind": kind,
            "first": unit.start,
            "last": unit.stop,
            "unit": UNIT_PREFIX[kind] + artifacts.unit_name(unit.start, unit.stop),
        }
        for unit in planned
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
    """Make the missing partial results of the tasks."""
    from memlm.jobs.counting_units import is_counted, partial_of  # imports torch

    missing = [task for task in tasks if not is_counted(partial_of(config, task, inputs))]
    quarantined: dict[str, list[list[int]]] = {COUNTS_KIND: [], READS_KIND: []}
    seconds, num_tokens = 0.0, 0
    if missing:
        done = sum(task["last"] - task["first"] for task in tasks if task not in missing)
        if done:
            say(f"counting accesses: {len(tasks) - len(missing)} of {len(tasks)} units are already counted")
        with connect(config):
            progress = Progress("counting accesses", sum(task["last"] - task["first"] for task in tasks), done=done)
            began = time.monotonic()
            for row in _rows(config, missing, inputs):
                num_tokens, seconds = num_tokens + int(row["tokens"]), time.monotonic() - began
                if row["quarantined"]:
                    quarantined[str(row["kind"])].append([int(row["first"]), int(row["last"])])
                    say(
                        f"counting accesses: {row['unit']} killed {config.counting.max_attempts} workers and is now in quarantine"
                    )
                progress.advance(int(row["last"] - row["first"]), note=f"{num_tokens / seconds:,.0f} tokens/s")
    for units_left_out in quarantined.values():
        units_left_out.sort()
        _require_few(
            units_left_out,
            config,
            f"{config.counting.max_attempts} workers died, probably out of memory, in each of the units",
            f"see Ray's logs for why, and move {run_of(config).counting_attempts} away to try again",
        )
    return _Counted(quarantined=quarantined, tokens_per_second=num_tokens / seconds if seconds else 0.0)


def _merged(config: Config, tasks: list[dict[str, Any]], quarantined: list[list[int]], inputs: dict[str, str]) -> Any:
    """The partial results of the tasks, added up in their order without those in quarantine."""
    from memlm.jobs.counting_units import PRODUCTS, partial_of  # imports torch

    parts = []
    for task in tasks:
        if [task["first"], task["last"]] not in quarantined:
            product = PRODUCTS[task["kind"]]
            with partial_of(config, task, inputs).open_temporarily() as path:
                parts.append(product.load(path / product.file))
    if not parts:
        attempts = run_of(config).counting_attempts
        raise RunError(f"all {len(tasks)} units are in quarantine; move {attempts} away to try again")
    return reduce(add, parts)


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
