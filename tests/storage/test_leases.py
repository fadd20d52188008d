import contextlib
import json
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from memlm import storage
from memlm.storage import DamagedArtifact, LeaseHeld, LeaseLost, StorageError
from memlm.storage.retries import Patience, patient
from tests.faults import FaultyProxy


def test_one_holds_it_and_the_next_has_the_next_epoch(root: str) -> None:
    uri = storage.join(root, "lease.json")
    with storage.lease(uri, owner="first") as held:
        assert held.epoch == 1
        with pytest.raises(LeaseHeld, match=r"lease.json: is held by first, epoch 1; if it is dead, it ends in \d+ s"):
            storage.acquire(uri, owner="second")
    with storage.lease(uri, owner="second") as held:
        assert held.epoch == 2


def test_a_silent_holder_is_taken_over_and_then_refused(root: str) -> None:
    uri, artifact = storage.join(root, "lease.json"), storage.join(root, "model")
    stale = storage.acquire(uri, owner="stopped", ttl_seconds=1)
    fresh = storage.acquire(uri, owner="successor", wait_seconds=10)
    assert (stale.epoch, fresh.epoch) == (1, 2)
    with pytest.raises(LeaseLost, match="epoch 1 of stopped is over; now successor, epoch 2"):
        stale.renew()
    with pytest.raises(LeaseLost):  # before the work
        with storage.write_artifact(artifact, kind="k", config={}, lease=stale):
            pytest.fail("the block must not be entered")
    with storage.write_artifact(artifact, kind="k", config={}, lease=fresh) as draft:
        (draft.path / "weights").write_text("new")
    assert storage.read_manifest(artifact).details["epoch"] == 2
    with pytest.raises(LeaseLost):
        stale.release()
    fresh.renew()  # the stale one took nothing from it


def test_a_writer_that_loses_its_lease_while_it_works_does_not_commit(root: str) -> None:
    uri, artifact = storage.join(root, "lease.json"), storage.join(root, "model")
    stale = storage.acquire(uri, owner="slow", ttl_seconds=1)
    with pytest.raises(LeaseLost):
        with storage.write_artifact(artifact, kind="k", config={}, lease=stale) as draft:
            (draft.path / "weights").write_text("old")
            storage.acquire(uri, owner="successor", wait_seconds=10)
    assert not storage.has_artifact(artifact)


def test_it_is_renewed_in_the_background(root: str) -> None:
    uri = storage.join(root, "lease.json")
    with storage.lease(uri, owner="steady", ttl_seconds=3):
        time.sleep(5)
        with pytest.raises(LeaseHeld):
            storage.acquire(uri, owner="other")


def _hold_and_die(uri: str) -> None:
    with storage.lease(uri, owner="killed", ttl_seconds=1):
        os.kill(os.getpid(), signal.SIGKILL)


def test_of_a_killed_holder_it_ends_by_itself(tmp_path: Path) -> None:
    uri = str(tmp_path / "lease.json")
    holder = multiprocessing.get_context("fork").Process(target=_hold_and_die, args=(uri,))
    holder.start()
    holder.join()
    assert storage.acquire(uri, owner="next", wait_seconds=10).epoch == 2


def test_of_many_that_take_it_over_one_does(root: str) -> None:
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


def test_a_renewal_that_was_written_and_of_which_nothing_was_heard_is_ours(bucket: str, proxy: FaultyProxy) -> None:
    uri = f"{bucket}/lease.json"
    held = storage.acquire(uri, owner="a")
    proxy.plan(only="lease.json", planned=["", "lost"])  # read; written, and nothing was heard of it
    with patient(Patience(attempts=1)), pytest.raises(StorageError, match=r"lease\.json"):
        held.renew()
    assert proxy.injected == {"lost": 1}
    proxy.plan()
    held.renew()
    held.release()
    assert storage.acquire(uri, owner="b").epoch == 2


def test_what_is_no_lease_is_refused(root: str) -> None:
    uri = storage.join(root, "lease.json")
    storage.write_json(uri, {"owner": "a"})
    with pytest.raises(DamagedArtifact, match="is not a lease"):
        storage.acquire(uri, owner="b")
    with pytest.raises(StorageError, match="ttl_seconds 0: must be positive"):
        storage.acquire(storage.join(root, "other.json"), owner="b", ttl_seconds=0)


def test_its_record_can_be_read_by_people(root: str) -> None:
    uri = storage.join(root, "lease.json")
    storage.acquire(uri, owner="node-7 pid 12", ttl_seconds=30)
    record = storage.read_json(uri)
    assert (record["owner"], record["epoch"], record["ttl_seconds"]) == ("node-7 pid 12", 1, 30)
    assert json.dumps(record)
