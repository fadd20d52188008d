"""Connection of a job to Ray: a local Ray of its own, or the cluster it was submitted to."""

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

# By default glibc returns large freed blocks to the system at once and faults them in again, which
# slows training on a CPU by up to a third.
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
    """Connect to Ray for the block: to the cluster of the submitted job, else to a local Ray.

    Does nothing if the process is already connected, as when one job runs inside another.
    """
    if ray.is_initialized():
        yield
        return
    quiet()
    environment = {**WORKER_ENVIRONMENT, "OMP_NUM_THREADS": str(config.cluster.threads_per_worker)}
    started = time.monotonic()
    say("starting Ray" if not os.environ.get(IN_JOB) else "joining the cluster")
    # Output that workers print, mostly of libraries, stays in Ray's logs; lines that they `say`
    # come through the console.
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
    # These CPUs are logical: every worker holds one, and so does every task that starts workers, so
    # a small machine declares a few more than it has.
    num_cpus = logical_cpus(config)
    # For data that trials share: weights, questions, background counts and recordings.
    store = (1 << 29) + config.sweep.trunk_cache_bytes
    with starting():
        ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, object_store_memory=store, **settings)


@contextmanager
def joining() -> Iterator[None]:
    """Raise RunError, with the remedy, if the block cannot connect; Ray's own errors fill a
    page."""
    try:
        yield
    except ray.exceptions.AuthenticationError as error:
        raise RunError(
            "the cluster does not accept this token: it has expired or belongs to another cluster. Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH "
            "to a file with the token that the cluster was started with"
        ) from error
    except (ConnectionError, RuntimeError) as error:
        raise no_answer(error) from error


def no_answer(error: Exception) -> RunError:
    """Error of one of Ray's clients, on one line and with the remedy."""
    line = next(iter(str(error).splitlines()), type(error).__name__)
    first = without_secrets(line).partition(". ")[0].rstrip(".")  # the rest is advice on installing Ray
    return RunError(
        f"the cluster does not answer, or does not accept this token ({first}). Start it, correct RAY_ADDRESS, or set RAY_AUTH_MODE=token, "
        "and RAY_AUTH_TOKEN_PATH to a file with the token that the cluster was started with"
    )


@contextmanager
def starting() -> Iterator[None]:
    """Raise RunError, with the remedy, if the path of Ray's temporary folder is too long for
    sockets."""
    try:
        yield
    except OSError as error:
        if "AF_UNIX path length" not in str(error):
            raise
        folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
        raise RunError(
            f"Ray's temporary folder {folder} has too long a path: the path of a socket in it is limited to 107 bytes. Set the environment variable "
            "RAY_TMPDIR to an existing folder with a path of at most 20 characters, such as /tmp"
        ) from error


def logical_cpus(config: Config) -> int:
    """Number of CPUs that a local Ray is configured with."""
    return max(4, num_cpus_here(), 2 * config.cluster.num_workers + 1, config.cluster.num_trials_at_once + 1)


def num_cpus_here() -> int:
    """Number of CPUs of this process, which may be fewer than the machine's."""
    return len(os.sched_getaffinity(0))


def num_processors(config: Config) -> int:
    """Number of parallel tasks: from the config, or one per GPU, or one for every
    `threads_per_worker` CPUs.

    On a single machine its real CPUs count, not the logical ones that Ray is configured with.
    """
    if config.cluster.num_trials_at_once:
        return config.cluster.num_trials_at_once
    if config.cluster.use_gpu:
        return max(1, int(ray.cluster_resources().get("GPU", 1)))
    one_node = sum(1 for node in ray.nodes() if node["Alive"]) == 1
    cpus = num_cpus_here() if one_node else int(ray.cluster_resources()["CPU"])
    return max(1, cpus // config.cluster.threads_per_worker)
