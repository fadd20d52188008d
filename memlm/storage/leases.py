"""Who alone may write, and since when? So that of two trainers of one run, the one that only seems dead stays harmless.

A lease is one small object: owner, epoch, time to live. Every change of it is a conditional write over the version that
was read, so two can't both succeed:

    acquire  nothing there: epoch 1 | released, or unchanged for its time to live: epoch + 1 | else LeaseHeld
    renew    over our own version: it proves that we hold it at this moment; else LeaseLost, for good
    release  over our own version; the epoch stays for the next to count on

Time is the store's own (now less last modified), so nodes' clocks may differ. A holder that was stopped for longer than
its time to live finds at its next renewal that another epoch began; `write_artifact(lease=...)` renews just before it
commits. What no lease excludes is a commit that is on the way for longer than that: it is then still one whole artifact
of the same config, with its own epoch in the details.
"""

import json
import logging
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from memlm.storage.errors import DamagedArtifact, LeaseHeld, LeaseLost, StorageError
from memlm.storage.local import Found
from memlm.storage.manifests import encode
from memlm.storage.objects import store_of

log = logging.getLogger(__name__)
CLOCK_STEP = 1
"""Second: HTTP's dates have no finer one, so a lease is taken over that much later."""


@dataclass
class Lease:
    """The right to write, held since `epoch` began. Threads may share it; make one with `lease` or `acquire`."""

    uri: str
    owner: str
    epoch: int
    ttl_seconds: float
    _bodies: set[bytes]
    """What we wrote last, or tried to."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def renew(self) -> None:
        """Hold it for another `ttl_seconds`. Raises LeaseLost when another has taken over, or it was released."""
        self._change(released=False)

    def release(self) -> None:
        """Let the next have it at once. Raises LeaseLost when another has it already."""
        self._change(released=True)

    def _change(self, *, released: bool) -> None:
        store = store_of(self.uri)
        with self._lock:
            found = store.read(self.uri)
            if found is not None and found.body in self._bodies and not json.loads(found.body)["released"]:
                body = _encode(self.owner, self.epoch, self.ttl_seconds, released=released)
                # Before it is sent: what nobody acknowledges may be there all the same.
                self._bodies = {found.body, body}
                if store.replace(self.uri, body, found.version):
                    return
                found = store.read(self.uri)
            raise LeaseLost(
                "lease",
                self.uri,
                f"epoch {self.epoch} of {self.owner} is over; now {_described(found)}",
                "End this process: another goes on with its work.",
            )


def acquire(uri: str, *, owner: str, ttl_seconds: float = 60, wait_seconds: float = 0) -> Lease:
    """Take the lease at `uri`, waiting at most so long for another to release it or to fall silent. LeaseHeld if not."""
    if not ttl_seconds > 0:
        raise StorageError("ttl_seconds", ttl_seconds, "must be positive", "Give seconds, several times a renewal's.")
    store, began = store_of(uri), time.monotonic()
    while True:
        found = store.read(uri, with_age=True)
        if found is None:
            body = _encode(owner, epoch=1, ttl_seconds=ttl_seconds)
            if store.create(uri, body):
                return Lease(uri, owner, 1, ttl_seconds, {body})
            continue
        record = _decode(found, uri)
        left = 0 if record["released"] else record["ttl_seconds"] + CLOCK_STEP - found.age_seconds
        if left <= 0:
            body = _encode(owner, record["epoch"] + 1, ttl_seconds)
            if store.replace(uri, body, found.version):
                return Lease(uri, owner, record["epoch"] + 1, ttl_seconds, {body})
            continue
        if time.monotonic() - began >= wait_seconds:
            rule = f"is held by {_described(found)}; if it is dead, it ends in {left:.0f} s"
            raise LeaseHeld("lease", uri, rule, "Stop the other, or wait.")
        time.sleep(min(left, 1, max(wait_seconds - (time.monotonic() - began), 0.01)))


@contextmanager
def lease(uri: str, *, owner: str, ttl_seconds: float = 60, wait_seconds: float = 0) -> Iterator[Lease]:
    """Hold the lease at `uri` for the block, renewed in the background. Give it to `write_artifact`."""
    held = acquire(uri, owner=owner, ttl_seconds=ttl_seconds, wait_seconds=wait_seconds)
    ended = threading.Event()
    keeper = threading.Thread(target=_keep, args=(held, ended), name=f"lease {uri}", daemon=True)
    keeper.start()
    try:
        yield held
    finally:
        ended.set()
        keeper.join()
        try:
            held.release()
        except StorageError as error:
            log.warning("not released: %s", error)


def _keep(held: Lease, ended: threading.Event) -> None:
    while not ended.wait(held.ttl_seconds / 3):
        try:
            held.renew()
        except LeaseLost as error:
            log.error("%s", error)
            return
        except StorageError as error:  # the next renewal may succeed; if none does, others take over
            log.warning("not renewed: %s", error)


def _encode(owner: str, epoch: int, ttl_seconds: float, *, released: bool = False) -> bytes:
    """Each with a name of its own, so that what was read back can only be ours if we wrote it."""
    record = {"owner": owner, "epoch": epoch, "ttl_seconds": ttl_seconds, "released": released}
    return encode("lease", {**record, "write": uuid.uuid4().hex})


def _decode(found: Found, uri: str) -> dict[str, Any]:
    try:
        record: dict[str, Any] = {} if found.is_damaged else json.loads(found.body)
        if {"owner", "epoch", "ttl_seconds", "released"} <= record.keys():
            return record
    except (ValueError, AttributeError):
        pass
    raise DamagedArtifact("lease", uri, "is not a lease", "Make sure that nobody writes there, then delete it.")


def _described(found: Found | None) -> str:
    try:
        record = json.loads(found.body) if found is not None else {}
        return f"{record['owner']}, epoch {record['epoch']}" + (" (released)" if record["released"] else "")
    except (ValueError, KeyError, TypeError):
        return "nobody: it was removed"
