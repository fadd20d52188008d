"""The retry policy: which requests are retried, how often, and for how long.

It is decided here alone. The SDK's own retries are off, because they do not cover the transfer of
a body. Pauses have full jitter, so that a thousand workers that failed together do not retry
together.
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

FIRST_PAUSE, MAX_PAUSE = 0.1, 10.0
"""Seconds; the upper bound of the pause doubles from the first to the second."""

T = TypeVar("T")
log = logging.getLogger(__name__)
_jitter = random.SystemRandom()  # independent of every seeded generator


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How long one request, or one part of a large file, is retried."""

    attempts: int = field(default_factory=lambda: int(os.environ.get("AWS_MAX_ATTEMPTS") or 12))
    connect_seconds: float = 5
    silence_seconds: float = 30
    """Longest time without a byte."""
    min_bytes_per_second: float = 100_000
    """Lowest average rate of a body after `silence_seconds`; a slower one counts as stalled."""
    deadline_seconds: float = 600
    """Time after which no further attempt begins."""


_policy: ContextVar[RetryPolicy | None] = ContextVar("retry_policy", default=None)


def current_policy() -> RetryPolicy:
    return _policy.get() or RetryPolicy()


@contextmanager
def using_policy(policy: RetryPolicy) -> Iterator[None]:
    """Apply `policy` to requests within the block, and within tasks that run in copies of its
    context."""
    token = _policy.set(policy)
    try:
        yield
    finally:
        _policy.reset(token)


def call(action: Callable[[], T], is_transient: Callable[[Exception], bool]) -> T:
    """The first result of `action`. Raises its error if that is not transient, or if the retry
    policy's limits are reached."""
    limit, began = current_policy(), time.monotonic()
    for attempt in itertools.count(1):
        try:
            return action()
        except Exception as error:
            pause = _jitter.uniform(0, min(MAX_PAUSE, FIRST_PAUSE * 2 ** (attempt - 1)))
            out_of_time = time.monotonic() + pause - began > limit.deadline_seconds
            if attempt >= limit.attempts or out_of_time or not is_transient(error):
                raise
            log.debug("attempt %d failed with %s", attempt, type(error).__name__)
            time.sleep(pause)
    raise AssertionError("unreachable")
