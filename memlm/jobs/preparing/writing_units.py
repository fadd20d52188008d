"""Parallel writing about facts or chunks: units of them go to a pool of actors, each with its own
writer.

Ray Data runs a task at least once, so a record is never a side effect: each unit's records are
committed once under the unit's name, and the driver reads exactly the units of the plan. A run that
was interrupted, or that spent its budget, resumes with the missing units.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray
import ray.data
from ray.data import ActorPoolStrategy

from memlm import artifacts, storage
from memlm.config import Config
from memlm.data.corpus.shards import read_records, write_shard
from memlm.data.writers.budget import Budget
from memlm.data.writers.build import build_writer
from memlm.data.writers.interface import Writer
from memlm.jobs.on_ray.cluster import num_processors
from memlm.jobs.on_ray.console import Progress
from memlm.jobs.on_ray.workers import device_of, enter_worker, task_resources, user_errors_as_raised
from memlm.kinds import WRITTEN_UNIT_FILE

Record = dict[str, Any]
Work = Callable[[Any, Sequence[Record]], list[Record]]
"""Work on one unit with a writer: returns one record for each record of the unit."""


def write_in_units(
    config: Config,
    work: Work,
    items: Sequence[Record],
    *,
    folder: str,
    wanted: Mapping[str, Any],
    revision: str | None,
    size: int = 0,
    doing: str = "writing",
) -> list[Record]:
    """One record per item, in order. `wanted` holds all settings that decide a record, in addition
    to the item.

    `revision` is the writer's; None if the work needs no writer. `size` is the number of items of a
    unit; 0 for the writer's.
    """
    tasks = _tasks(items, folder, size=size or config.writer.items_per_unit)
    cluster = replace(config.cluster, use_gpu=config.cluster.use_gpu and not config.writer.endpoint.base_url)
    written = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
        _WriteUnits,
        fn_constructor_args=(config, work, dict(wanted), revision, _shared_budget(config)),
        batch_size=1,
        compute=ActorPoolStrategy(size=min(len(tasks), num_processors(config))),
        **task_resources(cluster),
    )
    progress = Progress(doing, len(items))
    for row in written.iter_rows():
        progress.advance(len(json.loads(row["items"])))
    records: list[Record] = []
    for task in tasks:
        with artifacts.written_unit(**task, decided_by=wanted).open_temporarily() as path:
            records += [record for _, record in read_records(str(path / WRITTEN_UNIT_FILE))]
    return records


def _tasks(items: Sequence[Record], folder: str, *, size: int) -> list[dict[str, str]]:
    units = [(first, items[first : first + size]) for first in range(0, len(items), size)]
    return [
        {
            "uri": storage.join(folder, artifacts.unit_name(first, first + len(unit))),
            "items": json.dumps(unit, ensure_ascii=False),
        }
        for first, unit in units
    ]


def _shared_budget(config: Config) -> Any:
    """Budget shared by all workers; it lives as long as the run, even if workers die."""
    endpoint = config.writer.endpoint
    actor = ray.remote(Budget).options(num_cpus=0)
    return actor.remote(max_requests=endpoint.max_requests, max_tokens=endpoint.max_tokens)


class _SharedBudget(Budget):
    def __init__(self, shared: Any) -> None:
        self.shared = shared

    def take_request(self) -> None:
        ray.get(self.shared.take_request.remote())

    def add_tokens(self, num_tokens: int) -> None:
        ray.get(self.shared.add_tokens.remote(num_tokens))

    def used(self) -> dict[str, int]:
        return dict(ray.get(self.shared.used.remote()))


class _WriteUnits:
    """An actor that holds a writer and finishes one unit after another."""

    def __init__(self, config: Config, work: Work, wanted: dict[str, Any], revision: str | None, budget: Any) -> None:
        enter_worker(config.cluster)
        self.work, self.wanted, self.revision = work, wanted, revision
        device, shared = device_of(config.cluster), _SharedBudget(budget)
        self.build = lambda revision: build_writer(config.writer, revision=revision, budget=shared, device=device)
        self.writer: Writer | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        with user_errors_as_raised():
            # The writer is not built in the constructor: Ray would retry it, and report its errors
            # in words of its own.
            if self.revision is not None and self.writer is None:
                self.writer = self.build(self.revision)
            for uri, items in zip(batch["uri"], batch["items"], strict=True):
                unit = artifacts.written_unit(uri, items, decided_by=self.wanted)
                if not unit.is_made():
                    with unit.write() as draft:
                        records = self.work(self.writer, json.loads(items))
                        write_shard(str(draft.path / WRITTEN_UNIT_FILE), records)
        return batch
