"""One driver at a time: two commands on one run would do its work twice, and spoil each other's states."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from memlm import storage
from memlm.jobs.cluster import say


@contextmanager
def alone(uri: str, *, ttl_seconds: float) -> Iterator[storage.Lease]:
    """The lease at `uri` for the block. A driver that died without a word is waited for, until its lease is over.

    Raises LeaseHeld, naming the other driver, where that one lives. Workers are given the lease's holder, and ask it
    before they write.
    """
    owner = f"process {os.getpid()} on {socket.gethostname()}"
    wait_seconds = 0.0
    while True:
        try:
            with storage.lease(uri, owner=owner, ttl_seconds=ttl_seconds, wait_seconds=wait_seconds) as lease:
                yield lease
                return
        except storage.LeaseHeld as error:
            if wait_seconds:
                raise
            wait_seconds = ttl_seconds + 2
            say(f"waiting at most {wait_seconds:.0f} s for the lease: {error}")
