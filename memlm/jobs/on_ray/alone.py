"""Lease that lets one driver at a time work on a part of a run: two would do its work twice and
corrupt each other's states."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from memlm import storage
from memlm.jobs.on_ray.console import say

LEASE_SECONDS = 10.0
"""Silence after which another driver may take this one's place: shorter than Ray's start."""


@contextmanager
def alone(uri: str, *, ttl_seconds: float | None = None) -> Iterator[storage.Lease]:
    """Hold the lease at `uri` for the block. If another driver died, wait until its lease expires.

    Raises LeaseHeld, naming the other driver, if that one is alive. Workers get the lease's holder,
    and check it before they write.
    """
    taking = partial(
        storage.lease,
        uri,
        owner=f"process {os.getpid()} on {socket.gethostname()}",
        ttl_seconds=ttl_seconds or LEASE_SECONDS,
    )
    with ExitStack() as stack:
        try:
            lease = stack.enter_context(taking())
        except storage.LeaseHeld as error:
            wait_seconds = (ttl_seconds or LEASE_SECONDS) + 2
            say(f"waiting at most {wait_seconds:.0f} s for the lease: {error}")
            lease = stack.enter_context(taking(wait_seconds=wait_seconds))
        yield lease
