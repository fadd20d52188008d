"""Test whether a store does what storage relies on, before a week's work depends on it.

Not every store that speaks S3 honours conditional writes: some ignore the condition, and Ceph's
gateway 16 honours it for one writer but lets sixteen simultaneous ones win. On such a store leases
and commits would be worth nothing.
"""

import functools
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from contextvars import copy_context
from dataclasses import asdict, dataclass
from typing import Any

from memlm.storage import local, retries
from memlm.storage.errors import StorageError
from memlm.storage.objects import Store, store_of
from memlm.storage.places import is_remote, join

RACERS = 16
FIRST_POLICY = retries.RetryPolicy(attempts=4, connect_seconds=2, silence_seconds=2.5, deadline_seconds=5)
"""Retry policy of the first requests, so that a wrong address, region or credential is reported
within ten seconds."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The observed behaviour of a store."""

    uri: str
    seconds: float
    reads_back: bool
    lists_new_objects: bool
    winners: int  # number of RACERS that succeed when all create one object at the same moment
    replaces_named_version: bool  # a write over the current version succeeds,
    refuses_other_version: bool  # and one over another version fails
    deletes: bool

    @property
    def faults(self) -> list[str]:
        """Failed expectations in words; empty if the store can be relied on."""
        checks = {
            "an object read back differs from what was written": self.reads_back,
            "a new object is not listed": self.lists_new_objects,
            f"{self.winners} of {RACERS} writers that create one object at once succeed": self.winners == 1,
            "a write over the current version is refused": self.replaces_named_version,
            "a write over an outdated version succeeds": self.refuses_other_version,
            "a deleted object is still there": self.deletes,
        }
        return [fault for fault, holds in checks.items() if not holds]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "faults": self.faults}


def probe(uri: str) -> Probe:
    """Test the store below `uri` for a second or two, and leave nothing behind. Raises
    StorageError if it cannot be used at all."""
    with nullcontext() if is_remote(uri) else local.no_new_folders(local.resolved(uri)):
        return _run_probe(uri)


def require_conditional_writes(uri: str) -> Probe:
    """The probe of a store that can be relied on. Raises StorageError for a store that cannot, or
    cannot be used."""
    result = probe(uri)
    if result.faults:
        rule = f"this store cannot keep writers apart: {'; '.join(result.faults)}"
        raise StorageError(
            "storage", uri, rule, "Use one that honours conditional writes: AWS S3, or a current MinIO or Ceph."
        )
    return result


def _run_probe(uri: str) -> Probe:
    place, store, began = join(uri, f"probe-{uuid.uuid4().hex}"), store_of(uri), time.monotonic()
    with retries.using_policy(FIRST_POLICY):
        _require_access(uri, store, join(place, "written"))
    try:
        created, written = join(place, "created"), store.read(join(place, "written"))
        winners = _race(created, store)
        version = found.version if (found := store.read(created)) is not None else ""
        replaced = store.replace(created, b"replaced", version)
        spared = not store.replace(created, b"late", version)
        listed = store.list_names(place)
    finally:
        store.delete(place)
    return Probe(
        uri=uri,
        reads_back=written is not None and written.body == b"written",
        lists_new_objects=listed == ["created", "written"],
        winners=winners,
        replaces_named_version=replaced,
        refuses_other_version=spared,
        deletes=store.list_names(place) == [],
        seconds=round(time.monotonic() - began, 2),
    )


def _require_access(uri: str, store: Store, place: str) -> None:
    """Read, then write, to distinguish a read-only place from one that cannot be used at all."""
    store.read(place)
    try:
        store.write(place, b"written")
    except StorageError as error:
        if "no right" in error.rule:
            raise StorageError(
                "storage", uri, "may be read but not written with these credentials", "Grant writing, or name another."
            ) from None
        raise


def _race(uri: str, store: Store) -> int:
    """Number of RACERS that succeed in creating the same object."""
    with ThreadPoolExecutor(max_workers=RACERS) as pool:
        racing = [
            pool.submit(copy_context().run, functools.partial(store.create, uri, f"racer {number}".encode()))
            for number in range(RACERS)
        ]
        return sum(each.result() for each in racing)
