"""How does a job get its Ray cluster? A local one of its own, or the one it was submitted to."""

import logging
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

import ray
import ray.data

from memlm.config import Config

IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray in the driver of a submitted job."""

# glibc returns large freed blocks to the system at once and faults them in again; on a CPU that costs training up to a third.
WORKER_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(1 << 26),
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # else relative paths in workers point into Ray's session folder
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",  # importing torch and DeepSpeed on a slow machine
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONWARNINGS": "ignore",
    "TRANSFORMERS_VERBOSITY": "error",
}


@contextmanager
def connect(config: Config) -> Iterator[None]:
    """Ray for the length of the context: the cluster of the submitted job or of RAY_ADDRESS, else a local one.

    Already connected, as when one job runs inside another's process, it changes nothing.
    """
    if ray.is_initialized():
        yield
        return
    environment = {**WORKER_ENVIRONMENT, "OMP_NUM_THREADS": str(config.cluster.threads_per_worker)}
    started = time.monotonic()
    if os.environ.get(IN_JOB) or os.environ.get("RAY_ADDRESS"):
        ray.init(runtime_env={"env_vars": environment}, log_to_driver=True, logging_level=logging.WARNING)
    else:
        for name, value in environment.items():
            os.environ.setdefault(name, value)
        # Trials hold a CPU each, and so do the drivers that start them; CPUs are logical, so a small machine declares a few more.
        ray.init(
            address="local",
            num_cpus=max(4, os.cpu_count() or 1),
            include_dashboard=False,
            object_store_memory=1 << 29,
            log_to_driver=True,
            logging_level=logging.WARNING,
        )
    quiet()
    say(f"Ray {version('ray')} is up after {time.monotonic() - started:.0f} s")
    try:
        yield
    finally:
        ray.shutdown()


def num_processors(config: Config) -> int:
    """Tasks side by side: what the config says, or one a GPU, or one per so many CPUs as a task has threads.

    On one machine its real CPUs count, not the logical ones that Ray was told of.
    """
    if config.cluster.num_trials_at_once:
        return config.cluster.num_trials_at_once
    if config.cluster.use_gpu:
        return max(1, int(ray.cluster_resources().get("GPU", 1)))
    one_node = sum(1 for node in ray.nodes() if node["Alive"]) == 1
    cpus = (os.cpu_count() or 1) if one_node else int(ray.cluster_resources()["CPU"])
    return max(1, cpus // config.cluster.threads_per_worker)


def say(text: str) -> None:
    """A line of progress."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


class Progress:
    """Says how far a stage is and how long the rest will take."""

    def __init__(self, what: str, total: int, *, every_seconds: float = 5.0) -> None:
        self.what, self.total, self.every_seconds = what, total, every_seconds
        self.done = 0
        self.began = self.said = time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count
        now = time.monotonic()
        if self.done < self.total and now - self.said < self.every_seconds:
            return
        self.said = now
        elapsed = now - self.began
        rest = elapsed / self.done * (self.total - self.done)
        say(f"{self.what}: {self.done}/{self.total} in {elapsed:.0f} s, about {rest:.0f} s to go{note and '; ' + note}")


def quiet() -> None:
    """Libraries' notices that a user can do nothing about."""
    warnings.filterwarnings("ignore")
    for name in ("ray", "ray.data", "ray.train", "ray.tune", "deepspeed", "DeepSpeed", "mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
