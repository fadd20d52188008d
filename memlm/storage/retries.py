"""What is tried again, how often, and for how long?

One place decides: the SDK's own retries are off, because they end where a body begins. Pauses
have full jitter, so that a thousand workers that failed together don't come back together.
"""

import itertools
import logging
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeVar

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0
"""Seconds; the bound of the pause doubles from the one to the other."""

T = TypeVar("T")
log = logging.getLogger(__name__)
_jitter = random.SystemRandom()  # nobody's seeded stream is touched


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long one request, or one part of a large file, is held on to."""

    attempts: int = field(default_factory=lambda: int(os.environ.get("AWS_MAX_ATTEMPTS") or 12))
    connect_seconds: float = 5
    silence_seconds: float = 30
    """Without a byte."""
    least_bytes_per_second: float = 100_000
    """What a body must come at once `silence_seconds` are over; a trickle counts as a stall."""
    deadline_seconds: float = 600
    """After that no attempt begins."""


_patience: ContextVar[Patience | None] = ContextVar("patience", default=None)


def patience() -> Patience:
    return _patience.get() or Patience()


@contextmanager
def patient(changed: Patience) -> Iterator[None]:
    """Within the block (and tasks that run in copies of its context) requests are held on to for
    as long as said."""
    token = _patience.set(changed)
    try:
        yield
    finally:
        _patience.reset(token)


def call(action: Callable[[], T], is_transient: Callable[[Exception], bool]) -> T:
    """The first result of `action`; its error when that is not transient or patience has run
    out."""
    limit, began = patience(), time.monotonic()
    for attempt in itertools.count(1):
        try:
            return action()
        except Exception as error:
            pause = _jitter.uniform(0, min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (attempt - 1)))
            out_of_time = time.monotonic() + pause - began > limit.deadline_seconds
            if attempt >= limit.attempts or out_of_time or not is_transient(error):
                raise
            log.debug("attempt %d failed with %s", attempt, type(error).__name__)
            time.sleep(pause)
    raise AssertionError("unreachable")
