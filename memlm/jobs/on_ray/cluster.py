"""How does a job get its Ray cluster? A local one of its own, or the one it was submitted to."""

import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from memlm.config import IN_JOB, Config
from memlm.credentials import without_secrets
from memlm.jobs.on_ray.local_ray import only_for_this_user, turn_off_uv_hook
from memlm.jobs.on_ray.resources import require_resources
from memlm.outside import visible
from memlm.run import RunError

NAMESPACE = "memlm"

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
        with _console():
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


class _Console:
    """Collects what workers say until the driver prints it."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def drain(self) -> list[str]:
        lines, self.lines = self.lines, []
        return lines


@contextmanager
def _console() -> Iterator[None]:
    # One per driver, found by workers through the job id that they share with it.
    console = beside_driver(_Console, _console_name()).remote()
    done = threading.Event()

    def pump() -> None:
        while not done.wait(0.5):
            for line in ray.get(console.drain.remote()):
                print(line, flush=True)

    pumping = threading.Thread(target=pump, daemon=True)
    pumping.start()
    try:
        yield
    finally:
        done.set()
        pumping.join(timeout=5)
        for line in ray.get(console.drain.remote()):
            print(line, flush=True)


def beside_driver(actor: type, name: str) -> Any:
    """What makes the actor on the driver's own node: other nodes may be lost, and the job must
    not end with them."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(actor).options(name=name, num_cpus=0, scheduling_strategy=here)


def _console_name() -> str:
    return f"console-{ray.get_runtime_context().get_job_id()}"


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


def say(text: str) -> None:
    """A line of progress, from the driver or from any worker."""
    line = f"[{time.strftime('%H:%M:%S')}] {visible(without_secrets(text))}"
    if ray.is_initialized() and ray.get_runtime_context().worker.mode == ray.WORKER_MODE:
        ray.get_actor(_console_name(), namespace=NAMESPACE).say.remote(line)
    else:
        print(line, flush=True)


class SaidWarnings(logging.Handler):
    """Warnings of our own, such as of a disk that is full, said to whoever waits for the job."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        say(f"warning: {record.getMessage()}")


class Progress:
    """Says how far a stage is and how long the rest will take."""

    def __init__(self, what: str, total: int, *, done: int = 0, every_seconds: float = 5.0) -> None:
        """`done` was done before, in no time."""
        self.what, self.total, self.every_seconds = what, total, every_seconds
        self.done = self.first = done
        self.began = self.said = time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count
        now = time.monotonic()
        if self.done < self.total and now - self.said < self.every_seconds:
            return
        self.said = now
        elapsed = now - self.began
        rest = elapsed / (self.done - self.first) * (self.total - self.done)
        say(f"{self.what}: {self.done}/{self.total} in {elapsed:.0f} s, about {rest:.0f} s to go{note and '; ' + note}")


class WorkerError(Exception):
    """An error on its way from a worker to the driver, behind which Ray Data finds no message to
    write advice of its own into."""

    def __init__(self, cause: Exception, *notes: str) -> None:
        super().__init__(cause, *notes)
        self.cause = cause


@contextmanager
def handing_on_errors() -> Iterator[None]:
    """Around what Ray Data calls in a worker: the driver is told what the user can mend as it
    was raised."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise WorkerError(error) from error


def quiet() -> None:
    """Libraries' notices that a user can do nothing about. Imports none of them: what is
    imported later reads the environment, but for Ray Data, after which this is to be called
    again."""
    warnings.filterwarnings("ignore")
    ours = logging.getLogger("memlm")
    if not any(isinstance(handler, SaidWarnings) for handler in ours.handlers):
        ours.addHandler(SaidWarnings())
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if (transformers := sys.modules.get("transformers")) is not None:
        transformers.utils.logging.disable_progress_bar()
    for name in ("ray", "ray.train", "ray.tune", "deepspeed", "DeepSpeed", "mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # logs with its own frames what it raises anyway
    if "ray.data" in sys.modules:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.raise_original_map_exception = True
