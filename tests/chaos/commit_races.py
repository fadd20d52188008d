"""Races of several processes that commit to one place at the same moment: each must have one
winner, whose bytes verify.

Racers are processes with caches of their own, as nodes are. Five races in turn: an artifact and
a bare object on S3, the same on a disk, a lease on S3. Racers of an artifact write different
bytes with the same config, so any of them may win, but all must then see the same one, whole.
"""

import hashlib
import multiprocessing
import os
import random
import tempfile
from collections import Counter
from multiprocessing.connection import Connection
from threading import BrokenBarrierError
from typing import Any

from memlm import storage
from memlm.storage import LeaseHeld, objects
from tests.chaos.frame import Outcome, Row
from tests.support.faults import client_environment, faulty_s3, make_bucket

RACES, SMALL_RACES = 300, 10
RACERS = 4
RACE_SECONDS = 120
KINDS = ("artifact on s3", "object on s3", "artifact on disk", "object on disk", "lease on s3")


def race_all(seed: int, small: bool) -> Outcome:
    context = multiprocessing.get_context("spawn")
    with faulty_s3(seed) as proxy, tempfile.TemporaryDirectory(prefix="memlm-chaos-") as folder:
        start = context.Barrier(RACERS)
        roots = {"s3": make_bucket(proxy), "disk": f"{folder}/disk"}
        racers = [
            _Racer(context, start, {**client_environment(proxy), "MEMLM_CACHE": f"{folder}/{n}"}) for n in range(RACERS)
        ]
        try:
            wrong, by_kind = [], Counter[str]()
            races = SMALL_RACES if small else RACES
            for race in range(races):
                kind = KINDS[race % len(KINDS)]
                uri = f"{roots[kind.rpartition(' ')[2]]}/{race}"
                for number, racer in enumerate(racers):
                    racer.pipe.send((kind, uri, f"{seed}/{race}/{number}"))
                fault = _fault(kind, [racer.answer() for racer in racers])
                wrong += [f"{uri} ({kind}): {fault}"] * bool(fault)
                by_kind[kind] += 1
        finally:
            for racer in racers:
                racer.process.kill()
                racer.process.join()
    details = {"races": dict(by_kind), "wrong": wrong[:20]}
    return Outcome(tries=races, survived=races - len(wrong), differences=len(wrong), details=details)


class _Racer:
    """A process that takes part in one race after another."""

    def __init__(self, context: Any, start: Any, environment: dict[str, str]) -> None:
        self.pipe, far = context.Pipe()
        self.process = context.Process(target=_race, args=(far, start, environment), daemon=True)
        self.process.start()

    def answer(self) -> tuple[bool, str]:
        if not self.pipe.poll(RACE_SECONDS):
            raise TimeoutError(f"a racer said nothing for {RACE_SECONDS} s")
        won, saw = self.pipe.recv()
        return won, saw


def _race(pipe: Connection, start: Any, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    while True:
        kind, uri, seed = pipe.recv()
        body = random.Random(seed).randbytes(3000)
        try:
            pipe.send(_run(kind, uri, body, start))
        except (storage.StorageError, OSError, BrokenBarrierError) as error:
            pipe.send((False, f"error: {error}"))


def _run(kind: str, uri: str, body: bytes, start: Any) -> tuple[bool, str]:
    """Whether this process won, and what it then sees there."""
    if kind.startswith("lease"):
        start.wait(RACE_SECONDS)
        try:
            return True, str(storage.acquire(uri, owner=body[:8].hex(), ttl_seconds=600).epoch)
        except LeaseHeld:
            return False, "1"
    if kind.startswith("object"):
        start.wait(RACE_SECONDS)
        won = objects.store_of(uri).create(uri, body)
        found = objects.store_of(uri).read(uri)
        return won, found.body.hex() if found is not None else "nothing"
    if not storage.is_remote(uri):
        start.wait(RACE_SECONDS)
    with storage.write_artifact(uri, kind="race", config={}) as draft:
        (draft.path / "first.bin").write_bytes(body)
        (draft.path / "folder").mkdir()
        (draft.path / "folder" / "second.bin").write_bytes(body[::-1])
        if storage.is_remote(uri):  # on a disk one writes while the others wait; on S3 all start uploading at once
            start.wait(RACE_SECONDS)
    opened = storage.open_artifact(uri)
    there = (opened / "first.bin").read_bytes()
    if (opened / "folder" / "second.bin").read_bytes() != there[::-1]:
        return False, "a mixture of two writers"
    return there == body, hashlib.sha256(there).hexdigest()


def _fault(kind: str, answers: list[tuple[bool, str]]) -> str:
    """The fault of the race, or an empty text."""
    winners, seen = sum(won for won, _ in answers), {saw for _, saw in answers}
    if winners != 1:
        return f"{winners} winners; seen: {'; '.join(saw[:80] for saw in seen)}"
    return "" if len(seen) == 1 else f"{len(seen)} different results are seen"


ROWS = [
    Row(
        name="commit_races",
        bar="300 races, one winner each, whose bytes verify",
        tries=RACES,
        run=race_all,
        seconds=150,
        small_seconds=10,
    )
]
