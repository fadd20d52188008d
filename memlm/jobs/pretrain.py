"""Pretraining, the driver's side: it holds the lease, starts the Ray Train workers
(`pretrain_worker.py`) and reports their errors."""

import os
import time

import ray.train
from ray.train.torch import TorchTrainer

from memlm import artifacts, storage
from memlm.artifact import Artifact
from memlm.config import IN_JOB, Config
from memlm.jobs.on_ray.alone import alone
from memlm.jobs.on_ray.checks import require_ready
from memlm.jobs.on_ray.cluster import connect
from memlm.jobs.on_ray.console import say
from memlm.jobs.on_ray.notice import forward_sigterm
from memlm.jobs.on_ray.ray_files import ray_storage
from memlm.jobs.on_ray.rendezvous import torch_config
from memlm.jobs.on_ray.resources import report_shortage
from memlm.jobs.on_ray.workers import worker_resources
from memlm.jobs.preparing.base_checkpoints import make_base, make_with_memory
from memlm.jobs.pretrain_worker import EXPERIMENT, WorkerTask, require_room, train_worker
from memlm.kinds import CONTROL_KIND
from memlm.run import RunError, run_of, tracking_uri
from memlm.tracking import Tracker
from memlm.training.goodput import START_NAMES

LEASE_SECONDS = 30.0
"""Silence after which another driver may take this one's place."""
MAX_FAILED_STARTS = 12
"""Starts of a worker group that may fail for lack of room, five minutes each: lost nodes have an
hour to be replaced."""


def run(config: Config) -> str:
    """Pretrain the architecture, resume it, or reuse its checkpoint; return the checkpoint's uri.
    With a base, the dense twin is the base itself, and the memory alone is trained: it is attached,
    and its keys are fitted, before the first step."""
    require_ready(config)
    architecture = config.architecture
    if config.model.base and architecture == "dense":
        return make_base(config).uri
    if config.model.base:
        attached = make_with_memory(config)
        if not config.pretraining.num_steps:
            return attached.uri
    checkpoint = artifacts.checkpoint(config, architecture).pinned()
    _make(config, checkpoint, architecture)
    if config.model.base and config.pretraining.control:
        _make(config, artifacts.control(config).pinned(), CONTROL_KIND)
    return checkpoint.uri


def failed_gates(config: Config) -> list[str]:
    """The gates that the run's memory checkpoint fails, if it is a base's."""
    if not config.model.base or config.architecture == "dense":
        return []
    return list(artifacts.checkpoint(config, "memory").manifest().details["gates"]["failed"])


def _make(config: Config, checkpoint: Artifact, name: str) -> None:
    """Train what becomes the checkpoint, an architecture or the control, unless it exists."""
    run = run_of(config)

    def is_there() -> bool:
        made = checkpoint.is_made()
        if made:
            say(f"pretrain {name}: reusing {checkpoint.uri}")
        return made

    if is_there():
        return
    if not os.environ.get(IN_JOB) and not config.cluster.use_gpu:  # then the workers run on this machine
        require_room(config, workers_here=config.cluster.num_workers)
    Tracker(tracking_uri(config), EXPERIMENT)  # fails early if the tracking server does not answer
    with connect(config), alone(run.pretraining_lease(name), ttl_seconds=LEASE_SECONDS) as lease:
        if is_there():  # another driver made it meanwhile
            return
        task = WorkerTask(
            config=config,
            checkpoint=checkpoint,
            trained=name,
            training_states=run.training_states(name),
            tracking=tracking_uri(config),
            session=time.time(),
            holder=lease.holder,
        )
        folder, record = run.ray_records, f"{config.run_name}-{name}-{time.time_ns()}"
        try:
            with forward_sigterm(task.notice, config.cluster.notice_seconds), report_shortage(config, say):
                diverged = _trainer(task, name=record, folder=folder).fit().return_value
        except (ray.train.WorkerGroupError, ray.train.ControllerError) as error:
            first = next(iter(error.worker_failures.values())) if hasattr(error, "worker_failures") else error
            raise RunError(
                f"pretraining the {name} model failed: {_root(first)}; the states saved in {task.training_states} are kept"
            ) from error
        storage.delete(storage.join(folder, record))  # Ray's own records, which nothing reads
        if diverged:
            raise RunError(
                f"pretraining the {name} model diverged: {diverged}; no checkpoint is made of it, and the states saved before "
                f"are kept in {task.training_states}"
            )
        if not checkpoint.is_there():
            task.holder.require()
            raise Interrupted  # the workers or Ray handled the signal, and fit() returned as after success
        storage.delete_made(task.training_states, loose=START_NAMES)


class Interrupted(KeyboardInterrupt):
    """Raised after a stop signal, once the newest state is saved."""


def _trainer(task: WorkerTask, *, name: str, folder: str) -> TorchTrainer:
    config = task.config
    return TorchTrainer(
        train_worker,
        train_loop_config={"task": task},
        torch_config=torch_config(),
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.cluster.num_workers,
            use_gpu=config.cluster.use_gpu,
            resources_per_worker=worker_resources(config.cluster),
        ),
        run_config=ray.train.RunConfig(
            name=name,
            **ray_storage(folder),
            failure_config=ray.train.FailureConfig(
                max_failures=config.cluster.max_failures, controller_failure_limit=MAX_FAILED_STARTS
            ),
        ),
    )


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
