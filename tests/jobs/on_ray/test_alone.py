"""One driver of a stage at a time."""

import threading

import pytest

from memlm import storage
from memlm.jobs import prepare_corpus
from memlm.jobs.on_ray import alone
from memlm.run import run_of
from tests.jobs.running import smoke


def test_a_second_driver_waits_and_is_refused_while_the_first_lives(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(alone, "LEASE_SECONDS", 1.0)
    uri = str(tmp_path / "lease")
    with alone.alone(uri):
        with pytest.raises(storage.LeaseHeld, match="is held by process"), alone.alone(uri):
            pytest.fail("the block must not be entered")
    assert "waiting at most 3 s for the lease" in capsys.readouterr().out


def test_a_second_driver_continues_when_the_first_ends(tmp_path):
    uri, order = str(tmp_path / "lease"), []
    ended = threading.Event()

    def first() -> None:
        with alone.alone(uri) as lease:
            order.append(lease.epoch)
            ended.wait(5)

    driver = threading.Thread(target=first)
    driver.start()
    while not order:
        ended.wait(0.01)
    threading.Timer(0.3, ended.set).start()
    with alone.alone(uri) as lease:
        order.append(lease.epoch)
    driver.join()
    assert order == [1, 2]


def test_an_error_in_the_block_is_raised(tmp_path):
    """A sweep may find that another driver pretrains."""
    with pytest.raises(storage.LeaseHeld, match="inner"), alone.alone(str(tmp_path / "outer")):
        raise storage.LeaseHeld("lease", "inner", "is held by another", "Wait.")
    with alone.alone(str(tmp_path / "outer")) as lease:
        assert lease.epoch == 2


def test_a_second_command_packs_nothing_while_the_first_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(alone, "LEASE_SECONDS", 0.5)
    config = smoke(tmp_path)
    with storage.lease(run_of(config).corpus_lease, owner="the other"):
        with pytest.raises(storage.LeaseHeld, match="held by the other"):
            prepare_corpus.run(config)
    assert sorted(path.name for path in (tmp_path / "smoke").iterdir()) == ["leases", "world"]
