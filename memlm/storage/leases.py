"""Leases: the exclusive right to write. If two trainers work on one run, the one that only seemed
dead can do no harm.

A lease is one small object: its holder (owner, epoch, a random id) and its time to live. Every
change is a conditional write over the version that was read, so two writers cannot both succeed:

    acquire  no lease there: epoch 1; released, or unchanged for its time to live: epoch + 1;
             else LeaseHeld
    renew    over our own version, which proves that we hold it now; else LeaseLost, for good
    release  over our own version; the epoch stays, so that the next holder counts on

Epochs are for people to read. They start over if somebody deletes the object; only the id
identifies a holder for certain. Processes that work on behalf of a holder are given its `Holder`
and ask that.

A lease's age is measured by the store's own clock (now minus last modified), so nodes' clocks may
differ. That clock may jump too: a waiting process also watches the lease by its own monotonic
clock, and takes it over at the latest once it has been unchanged for its time to live. A holder
that was paused for longer than its time to live finds at its next renewal that another epoch has
begun; those who work for it ask its `Holder` before they commit. No lease excludes a commit that
is in transit for longer than that: its result is still one complete artifact of the same config.
"""

import json
import logging
import math
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
MAX_TTL_SECONDS = 7 * 24 * 3600.0
"""Longest accepted time to live. A longer one was not written by memlm, and would lock a run for
as long."""
CLOCK_STEP = 1
"""Seconds added to a lease's time to live, because HTTP dates are only accurate to one second."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The holder of a lease, in a form that can be given to other processes that work for it."""

    uri: str
    owner: str
    epoch: int
    id: str
    """Random and never reused, not even after the lease was deleted."""

    def holds(self) -> bool:
        """Whether it still has the lease. Raises StorageError if the storage does not answer."""
        found = store_of(self.uri).read(self.uri)
        try:
            record = _decode(found, self.uri) if found is not None else _NO_HOLDER
        except DamagedArtifact:  # the holder could not renew it either
            return False
        return not record["released"] and _holder_of(record, self.uri) == self

    def require(self) -> None:
        """Raise LeaseLost if it no longer has the lease, StorageError if the storage does not
        answer."""
        if not self.holds():
            raise self.lost(store_of(self.uri).read(self.uri))

    def lost(self, now: Found | None) -> LeaseLost:
        rule = f"epoch {self.epoch} of {self.owner} is over; now {_described(now)}"
        return LeaseLost("lease", self.uri, rule, "End this process: another one has taken over its work.")


@dataclass
class Lease:
    """The right to write, held since `epoch` began. Threads may share it. Make one with `lease`
    or `acquire`."""

    holder: Holder
    ttl_seconds: float
    _bodies: set[bytes]
    """The contents that we wrote last, or tried to write."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def uri(self) -> str:
        return self.holder.uri

    @property
    def epoch(self) -> int:
        return self.holder.epoch

    def renew(self) -> None:
        """Hold it for another `ttl_seconds`. Raises LeaseLost if another holder has taken over, or
        if it was released."""
        self._change(released=False)

    def release(self) -> None:
        """Make it available to the next holder at once. Raises LeaseLost if another holds it
        already."""
        self._change(released=True)

    def _change(self, *, released: bool) -> None:
        store = store_of(self.uri)
        with self._lock:
            found = store.read(self.uri)
            if found is not None and found.body in self._bodies and not json.loads(found.body)["released"]:
                body = _encode(self.holder, self.ttl_seconds, released=released)
                # Recorded before it is sent: a write may succeed without being acknowledged.
                self._bodies = {found.body, body}
                if store.replace(self.uri, body, found.version):
                    return
                found = store.read(self.uri)
            raise self.holder.lost(found)


def acquire(uri: str, *, owner: str, ttl_seconds: float = 60, wait_seconds: float = 0) -> Lease:
    """Take the lease at `uri`, waiting at most `wait_seconds` for its holder to release it or to
    stop renewing it. Raises LeaseHeld if it does neither.

    Waiting for the holder's own time to live is enough if that holder is dead.
    """
    if not 0 < ttl_seconds <= MAX_TTL_SECONDS:
        rule = f"must be above 0 and at most {MAX_TTL_SECONDS:.0f}"
        raise StorageError("ttl_seconds", ttl_seconds, rule, "Give several times the interval between renewals.")
    store, watch = store_of(uri), _Watch()
    while True:
        found = store.read(uri, with_age=True)
        record = _NO_HOLDER if found is None else _decode(found, uri)
        left = 0.0 if found is None or record["released"] else watch.seconds_left(found, record["ttl_seconds"])
        if left <= 0:
            holder = Holder(uri=uri, owner=owner, epoch=record["epoch"] + 1, id=uuid.uuid4().hex)
            body = _encode(holder, ttl_seconds)
            if store.create(uri, body) if found is None else store.replace(uri, body, found.version):
                return Lease(holder, ttl_seconds, {body})
        elif watch.seconds >= wait_seconds:
            rule = f"is held by {_described(found)}; if that holder is dead, it expires in {left:.0f} s"
            raise LeaseHeld("lease", uri, rule, "Stop that process, or wait.")
        else:
            time.sleep(min(left, 1, max(wait_seconds - watch.seconds, 0.01)))


class _Watch:
    """How long a lease has been unchanged, by a monotonic clock of this process."""

    def __init__(self) -> None:
        self.version = ""
        self.first_seen = self.changed = math.inf

    @property
    def seconds(self) -> float:
        """Time since the lease was first seen."""
        return time.monotonic() - self.first_seen

    def seconds_left(self, found: Found, ttl_seconds: float) -> float:
        """Time until its holder counts as dead: at most its time to live, whatever age the store's
        clock gives it."""
        if found.version != self.version:
            self.version, self.changed = found.version, time.monotonic()
            self.first_seen = min(self.first_seen, self.changed)
        unseen = ttl_seconds - (time.monotonic() - self.changed)
        return min(unseen, ttl_seconds + CLOCK_STEP - found.age_seconds)


@contextmanager
def lease(uri: str, *, owner: str, ttl_seconds: float = 60, wait_seconds: float = 0) -> Iterator[Lease]:
    """Hold the lease at `uri` for the block and renew it in the background."""
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
            log.warning("The lease was not released: %s", error)


def _keep(held: Lease, ended: threading.Event) -> None:
    while not ended.wait(held.ttl_seconds / 3):
        try:
            held.renew()
        except LeaseLost as error:
            log.error("%s", error)
            return
        except StorageError as error:  # the next renewal may succeed; if none does, others take over
            log.warning("The lease was not renewed: %s", error)


_NO_HOLDER: dict[str, Any] = {"owner": "", "epoch": 0, "id": "", "ttl_seconds": 0.0, "released": True}


def _encode(holder: Holder, ttl_seconds: float, *, released: bool = False) -> bytes:
    """The lease's content, unique to each write, so that content we read back is ours only if we
    wrote it."""
    record = {"owner": holder.owner, "epoch": holder.epoch, "id": holder.id, "ttl_seconds": ttl_seconds}
    return encode("lease", {**record, "released": released, "write": uuid.uuid4().hex})


def _holder_of(record: dict[str, Any], uri: str) -> Holder:
    return Holder(uri=uri, **{name: record[name] for name in ("owner", "epoch", "id")})


def _decode(found: Found, uri: str) -> dict[str, Any]:
    """The lease that was written there; raises DamagedArtifact if it is not one. Leases of older
    versions have no id."""
    try:
        record = {} if found.is_damaged else {"id": "", **json.loads(found.body)}
        kinds: dict[str, Any] = {"owner": str, "epoch": int, "id": str, "ttl_seconds": (int, float), "released": bool}
        fits = all(isinstance(record[name], kind) for name, kind in kinds.items())
        if fits and 0 < record["epoch"] < 2**63 and 0 < float(record["ttl_seconds"]) <= MAX_TTL_SECONDS:
            return record
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        pass
    raise DamagedArtifact("lease", uri, "is not a lease", "Make sure that no process writes there, then move it away.")


def _described(found: Found | None) -> str:
    if found is None:
        return "nobody: it was removed"
    try:
        record = _decode(found, "")
    except DamagedArtifact:
        return "something that is not a lease"
    owner = record["owner"] if record["owner"].isprintable() else ascii(record["owner"])
    return f"{owner}, epoch {record['epoch']}" + (" (released)" if record["released"] else "")
