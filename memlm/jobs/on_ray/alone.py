"""One driver at a time: two commands on one run would do its work twice, and spoil each other's
states."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from memlm import storage
from memlm.jobs.on_ray.console import say

LEASE_SECONDS = 10.0
"""How long a driver may be silent before another one may take its place: less than Ray takes to
start."""


@contextmanager
def alone(uri: str, *, ttl_seconds: float | None = None) -> Iterator[storage.Lease]:
    """The lease at `uri` for the block. A driver that died without a word is waited for, until
    its lease is over.

    Raises LeaseHeld, naming the other driver, where that one lives. Workers are given the
    lease's holder, and ask it before they write.
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
