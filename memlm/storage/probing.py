"""Does a store do what storage relies on? Asked once, before a week's work is put on it.

Not every store that speaks S3 keeps its promise of conditional writes: some ignore the
condition, and Ceph's gateway 16 keeps it for one writer and lets sixteen at a time win. On such
a store leases and commits would be worth nothing.
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
FIRST_PATIENCE = retries.Patience(attempts=4, connect_seconds=2, silence_seconds=2.5, deadline_seconds=5)
"""For the first requests, so that a wrong address, region or credential is one error within ten
seconds."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What a store was seen to do."""

    uri: str
    seconds: float
    reads_what_was_written: bool
    lists_what_was_written: bool
    winners: int  # of RACERS that create one object at the same moment
    replaces_what_it_names: bool  # a write over the version that is there succeeds,
    spares_what_it_does_not: bool  # and one over another version fails
    deletes: bool

    @property
    def faults(self) -> list[str]:
        """What does not hold, in words; empty if the store can be relied on."""
        said = {
            "what was written is not what is read": self.reads_what_was_written,
            "what was written is not listed": self.lists_what_was_written,
            f"of {RACERS} writers that create one object at once {self.winners} win": self.winners == 1,
            "a write over the version that is there is refused": self.replaces_what_it_names,
            "a write over a version that is gone succeeds": self.spares_what_it_does_not,
            "what was deleted is still there": self.deletes,
        }
        return [fault for fault, holds in said.items() if not holds]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "faults": self.faults}


def probe(uri: str) -> Probe:
    """Try the store below `uri` for a second or two, and leave nothing. StorageError when it
    can't be used at all."""
    with nullcontext() if is_remote(uri) else local.no_new_folders(local.resolved(uri)):
        return _tried(uri)


def require_conditional_writes(uri: str) -> Probe:
    """The probe of a store that can be relied on; StorageError for one that can't, or can't be
    used."""
    result = probe(uri)
    if result.faults:
        rule = f"this store can't keep writers apart: {'; '.join(result.faults)}"
        raise StorageError(
            "storage", uri, rule, "Use one whose conditional writes hold: AWS S3, or a current MinIO or Ceph."
        )
    return result


def _tried(uri: str) -> Probe:
    place, store, began = join(uri, f"probe-{uuid.uuid4().hex}"), store_of(uri), time.monotonic()
    with retries.patient(FIRST_PATIENCE):
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
        reads_what_was_written=written is not None and written.body == b"written",
        lists_what_was_written=listed == ["created", "written"],
        winners=winners,
        replaces_what_it_names=replaced,
        spares_what_it_does_not=spared,
        deletes=store.list_names(place) == [],
        seconds=round(time.monotonic() - began, 2),
    )


def _require_access(uri: str, store: Store, place: str) -> None:
    """Read, then write: a place that may only be read is told from one that may not be used."""
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
    """How many of RACERS succeed."""
    with ThreadPoolExecutor(max_workers=RACERS) as pool:
        racing = [
            pool.submit(copy_context().run, functools.partial(store.create, uri, f"racer {number}".encode()))
            for number in range(RACERS)
        ]
        return sum(each.result() for each in racing)
