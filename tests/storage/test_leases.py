import contextlib
import json
import multiprocessing
import os
import pickle
import signal
import threading
import time
from pathlib import Path

import pytest

from memlm import storage
from memlm.storage import DamagedArtifact, LeaseHeld, LeaseLost, StorageError
from memlm.storage.retries import RetryPolicy, using_policy
from tests.support.faults import FaultyProxy


def test_the_next_holder_has_the_next_epoch(root: str) -> None:
    uri = storage.join(root, "lease.json")
    with storage.lease(uri, owner="first") as held:
        assert held.epoch == 1
        with pytest.raises(
            LeaseHeld, match=r"lease.json: is held by first, epoch 1; if that holder is dead, it expires in \d+ s"
        ):
            storage.acquire(uri, owner="second")
    with storage.lease(uri, owner="second") as held:
        assert held.epoch == 2


def test_a_silent_holder_is_taken_over_and_then_refused(root: str) -> None:
    uri = storage.join(root, "lease.json")
    stale = storage.acquire(uri, owner="stopped", ttl_seconds=1)
    fresh = storage.acquire(uri, owner="successor", wait_seconds=10)
    assert (stale.epoch, fresh.epoch) == (1, 2)
    with pytest.raises(LeaseLost, match="epoch 1 of stopped is over; now successor, epoch 2"):
        stale.renew()
    with pytest.raises(LeaseLost, match="epoch 1 of stopped is over; now successor, epoch 2"):
        stale.holder.require()
    fresh.holder.require()
    assert (stale.holder.holds(), fresh.holder.holds()) == (False, True)
    with pytest.raises(LeaseLost):
        stale.release()
    fresh.renew()  # the stale holder changed nothing


def test_a_lease_is_renewed_in_the_background(root: str) -> None:
    uri = storage.join(root, "lease.json")
    with storage.lease(uri, owner="steady", ttl_seconds=3):
        time.sleep(5)
        with pytest.raises(LeaseHeld):
            storage.acquire(uri, owner="other")


def _hold_and_die(uri: str) -> None:
    with storage.lease(uri, owner="killed", ttl_seconds=1):
        os.kill(os.getpid(), signal.SIGKILL)


def test_the_lease_of_a_killed_holder_expires(tmp_path: Path) -> None:
    uri = str(tmp_path / "lease.json")
    holder = multiprocessing.get_context("fork").Process(target=_hold_and_die, args=(uri,))
    holder.start()
    holder.join()
    assert storage.acquire(uri, owner="next", wait_seconds=10).epoch == 2


def test_a_deleted_lease_belongs_to_its_next_holder(root: str) -> None:
    uri = storage.join(root, "lease.json")
    old = storage.acquire(uri, owner="process 7 on here")
    worker = pickle.loads(pickle.dumps(old.holder))
    assert worker.holds()
    old.renew()
    worker.require()
    storage.delete(uri)
    assert not worker.holds()
    with pytest.raises(LeaseLost, match="epoch 1 of process 7 on here is over; now nobody: it was removed"):
        worker.require()
    new = storage.acquire(uri, owner="process 7 on here")
    assert (new.epoch, new.holder.holds()) == (old.epoch, True)
    assert not worker.holds()
    with pytest.raises(LeaseLost):
        worker.require()
    with pytest.raises(LeaseLost):
        old.renew()


def test_a_released_lease_is_no_longer_held(root: str) -> None:
    held = storage.acquire(storage.join(root, "lease.json"), owner="a")
    held.release()
    assert not held.holder.holds()


def test_a_stores_clock_that_was_a_day_ahead_locks_nobody_out_for_longer_than_the_lease(tmp_path: Path) -> None:
    uri = str(tmp_path / "lease.json")
    storage.acquire(uri, owner="dead", ttl_seconds=2)
    tomorrow = time.time() + 86_400
    os.utime(uri, (tomorrow, tomorrow))
    with pytest.raises(LeaseHeld, match=r"held by dead, epoch 1; if that holder is dead, it expires in [12] s"):
        storage.acquire(uri, owner="next")
    began = time.monotonic()
    assert storage.acquire(uri, owner="next", wait_seconds=2).epoch == 2
    assert 2 <= time.monotonic() - began < 4


def test_s3s_clock_that_was_a_day_ahead_locks_nobody_out_for_longer_than_the_lease(
    bucket: str, proxy: FaultyProxy
) -> None:
    uri = f"{bucket}/lease.json"
    storage.acquire(uri, owner="dead", ttl_seconds=2)
    proxy.seconds_ahead = -86_400  # the clock is set back: the lease now seems to come from tomorrow
    assert storage.acquire(uri, owner="next", wait_seconds=2).epoch == 2


def test_a_living_holder_is_not_taken_over_while_its_clock_is_wrong(tmp_path: Path) -> None:
    uri = str(tmp_path / "lease.json")
    held = storage.acquire(uri, owner="alive", ttl_seconds=1)
    over = threading.Event()

    def renew() -> None:
        while not over.wait(0.3):
            held.renew()
            os.utime(uri, (time.time() + 86_400,) * 2)

    keeper = threading.Thread(target=renew)
    keeper.start()
    try:
        with pytest.raises(LeaseHeld):
            storage.acquire(uri, owner="other", wait_seconds=2.5)
    finally:
        over.set()
        keeper.join()


def test_only_one_of_many_takes_a_lease_over(root: str) -> None:
    uri = storage.join(root, "lease.json")
    storage.acquire(uri, owner="gone").release()
    epochs: list[int] = []

    def take(number: int) -> None:
        with contextlib.suppress(LeaseHeld):
            epochs.append(storage.acquire(uri, owner=f"taker {number}").epoch)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert epochs == [2]


def test_a_released_lease_can_not_be_renewed(root: str) -> None:
    held = storage.acquire(storage.join(root, "lease.json"), owner="a")
    held.release()
    with pytest.raises(LeaseLost):
        held.renew()


def test_the_nodes_clock_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = str(tmp_path / "lease.json")
    storage.acquire(uri, owner="here")
    monkeypatch.setattr(time, "time", lambda: 4e9)
    with pytest.raises(LeaseHeld):
        storage.acquire(uri, owner="a node whose clock is decades ahead")


def test_s3s_own_clock_counts(bucket: str, proxy: FaultyProxy) -> None:
    uri = f"{bucket}/lease.json"
    storage.acquire(uri, owner="here", ttl_seconds=60)
    proxy.seconds_ahead = 55
    with pytest.raises(LeaseHeld):
        storage.acquire(uri, owner="there")
    proxy.seconds_ahead = 65
    assert storage.acquire(uri, owner="there").epoch == 2


def test_a_lost_acknowledgement_is_no_lost_lease(bucket: str, proxy: FaultyProxy) -> None:
    uri = f"{bucket}/lease.json"
    proxy.plan(only="PUT", planned=["lost"])
    held = storage.acquire(uri, owner="a")
    proxy.plan(only="PUT", planned=["lost", "flip_up", "lost"])
    for _ in range(3):
        held.renew()
    assert sum(proxy.injected.values()) == 3
    assert held.epoch == 1


def test_a_renewal_without_acknowledgement_is_ours(bucket: str, proxy: FaultyProxy) -> None:
    uri = f"{bucket}/lease.json"
    held = storage.acquire(uri, owner="a")
    proxy.plan(only="lease.json", planned=["", "lost"])  # a read, then a write without an acknowledgement
    with using_policy(RetryPolicy(attempts=1)), pytest.raises(StorageError, match=r"lease\.json"):
        held.renew()
    assert proxy.injected == {"lost": 1}
    proxy.plan()
    held.renew()
    held.release()
    assert storage.acquire(uri, owner="b").epoch == 2


LEASE = {"owner": "a", "epoch": 1, "id": "x", "ttl_seconds": 60, "released": False, "write": "y"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"owner": "a"}',
        *(
            json.dumps({**LEASE, **changed}).encode()
            for changed in (
                {"owner": 1},
                {"epoch": "1"},
                {"epoch": 0},
                {"id": None},
                {"ttl_seconds": "60"},
                {"ttl_seconds": 0},
                {"ttl_seconds": float("nan")},
                {"ttl_seconds": float("inf")},
                {"ttl_seconds": 10**400},
                {"ttl_seconds": 1e300},
                {"epoch": 10**4000},
                {"released": "no"},
            )
        ),
    ],
)
def test_an_invalid_lease_is_refused(tmp_path: Path, body: bytes) -> None:
    uri = str(tmp_path / "lease.json")
    held = storage.acquire(uri, owner="a")
    storage.write_bytes(uri, body)
    with pytest.raises(DamagedArtifact, match="is not a lease"):
        storage.acquire(uri, owner="b")
    assert not held.holder.holds()
    with pytest.raises(LeaseLost, match="now something that is not a lease"):
        held.renew()


@pytest.mark.parametrize("ttl_seconds", [0, -1, float("inf"), float("nan"), 1e300])
def test_an_impossible_time_to_live_is_refused(tmp_path: Path, ttl_seconds: float) -> None:
    with pytest.raises(StorageError, match="must be above 0 and at most"):
        storage.acquire(str(tmp_path / "lease.json"), owner="b", ttl_seconds=ttl_seconds)


def test_a_lease_of_an_older_version_has_no_id_and_is_taken_over(tmp_path: Path) -> None:
    uri = str(tmp_path / "lease.json")
    storage.write_json(uri, {name: value for name, value in LEASE.items() if name != "id"} | {"released": True})
    assert storage.acquire(uri, owner="b").epoch == 2


def test_an_owners_name_keeps_an_error_on_one_line(tmp_path: Path) -> None:
    uri = str(tmp_path / "lease.json")
    storage.acquire(uri, owner="a\n\x1b[2Jerror: b")
    with pytest.raises(LeaseHeld) as refused:
        storage.acquire(uri, owner="b")
    assert str(refused.value).isprintable()


def test_the_record_of_a_lease_is_readable_for_people(root: str) -> None:
    uri = storage.join(root, "lease.json")
    storage.acquire(uri, owner="node-7 pid 12", ttl_seconds=30)
    record = storage.read_json(uri)
    assert (record["owner"], record["epoch"], record["ttl_seconds"]) == ("node-7 pid 12", 1, 30)
    assert json.dumps(record)
