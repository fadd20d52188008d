"""How does a notice of the end reach training, so that it can save what it has? All ranks learn
of it at the same step.

    SIGTERM to the driver -> Notice, an actor that workers know by name -> rank 0 asks it once a
    second a node about to go (a spot notice, `ray drain-node`) -> Ray Train, which any rank may
    ask

A driver that is told to stop has its workers save, and ends; a node that goes takes its workers
along, and the run goes on without it from what was saved. SIGTERM must reach the driver alone
(systemd: KillMode=mixed): a Ray that gets it too is gone before anything is saved.
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

from memlm.jobs.on_ray.actors import NAMESPACE, beside_driver
from memlm.jobs.on_ray.console import say

ASK_NOTICE_SECONDS = 1.0
ASK_NODES_SECONDS = 5.0
"""As often as Ray Train itself looks which nodes are about to go."""


class Told(IntEnum):
    """What all ranks know after a step."""

    NOTHING = 0
    NODE_GOES = 1
    STOP = 2


_waiting: set[threading.Event] = set()
"""Set by SIGTERM: one for each pretraining that this process waits for."""


@contextmanager
def sigterm_passed_on() -> Iterator[None]:
    """In the main thread, which alone may heed signals, around pretrainings that other threads
    wait for. Raises KeyboardInterrupt after a SIGTERM that came while there was none to tell."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    told = threading.Event()

    def tell(*_: object) -> None:
        told.set()
        for event in list(_waiting):
            event.set()

    before = signal.signal(signal.SIGTERM, tell)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
    if told.is_set():
        raise KeyboardInterrupt


class _Notice:
    def __init__(self) -> None:
        self.given = False

    def give(self) -> None:
        self.given = True

    def is_given(self) -> bool:
        return self.given


@contextmanager
def heeding_sigterm(name: str, seconds: float) -> Iterator[None]:
    """Around the driver's wait for its workers: SIGTERM asks them to save and end; after so many
    seconds they are ended anyway.

    `name` is what a worker's Watch asks for. In another thread than the main one it hears from
    `sigterm_passed_on`.
    """
    notice = beside_driver(_Notice, name).remote()
    told, over = threading.Event(), threading.Event()

    def pass_on() -> None:
        told.wait()
        if over.is_set():
            return
        say(f"told to stop: saving a state, for {seconds:.0f} s at most")
        notice.give.remote()
        if not over.wait(seconds):
            say(f"no state was saved within {seconds:.0f} s; stopping with the one before")
            os.kill(os.getpid(), signal.SIGINT)  # which Ray Train knows how to end for

    threading.Thread(target=pass_on, name="notice", daemon=True).start()
    heeding = threading.current_thread() is threading.main_thread()
    # A signal comes between two instructions of the main thread, where a call to Ray could wait
    # for itself.
    before = signal.signal(signal.SIGTERM, lambda *_: told.set()) if heeding else None
    _waiting.add(told)
    try:
        yield
    finally:
        _waiting.discard(told)
        if heeding:
            signal.signal(signal.SIGTERM, before)
        over.set()
        told.set()
        ray.kill(notice)


class Watch:
    """A worker's side. Every rank must call `after_step` after each step."""

    def __init__(self, name: str, device: torch.device) -> None:
        self._name, self._device = name, device
        self._stop = threading.Event()
        self._asked = time.monotonic()
        self._known_to_go: set[str] = set()
        if dist.get_rank() == 0:
            threading.Thread(target=self._ask, name="notice", daemon=True).start()

    def _ask(self) -> None:
        notice = ray.get_actor(self._name, namespace=NAMESPACE)
        try:
            while not ray.get(notice.is_given.remote()):
                time.sleep(ASK_NOTICE_SECONDS)
        except ray.exceptions.RayActorError:  # the driver's wait is over, or the driver is gone
            return
        self._stop.set()

    def after_step(self) -> Told:
        """The same on every rank."""
        due = dist.get_rank() == 0 and time.monotonic() - self._asked > ASK_NODES_SECONDS
        flags = torch.tensor([float(self._stop.is_set()), float(due)], device=self._device)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        stop, ask_nodes = flags.tolist()
        if stop:
            return Told.STOP
        if ask_nodes:
            self._asked = time.monotonic()
            going = ray.train.get_preemption_info()  # waits for all ranks
            if going is not None and not set(going.preempted_node_ids) <= self._known_to_go:
                self._known_to_go |= set(going.preempted_node_ids)
                return Told.NODE_GOES
        return Told.NOTHING
