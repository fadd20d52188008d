"""How does a job get its Ray cluster? A local one of its own, or the one it was submitted to."""

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from typing import Any

import ray

from memlm.config import IN_JOB, Config
from memlm.credentials import without_secrets
from memlm.jobs.on_ray.actors import NAMESPACE
from memlm.jobs.on_ray.console import console, quiet, say
from memlm.jobs.on_ray.local_ray import only_for_this_user, turn_off_uv_hook
from memlm.jobs.on_ray.resources import require_resources
from memlm.run import RunError

# glibc returns large freed blocks to the system at once and faults them in again; on a CPU that
# costs training up to a third.
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
    """Ray for the length of the context: the cluster of the submitted job, else a local one.

    Already connected, as when one job runs inside another's process, it changes nothing.
    """
    if ray.is_initialized():
        yield
        return
    quiet()
    environment = {**WORKER_ENVIRONMENT, "OMP_NUM_THREADS": str(config.cluster.threads_per_worker)}
    started = time.monotonic()
    say("starting Ray" if not os.environ.get(IN_JOB) else "joining the cluster")
    # What workers print stays in Ray's logs, most of it libraries' chatter; what they say comes
    # through the console.
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": NAMESPACE}
    with ExitStack() as until_the_end:
        if os.environ.get(IN_JOB):
            turn_off_uv_hook()
            with joining():
                ray.init(runtime_env={"env_vars": environment}, **settings)
        else:
            until_the_end.enter_context(only_for_this_user(say))
            _start_local(config, environment, settings)
        until_the_end.callback(ray.shutdown)
        require_resources(config, say)
        with console():
            say(f"Ray {version('ray')} is up after {time.monotonic() - started:.0f} s")
            yield


def _start_local(config: Config, environment: Mapping[str, str], settings: Mapping[str, Any]) -> None:
    for name, value in {**environment, "RAY_BACKEND_LOG_LEVEL": "fatal"}.items():
        os.environ.setdefault(name, value)
    # CPUs are logical: workers hold one each, and so do the tasks that start them, so a small
    # machine declares a few more.
    num_cpus = logical_cpus(config)
    # Weights, materials and background counts, and what else trials share.
    store = (1 << 29) + config.sweep.trunk_cache_bytes
    with starting():
        ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, object_store_memory=store, **settings)


@contextmanager
def joining() -> Iterator[None]:
    """Raises RunError, with the remedy, where the cluster is not to be joined: Ray's own errors
    fill a page."""
    try:
        yield
    except ray.exceptions.AuthenticationError as error:
        raise RunError(
            "the cluster does not accept this token: it has expired or is another cluster's. Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH "
            "to a file with the token that the cluster was started with"
        ) from error
    except (ConnectionError, RuntimeError) as error:
        raise no_answer(error) from error


def no_answer(error: Exception) -> RunError:
    """What Ray's clients raise, as one line with the remedy."""
    line = next(iter(str(error).splitlines()), type(error).__name__)
    first = without_secrets(line).partition(". ")[0].rstrip(".")  # what follows is advice on Ray's installation
    return RunError(
        f"the cluster does not answer, or does not accept this token ({first}). Start it, correct RAY_ADDRESS, or set RAY_AUTH_MODE=token, "
        "and RAY_AUTH_TOKEN_PATH to a file with the token that the cluster was started with"
    )


@contextmanager
def starting() -> Iterator[None]:
    """Raises RunError, with the remedy, where Ray's temporary folder has a path too long for the
    sockets in it."""
    try:
        yield
    except OSError as error:
        if "AF_UNIX path length" not in str(error):
            raise
        folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
        raise RunError(
            f"Ray's temporary folder {folder} has too long a path: its sockets' paths may have 107 bytes in all. Set the environment variable "
            "RAY_TMPDIR to an existing folder with a path of at most 20 characters, such as /tmp"
        ) from error


def logical_cpus(config: Config) -> int:
    """That a local Ray is told of."""
    return max(4, num_cpus_here(), 2 * config.cluster.num_workers + 1, config.cluster.num_trials_at_once + 1)


def num_cpus_here() -> int:
    """Of this process, which may have been given fewer than the machine has."""
    return len(os.sched_getaffinity(0))


def num_processors(config: Config) -> int:
    """Tasks side by side: what the config says, or one a GPU, or one per so many CPUs as a task
    has threads.

    On one machine its real CPUs count, not the logical ones that Ray was told of.
    """
    if config.cluster.num_trials_at_once:
        return config.cluster.num_trials_at_once
    if config.cluster.use_gpu:
        return max(1, int(ray.cluster_resources().get("GPU", 1)))
    one_node = sum(1 for node in ray.nodes() if node["Alive"]) == 1
    cpus = num_cpus_here() if one_node else int(ray.cluster_resources()["CPU"])
    return max(1, cpus // config.cluster.threads_per_worker)
