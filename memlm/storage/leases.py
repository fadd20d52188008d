"""Leases: the right to write alone, so that of two trainers of one run the one that only seems
dead stays harmless.

A lease is one small object: its holder (owner, epoch, a random id), its time to live. Every
change of it is a conditional write over the version that was read, so two can't both succeed:

    acquire  nothing there: epoch 1 | released, or unchanged for its time to live: epoch + 1 | else LeaseHeld
    renew    over our own version: it proves that we hold it at this moment; else LeaseLost, for good
    release  over our own version; the epoch stays for the next to count on

Epochs count up for people to read, and begin again where somebody deleted the object; the id
alone tells two holders apart for certain. Who works for a holder in another process is given its
`Holder` and asks that.

A lease's age is told by the store's own clock (now less last modified), so nodes' clocks may
differ. That clock may jump too: whoever waits has seen the lease unchanged for its time to live
by a clock that cannot, and takes it over then at the latest. A holder that was stopped for
longer than its time to live finds at its next renewal that another epoch began;
`write_artifact(lease=...)` renews just before it commits. What no lease excludes is a commit
that is on the way for longer than that: it is then still one whole artifact of the same config,
with its own epoch in the details.
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
LONGEST_SECONDS = 7 * 24 * 3600.0
"""A lease that says to live longer was not written by memlm, and would lock a run for as long."""
CLOCK_STEP = 1
"""Second: HTTP's dates have no finer one, so a lease is taken over that much later."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who took a lease, in a form that other processes can be given: those that work for it ask
    here."""

    uri: str
    owner: str
    epoch: int
    id: str
    """Random: no other holder ever has it, not even one after the lease was deleted."""

    def holds(self) -> bool:
        """Whether it still has the lease. Raises StorageError where the storage does not answer."""
        found = store_of(self.uri).read(self.uri)
        try:
            record = _decode(found, self.uri) if found is not None else _NOBODY
        except DamagedArtifact:  # nor could the holder renew it
            return False
        return not record["released"] and _holder_of(record, self.uri) == self

    def require(self) -> None:
        """Raises LeaseLost if it has the lease no more, StorageError where the storage does not
        answer."""
        if not self.holds():
            raise self.lost(store_of(self.uri).read(self.uri))

    def lost(self, now: Found | None) -> LeaseLost:
        rule = f"epoch {self.epoch} of {self.owner} is over; now {_described(now)}"
        return LeaseLost("lease", self.uri, rule, "End this process: another one has taken over its work.")


@dataclass
class Lease:
    """The right to write, held since `epoch` began. Threads may share it; make one with `lease`
    or `acquire`."""

    holder: Holder
    ttl_seconds: float
    _bodies: set[bytes]
    """What we wrote last, or tried to."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def uri(self) -> str:
        return self.holder.uri

    @property
    def epoch(self) -> int:
        return self.holder.epoch

    def renew(self) -> None:
        """Hold it for another `ttl_seconds`. Raises LeaseLost when another has taken over, or it
        was released."""
        self._change(released=False)

    def release(self) -> None:
        """Let the next have it at once. Raises LeaseLost when another has it already."""
        self._change(released=True)

    def _change(self, *, released: bool) -> None:
        store = store_of(self.uri)
        with self._lock:
            found = store.read(self.uri)
            if found is not None and found.body in self._bodies and not json.loads(found.body)["released"]:
                body = _encode(self.holder, self.ttl_seconds, released=released)
                # Before it is sent: what nobody acknowledges may be there all the same.
                self._bodies = {found.body, body}
                if store.replace(self.uri, body, found.version):
                    return
                found = store.read(self.uri)
            raise self.holder.lost(found)


def acquire(uri: str, *, owner: str, ttl_seconds: float = 60, wait_seconds: float = 0) -> Lease:
    """Take the lease at `uri`, waiting at most that long for another to release it or to fall
    silent. LeaseHeld if not.

    To wait for as long as the other's own time to live is enough for any that is dead.
    """
    if not 0 < ttl_seconds <= LONGEST_SECONDS:
        rule = f"must be a finite number above 0, and at most {LONGEST_SECONDS:.0f}"
        raise StorageError("ttl_seconds", ttl_seconds, rule, "Give seconds, several times a renewal's.")
    store, watch = store_of(uri), _Watch()
    while True:
        found = store.read(uri, with_age=True)
        record = _NOBODY if found is None else _decode(found, uri)
        left = 0.0 if found is None or record["released"] else watch.seconds_left(found, record["ttl_seconds"])
        if left <= 0:
            holder = Holder(uri=uri, owner=owner, epoch=record["epoch"] + 1, id=uuid.uuid4().hex)
            body = _encode(holder, ttl_seconds)
            if store.create(uri, body) if found is None else store.replace(uri, body, found.version):
                return Lease(holder, ttl_seconds, {body})
        elif watch.seconds >= wait_seconds:
            rule = f"is held by {_described(found)}; if it is dead, it ends in {left:.0f} s"
            raise LeaseHeld("lease", uri, rule, "Stop the other, or wait.")
        else:
            time.sleep(min(left, 1, max(wait_seconds - watch.seconds, 0.01)))


class _Watch:
    """For how long a lease has been seen as it is, by a clock of this process that nobody sets."""

    def __init__(self) -> None:
        self.version = ""
        self.first_seen = self.changed = math.inf

    @property
    def seconds(self) -> float:
        """Since it was first seen."""
        return time.monotonic() - self.first_seen

    def seconds_left(self, found: Found, ttl_seconds: float) -> float:
        """Until its holder counts as dead: at most its time to live, whatever the store's clock
        says of its age."""
        if found.version != self.version:
            self.version, self.changed = found.version, time.monotonic()
            self.first_seen = min(self.first_seen, self.changed)
        unseen = ttl_seconds - (time.monotonic() - self.changed)
        return min(unseen, ttl_seconds + CLOCK_STEP - found.age_seconds)


@contextmanager
def lease(uri: str, *, owner: str, ttl_seconds: float = 60, wait_seconds: float = 0) -> Iterator[Lease]:
    """Hold the lease at `uri` for the block, renewed in the background. Give it to
    `write_artifact`."""
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


_NOBODY: dict[str, Any] = {"owner": "", "epoch": 0, "id": "", "ttl_seconds": 0.0, "released": True}


def _encode(holder: Holder, ttl_seconds: float, *, released: bool = False) -> bytes:
    """Each with a name of its own, so that what was read back can only be ours if we wrote it."""
    record = {"owner": holder.owner, "epoch": holder.epoch, "id": holder.id, "ttl_seconds": ttl_seconds}
    return encode("lease", {**record, "released": released, "write": uuid.uuid4().hex})


def _holder_of(record: dict[str, Any], uri: str) -> Holder:
    return Holder(uri=uri, **{name: record[name] for name in ("owner", "epoch", "id")})


def _decode(found: Found, uri: str) -> dict[str, Any]:
    """What was written there; raises DamagedArtifact if that is no lease. Leases of older
    versions have no id."""
    try:
        record = {} if found.is_damaged else {"id": "", **json.loads(found.body)}
        kinds: dict[str, Any] = {"owner": str, "epoch": int, "id": str, "ttl_seconds": (int, float), "released": bool}
        fits = all(isinstance(record[name], kind) for name, kind in kinds.items())
        if fits and 0 < record["epoch"] < 2**63 and 0 < float(record["ttl_seconds"]) <= LONGEST_SECONDS:
            return record
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        pass
    raise DamagedArtifact("lease", uri, "is not a lease", "Make sure that nobody writes there, then move it away.")


def _described(found: Found | None) -> str:
    if found is None:
        return "nobody: it was removed"
    try:
        record = _decode(found, "")
    except DamagedArtifact:
        return "something that is no lease"
    owner = record["owner"] if record["owner"].isprintable() else ascii(record["owner"])
    return f"{owner}, epoch {record['epoch']}" + (" (released)" if record["released"] else "")
