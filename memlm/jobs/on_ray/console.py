"""Console of a command: lines from the driver and its workers, without the libraries' notices."""

import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from memlm.credentials import without_secrets
from memlm.jobs.on_ray.actors import find_actor, on_driver_node
from memlm.outside import visible


def say(text: str) -> None:
    """Print a line of progress, from the driver or from any worker."""
    line = f"[{time.strftime('%H:%M:%S')}] {visible(without_secrets(text))}"
    if ray.is_initialized() and ray.get_runtime_context().worker.mode == ray.WORKER_MODE:
        find_actor(_console_name()).say.remote(line)
    else:
        print(line, flush=True)


class Progress:
    """Progress of a stage: prints how far it is and how long the rest will take."""

    def __init__(self, what: str, total: int, *, done: int = 0, every_seconds: float = 5.0) -> None:
        """`done` units are already done; they do not count for the speed."""
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


class ConsoleWarnings(logging.Handler):
    """Handler that prints memlm's own warnings, such as of a full disk, on the console."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        say(f"warning: {record.getMessage()}")


def quiet() -> None:
    """Silence notices of libraries that a user can do nothing about. Imports no library: one that
    is imported later reads the environment, except for Ray Data, after whose import this must be
    called again."""
    warnings.filterwarnings("ignore")
    ours = logging.getLogger("memlm")
    if not any(isinstance(handler, ConsoleWarnings) for handler in ours.handlers):
        ours.addHandler(ConsoleWarnings())
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if (transformers := sys.modules.get("transformers")) is not None:
        transformers.utils.logging.disable_progress_bar()
    for name in ("ray", "ray.train", "ray.tune", "deepspeed", "DeepSpeed", "mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # it logs errors that it also raises
    if "ray.data" in sys.modules:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.raise_original_map_exception = True


@contextmanager
def console() -> Iterator[None]:
    # One per driver; workers find it by their common job id.
    console = on_driver_node(_Console, _console_name()).remote()
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


class _Console:
    """Actor that collects lines from workers until the driver prints them."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def drain(self) -> list[str]:
        lines, self.lines = self.lines, []
        return lines


def _console_name() -> str:
    return f"console-{ray.get_runtime_context().get_job_id()}"
