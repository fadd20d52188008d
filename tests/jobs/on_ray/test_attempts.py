"""A worker's death counts against its unit, unless the driver died too."""

import json

import pytest

from memlm.jobs.on_ray.attempts import QUARANTINED, Attempts


@pytest.fixture
def session(tmp_path):
    return lambda name: Attempts(uri=str(tmp_path), session=name, limit=3)


def test_a_unit_that_kills_its_worker_is_tried_up_to_the_limit(session):
    assert [session("a").begin("unit") for _ in range(5)] == [True, True, True, False, False]
    assert not session("b").begin("unit")  # nor by another driver
    assert session("b").begin("other unit")


def test_attempts_that_ended_with_their_driver_do_not_count(session):
    assert all(session(name).begin("unit") for name in "abcdefgh")


def test_deaths_of_several_sessions_add_up(session):
    assert [session("a").begin("unit") for _ in range(2)] == [True, True]  # one death, and one with the driver
    assert [session("b").begin("unit") for _ in range(3)] == [True, True, False]


def test_an_attempt_names_its_worker_and_is_written_before_the_work(session, tmp_path):
    session("a").begin("unit")
    (record,) = (tmp_path / "unit").iterdir()
    assert json.loads(record.read_text()).keys() == {"node", "host", "pid", "at", "died"}
    for _ in range(3):
        session("a").begin("unit")
    assert json.loads((tmp_path / "unit" / QUARANTINED).read_text())["died"] == 3


def test_quarantine_is_remembered_and_forgotten_units_start_over(session):
    attempts = session("a")
    assert [attempts.begin("unit") for _ in range(3)] == [True, True, True] and not attempts.is_quarantined("unit")
    attempts.forget("unit")
    assert [attempts.begin("unit") for _ in range(4)] == [True, True, True, False]
    assert attempts.is_quarantined("unit") and session("b").is_quarantined("unit")


def test_an_attempt_lost_with_its_node_does_not_count(tmp_path):
    alive = {"one", "two"}

    def begin(node: str) -> bool:
        return Attempts(uri=str(tmp_path), session="a", limit=2, nodes=lambda: alive, node=node).begin("unit")

    assert [begin("one"), begin("one")] == [True, True]
    alive.remove("one")
    assert [begin("two"), begin("two"), begin("two")] == [True, True, False]
