"""Advance notice of a stop, so that pretraining can save its state. All ranks learn of it after the
same step.

    SIGTERM to the driver -> an actor that workers find by name -> rank 0 asks it once a second
    node about to be removed (spot notice, `ray drain-node`) -> Ray Train, which any rank may ask

After SIGTERM the workers save a state and the driver ends. A node that is removed takes its workers
with it, and the run continues without that node from the saved state. SIGTERM must reach the driver
alone (systemd: KillMode=mixed): if Ray's own processes receive it too, they end before anything is
saved.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import ray
import ray.train
import torch
import torch.distributed as dist

from memlm.jobs.on_ray.actors import find_actor, on_driver_node
from memlm.jobs.on_ray.console import say

STOP_POLL_SECONDS = 1.0
NODES_POLL_SECONDS = 5.0
"""Ray Train itself looks for nodes about to be removed at this interval."""


class Notice(IntEnum):
    """Notice that all ranks have after a step."""

    NONE = 0
    NODE_LEAVING = 1
    STOP = 2


_waiting: set[threading.Event] = set()
"""One event for each pretraining that this process waits for; SIGTERM sets them all."""


@contextmanager
def forward_sigterm_to_threads() -> Iterator[None]:
    """Forward SIGTERM to pretrainings that other threads wait for, while the block runs in the main
    thread, the only one that receives signals.

    Raises KeyboardInterrupt after the block if SIGTERM came, even if no pretraining was running.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stop = threading.Event()

    def set_all(*_: object) -> None:
        stop.set()
        for event in list(_waiting):
            event.set()

    before = signal.signal(signal.SIGTERM, set_all)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
    if stop.is_set():
        raise KeyboardInterrupt


class _StopFlag:
    """Actor on the driver's node that tells workers whether to stop."""

    def __init__(self) -> None:
        self.stop = False

    def set(self) -> None:
        self.stop = True

    def is_set(self) -> bool:
        return self.stop


@contextmanager
def forward_sigterm(name: str, seconds: float) -> Iterator[None]:
    """Forward SIGTERM to the workers while the driver waits for them: they save a state and end.
    After `seconds` the driver ends them anyway.

    Each worker has a Watch of the same `name`. Outside the main thread the signal comes through
    `forward_sigterm_to_threads`.
    """
    flag = on_driver_node(_StopFlag, name).remote()
    stop, over = threading.Event(), threading.Event()

    def forward() -> None:
        stop.wait()
        if over.is_set():
            return
        say(f"asked to stop: saving a state, for at most {seconds:.0f} s")
        flag.set.remote()
        if not over.wait(seconds):
            say(f"no state was saved within {seconds:.0f} s; stopping with the previous one")
            os.kill(os.getpid(), signal.SIGINT)  # Ray Train ends its workers on this signal

    threading.Thread(target=forward, name="notice", daemon=True).start()
    in_main_thread = threading.current_thread() is threading.main_thread()
    # The handler only sets an event: it runs between two instructions of the main thread, where a
    # call to Ray could deadlock.
    before = signal.signal(signal.SIGTERM, lambda *_: stop.set()) if in_main_thread else None
    _waiting.add(stop)
    try:
        yield
    finally:
        _waiting.discard(stop)
        if in_main_thread:
            signal.signal(signal.SIGTERM, before)
        over.set()
        stop.set()
        ray.kill(flag)


class Watch:
    """A worker's view of the notices. Every rank must call `after_step` after each step."""

    def __init__(self, name: str, device: torch.device) -> None:
        self._name, self._device = name, device
        self._stop = threading.Event()
        self._asked = time.monotonic()
        self._known_leaving: set[str] = set()
        if dist.get_rank() == 0:
            threading.Thread(target=self._poll, name="notice", daemon=True).start()

    def _poll(self) -> None:
        flag = find_actor(self._name)
        try:
            while not ray.get(flag.is_set.remote()):
                time.sleep(STOP_POLL_SECONDS)
        except ray.exceptions.RayActorError:  # the driver no longer waits, or is gone
            return
        self._stop.set()

    def after_step(self) -> Notice:
        """The notice, the same on every rank."""
        due = dist.get_rank() == 0 and time.monotonic() - self._asked > NODES_POLL_SECONDS
        flags = torch.tensor([float(self._stop.is_set()), float(due)], device=self._device)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        stop, ask_nodes = flags.tolist()
        if stop:
            return Notice.STOP
        if ask_nodes:
            self._asked = time.monotonic()
            leaving = ray.train.get_preemption_info()  # waits for all ranks
            if leaving is not None and not set(leaving.preempted_node_ids) <= self._known_leaving:
                self._known_leaving |= set(leaving.preempted_node_ids)
                return Notice.NODE_LEAVING
        return Notice.NONE
