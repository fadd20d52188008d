"""S3 that fails three requests in ten: whatever was reported as stored must be neither changed,
lost nor doubled.

Workers write, read, list, upload in parts and commit through the proxy, and know what each place
must hold. At the end everything is compared once more past the proxy, byte by byte.
"""

import hashlib
import json
import os
import random
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memlm import storage
from memlm.storage import StorageError, retries
from memlm.storage.s3 import client as s3
from memlm.storage.s3 import transfer
from tests.chaos.frame import Outcome, Row
from tests.support.faults import FaultyProxy, client_environment, faulty_s3, make_bucket, plain_client

SHARE = 0.3
REQUESTS, SMALL_REQUESTS = 5_000, 150
WORKERS = 6
RETRY_POLICY = retries.RetryPolicy(attempts=16, connect_seconds=5, silence_seconds=2, min_bytes_per_second=50_000)
STALL_SECONDS = 2.5  # longer than a client waits for an answer


@dataclass
class _Watch:
    """Expected contents of the store, and the faults found."""

    bucket: str
    ended: threading.Event = field(default_factory=threading.Event)
    expected: dict[str, bytes] = field(default_factory=dict)  # uri -> body
    done: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def require(self, holds: bool, what: str) -> None:
        if not holds:
            self.wrong.append(what)


def endure(seed: int, small: bool) -> Outcome:
    with faulty_s3(seed) as proxy, _settings(proxy), tempfile.TemporaryDirectory(prefix="memlm-chaos-") as folder:
        watch = _Watch(make_bucket(proxy))
        proxy.stall_seconds = STALL_SECONDS
        proxy.plan(seed=seed, share=SHARE)
        wanted = SMALL_REQUESTS if small else REQUESTS
        threads = [
            threading.Thread(target=_work, args=(watch, proxy, wanted, seed, number, Path(folder)), daemon=True)
            for number in range(WORKERS)
        ]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            watch.ended.set()  # an interrupted run leaves no worker behind
        requests, injected = proxy.requests, dict(sorted(proxy.injected.items()))
        proxy.plan()
        _compare(watch, proxy)
    return Outcome(
        tries=requests,
        survived=requests - len(watch.failed),
        differences=len(watch.wrong),
        details={
            "faults": injected,
            "operations": dict(sorted(watch.done.items())),
            "failed": watch.failed[:20],
            "wrong": watch.wrong[:20],
        },
    )


def _work(watch: _Watch, proxy: FaultyProxy, wanted: int, seed: int, number: int, folder: Path) -> None:
    generator = random.Random(f"{seed}/{number}")
    turns: list[Callable[..., None]] = [_write_and_read, _list, _large_file, _artifact, _commit, _count]
    turn = 0
    with retries.using_policy(RETRY_POLICY):
        while (proxy.requests < wanted or turn < len(turns)) and not watch.ended.is_set():
            action = turns[turn % len(turns)]
            try:
                action(watch, generator, f"{watch.bucket}/{number}", turn, folder)
                watch.done[action.__name__.strip("_")] += 1
            except (StorageError, s3.PreconditionFailed, OSError) as error:
                watch.failed.append(f"{action.__name__}: {error!r}")
            except Exception as error:  # nothing but a StorageError may come out of storage
                watch.wrong.append(f"{action.__name__}: {error!r}")
            turn += 1


def _write_and_read(watch: _Watch, generator: random.Random, mine: str, turn: int, folder: Path) -> None:
    uri = f"{mine}/small/{generator.randrange(5)}"
    body = json.dumps({"turn": turn, "noise": generator.randbytes(500).hex()}).encode()
    storage.write_bytes(uri, body)
    watch.expected[uri] = body
    watch.require(storage.read_json(uri) == json.loads(body), f"{uri} was read as something else")


def _list(watch: _Watch, generator: random.Random, mine: str, turn: int, folder: Path) -> None:
    there = sorted({uri.rpartition("/")[2] for uri in watch.expected if uri.startswith(f"{mine}/small/")})
    watch.require(storage.list_names(f"{mine}/small") == there, f"{mine}/small was listed as something else")


def _large_file(watch: _Watch, generator: random.Random, mine: str, turn: int, folder: Path) -> None:
    uri, size = f"{mine}/large/{generator.randrange(3)}", generator.randrange(1, 5 * transfer.PART_BYTES)
    body = generator.randbytes(size)
    sent, came = (folder / f"{threading.get_ident()}-{way}" for way in ("up", "down"))
    sent.write_bytes(body)
    transfer.upload({uri: sent})
    watch.expected[uri] = body
    whole = transfer.download(uri, came, hashlib.sha256(body).hexdigest())
    watch.require(whole and came.read_bytes() == body, f"{uri} came back as something else")


def _artifact(watch: _Watch, generator: random.Random, mine: str, turn: int, folder: Path) -> None:
    """Write artifacts and open them on this node, then make every other one again, which must
    change nothing."""
    uri = f"{mine}/artifacts/{turn}"
    body = generator.randbytes(generator.randrange(1, 2 * transfer.PART_BYTES))
    for content in (body, b"another")[: 1 + turn % 2]:
        with storage.write_artifact(uri, kind="chaos", config={"turn": turn}) as draft:
            (draft.path / "body.bin").write_bytes(content)
            (draft.path / "note.txt").write_text(str(turn))
    opened = storage.open_artifact(uri, kind="chaos")
    watch.require((opened / "body.bin").read_bytes() == body, f"{uri} holds something else")


def _commit(watch: _Watch, generator: random.Random, mine: str, turn: int, folder: Path) -> None:
    uri = f"{mine}/commits/{turn}"
    bodies = [f"{turn}-{rival}-{generator.random()}".encode() for rival in range(2)]
    won = [s3.create(uri, body) for body in bodies]
    watch.require(won == [True, False], f"{uri} was committed {sum(won)} times")
    watch.expected[uri] = bodies[0]


def _count(watch: _Watch, generator: random.Random, mine: str, turn: int, folder: Path) -> None:
    """Let all workers add to one number by conditional writes, so that an addition lost or doubled
    shows in the sum. The number carries the last turn that each worker added, so that a worker
    whose write nobody acknowledged, and on which others have built since, finds it.

    The number carries the last turn that each worker added, so that one whose write was
    acknowledged by nobody, and built upon by others since, finds it.
    """
    uri = f"{watch.bucket}/sum"
    while True:
        found = s3.read(uri)
        if found is not None and found.is_damaged:
            continue  # its writer is about to repair it; nobody may build on it
        state = {"sum": 0, "turns": {}} if found is None else json.loads(found.body)
        if state["turns"].get(mine) == turn:
            return
        body = json.dumps({"sum": state["sum"] + 1, "turns": {**state["turns"], mine: turn}}).encode()
        if s3.create(uri, body) if found is None else s3.replace(uri, body, found.version):
            return


def _compare(watch: _Watch, proxy: FaultyProxy) -> None:
    client = plain_client(proxy)
    for uri, body in watch.expected.items():
        bucket, key = s3.split(uri)
        stored = client.get_object(Bucket=bucket, Key=key)["Body"].read()
        watch.require(stored == body, f"{uri} holds something else in the end")
    found = s3.read(f"{watch.bucket}/sum")
    additions: Any = json.loads(found.body)["sum"] if found is not None and not found.is_damaged else "none"
    watch.require(additions == watch.done["count"], f"{additions} of {watch.done['count']} additions")
    for number in range(WORKERS):
        for name in storage.list_names(f"{watch.bucket}/{number}/artifacts"):
            storage.open_artifact(f"{watch.bucket}/{number}/artifacts/{name}")


@contextmanager
def _settings(proxy: FaultyProxy) -> Iterator[None]:
    """Environment of a worker: parts of 64 KiB, so that small files have many; the server's
    address; a cache of its own."""
    with tempfile.TemporaryDirectory(prefix="memlm-chaos-") as cache:
        before, part_bytes = dict(os.environ), transfer.PART_BYTES
        os.environ.update(client_environment(proxy), MEMLM_CACHE=cache)
        transfer.PART_BYTES = 64 << 10
        try:
            yield
        finally:
            transfer.PART_BYTES = part_bytes
            os.environ.clear()
            os.environ.update(before)


ROWS = [
    Row(
        name="s3_faults",
        bar="5,000 requests at 30 % faults, 0 silent corruptions, 0 lost or double commits",
        tries=REQUESTS,
        run=endure,
        seconds=200,
        small_seconds=15,
    )
]
