import json

import pytest

from memlm.training.goodput import Diary, Goodput, Start, goodput_of


def start(session, seen, first, last, stepping, saving=0.0, begun=True) -> Start:
    return Start(
        session=session,
        seen=seen,
        begun=begun,
        first_step=first,
        last_step=last,
        seconds_stepping=stepping,
        seconds_saving=saving,
    )


def test_an_undisturbed_run_loses_its_start_and_its_saves():
    goodput = goodput_of([start(1000, 1100, 0, 50, 80, saving=5)])
    assert goodput == Goodput(share=0.8, seconds=100, steps_redone=0, restarts=0, seconds_saving=5)


def test_steps_that_were_done_again_count_once():
    """30 of the first start's 40 steps count, and all of the second's; the time between belongs
    to the session."""
    goodput = goodput_of([start(0, 50, 0, 40, 40), start(0, 100, 30, 60, 30)])
    assert goodput == Goodput(share=0.6, seconds=100, steps_redone=10, restarts=1, seconds_saving=0)


def test_between_two_sessions_no_time_passes():
    goodput = goodput_of([start(0, 50, 0, 40, 40), start(9000, 9050, 40, 80, 40)])
    assert (goodput.share, goodput.seconds) == (0.8, 100)


def test_a_start_from_an_older_state_discards_steps_of_all_earlier_starts():
    """After a damaged state, the third start resumes from before the second one's first step."""
    goodput = goodput_of([start(0, 10, 0, 10, 10), start(0, 20, 8, 12, 4), start(0, 30, 6, 20, 14)])
    assert goodput.steps_redone == 4 + 4
    assert goodput.share == pytest.approx((6 + 0 + 14) / 30)


def test_a_start_without_a_step_discards_none():
    goodput = goodput_of([start(0, 10, 0, 10, 10), start(0, 20, 0, 0, 0, begun=False), start(0, 40, 10, 30, 20)])
    assert (goodput.share, goodput.steps_redone, goodput.restarts) == (0.75, 0, 2)


def test_a_diary_continues_after_a_truncated_one(tmp_path):
    first = Diary(uri=str(tmp_path), session=0.0)
    first.begin(0)
    first.add(10, seconds_stepping=4.0, seconds_saving=1.0, write=True)
    first.add(11, seconds_stepping=5.0, seconds_saving=1.0)  # not yet written: to be lost
    (tmp_path / "0002.json").write_text("{")  # no crash of ours leaves this; the account continues without it
    second = Diary(uri=str(tmp_path), session=0.0)
    second.begin(10)
    second.add(20, seconds_stepping=4.0, seconds_saving=1.0)
    assert (first.number, second.number) == (1, 3)
    goodput = second.goodput()
    assert (goodput.restarts, goodput.steps_redone, goodput.seconds_saving) == (1, 0, 2.0)
    assert goodput.share * goodput.seconds == pytest.approx(8.0)
    assert json.loads((tmp_path / "0001.json").read_text())["last_step"] == 10


def test_other_files_among_the_starts_are_left_alone(tmp_path):
    for name in (".DS_Store", "README.md", "notes.json", "Thumbs.db"):
        (tmp_path / name).write_text("of somebody else")
    assert Diary(uri=str(tmp_path), session=0.0).number == 1
    assert Diary(uri=str(tmp_path), session=0.0).number == 2
    assert (tmp_path / "README.md").read_text() == "of somebody else"
