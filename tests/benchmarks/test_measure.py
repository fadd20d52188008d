"""Contenders in processes of their own: timing, comparison, and failures."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from tests.benchmarks.contender import Clock
from tests.benchmarks.contenders.search import same_up_to_ties
from tests.benchmarks.measure import Budget, ContenderError, Process, Spec, in_turns, pair

SHAPE = {"num_half_keys": 20, "num_tokens": 7, "width": 8, "top_k": 4, "num_heads": 2, "key_dim": 6, "value_dim": 5}
FEW = Budget(seconds=0, fewest=2, most=2)


def spec(contender: str, *, needs_bytes: int = 0, **changes: object) -> Spec:
    return Spec(
        name=contender,
        contender=contender,
        arguments={"device": "cpu", **SHAPE, **changes},
        needs_bytes=needs_bytes,
    )


def test_the_clock_counts_only_this_process_inside_the_block() -> None:
    clock = Clock(torch.device("cpu"), wall=False)
    with clock:
        time.sleep(0.2)
    asleep = clock.seconds
    began = time.process_time()
    while time.process_time() - began < 0.1:
        pass
    with clock.separately("search"):
        time.sleep(0)
    with clock:
        while time.process_time() - began < 0.3:
            pass
    assert asleep < 0.1 < clock.seconds - asleep < 0.3
    assert clock.wall_seconds > 0.35
    assert clock.aside.keys() == {"search"}


def test_a_wall_clock_counts_elapsed_time() -> None:
    clock = Clock(torch.device("cpu"), wall=True)
    with clock:
        time.sleep(0.1)
    assert clock.seconds >= 0.1


@pytest.mark.slow
def test_contenders_are_timed_alone_on_one_thread_and_compared(tmp_path: Path) -> None:
    peers = [spec("contenders.search:SquareSearch"), spec("contenders.search:NoSuchSearch")]
    right, broken = pair(spec("contenders.search:PrunedSearch"), peers, tmp_path, check=same_up_to_ties, budget=FEW)
    assert right.compared and right.differences == [] and right.error == ""
    assert right.ours is not None and right.theirs is not None
    assert len(right.ours.seconds) == len(right.theirs.seconds) == 2
    assert min(*right.ours.seconds, *right.peak_bytes) > 0
    assert "no attribute 'NoSuchSearch'" in broken.error
    assert list(tmp_path.glob("*.safetensors")) == []


@pytest.mark.slow
def test_a_difference_is_found_and_a_peer_that_computes_something_else_is_not_compared(tmp_path: Path) -> None:
    other = spec("contenders.search:SquareSearch", num_tokens=6)
    assert pair(spec("contenders.search:PrunedSearch"), [other], tmp_path, check=_shapes, budget=FEW)[
        0
    ].differences == ["7 6"]
    other = Spec(name="other", contender=other.contender, arguments=other.arguments, differs="fewer tokens")
    pairing = pair(spec("contenders.search:PrunedSearch"), [other], tmp_path, check=_shapes, budget=FEW)[0]
    assert not pairing.compared and pairing.differences == []


def _shapes(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> list[str]:
    sizes = len(ours["slots"]), len(theirs["slots"])
    return [] if sizes[0] == sizes[1] else [f"{sizes[0]} {sizes[1]}"]


def test_a_failure_of_ours_fails_the_row_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ContenderError, match="top_k is 30"):
        pair(spec("contenders.search:PrunedSearch", top_k=30), [], tmp_path, check=same_up_to_ties, budget=FEW)


def test_a_contender_that_does_not_fit_is_not_started(tmp_path: Path) -> None:
    with pytest.raises(ContenderError, match="needs 1048576.0 GiB .* free"):
        Process(spec("contenders.search:PrunedSearch", needs_bytes=1 << 50), tmp_path)


@pytest.mark.slow
def test_a_contenders_process_ends_with_its_turn(tmp_path: Path) -> None:
    with Process(spec("contenders.search:PrunedSearch"), tmp_path) as process:
        in_turns([process], FEW)
        pid = process.process.pid
        assert process.ask("memory")["peak_bytes"] > 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
