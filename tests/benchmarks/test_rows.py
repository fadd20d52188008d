"""The best peer, the direction of a ratio and the failure of a row, computed from given timings."""

import pytest
import torch

from tests.benchmarks.contenders.search import PrunedSearch, SquareSearch, same_up_to_ties
from tests.benchmarks.measure import ContenderError, Pairing, Spec, Timing, far_apart
from tests.benchmarks.rows import Bound, figures_of, table_rows

SHAPE = {"num_half_keys": 20, "num_tokens": 7, "width": 8, "top_k": 4, "num_heads": 2, "key_dim": 6, "value_dim": 5}


def timing(*seconds: float) -> Timing:
    return Timing(seconds=list(seconds), wall_seconds=list(seconds), aside={})


def paired(name: str, ours: Timing, theirs: Timing, *, only_compared: bool = False, wrong: str = "") -> Pairing:
    spec = Spec(name=name, contender="none:None", only_compared=only_compared)
    return Pairing(peer=spec, ours=ours, theirs=theirs, differences=[wrong] if wrong else [], compared=True)


def test_the_peer_is_the_fastest_eligible_one_with_figures_of_its_own_pairing() -> None:
    figures = figures_of(
        [
            paired("slow", timing(1, 1, 1), timing(9, 9, 9)),
            paired("fast", timing(2, 50, 2), timing(6, 6, 90)),
            paired("a reference", timing(1, 1, 1), timing(1, 1, 1), only_compared=True),
        ],
        bound="min",
        shape="",
    )
    assert (figures.peer_name, figures.ours, figures.peer, figures.ratio) == ("fast", 2000, 6000, 3)
    assert [peer["name"] for peer in figures.conditions["peers"]] == ["slow", "fast", "a reference"]


@pytest.mark.parametrize(("bound", "tokens", "expected"), [("min", 0, 4), ("max", 0, 0.25), ("min", 100, 4)])
def test_a_ratio_above_one_is_ours_faster_where_the_bound_is_a_minimum(
    bound: Bound, tokens: int, expected: float
) -> None:
    figures = figures_of([paired("peer", timing(0.5), timing(2))], bound=bound, shape="", tokens=tokens)
    assert figures.ratio == expected
    assert (figures.ours, figures.peer) == ((200, 50) if tokens else (500, 2000))


def test_a_peer_that_cannot_run_is_named_and_the_others_count() -> None:
    broken = Pairing(peer=Spec(name="broken", contender="none:None"), error="broken: No module named 'x'")
    figures = figures_of([broken, paired("peer", timing(1), timing(3))], bound="min", shape="")
    assert figures.ratio == 3
    assert figures.conditions["peers"][0] == {"name": "broken", "error": "broken: No module named 'x'"}
    with pytest.raises(ContenderError, match="No module named 'x'"):
        figures_of([broken], bound="min", shape="")


def test_outputs_that_differ_from_any_peer_are_failures() -> None:
    pairings = [paired("right", timing(1), timing(2)), paired("wrong", timing(1), timing(3), wrong="y differs")]
    assert figures_of(pairings, bound="min", shape="").failures == ["wrong: y differs"]


def test_far_apart_is_measured_in_root_mean_squares_and_counts_what_is_no_number() -> None:
    theirs = torch.tensor([3.0, -3.0, 3.0, -3.0])
    assert far_apart("y", theirs + 2.9e-4, theirs) == []
    assert "25.00%" in far_apart("y", theirs + torch.tensor([0, 0, 0, 1.0]), theirs)[0]
    assert far_apart("y", theirs + torch.tensor([0, 0, 0, 1.0]), theirs, share=0.25) == []
    assert far_apart("y", theirs.where(theirs > 0, torch.nan), theirs)
    assert "shape" in far_apart("y", theirs[:2], theirs)[0]


def test_a_search_is_compared_up_to_ties() -> None:
    ours = PrunedSearch(device=torch.device("cpu"), **SHAPE).outputs()
    theirs = SquareSearch(device=torch.device("cpu"), **SHAPE).outputs()
    assert same_up_to_ties(ours, theirs) == []
    worse = {**ours, "slots": ours["slots"].roll(1, dims=0)}
    assert any("scores" in sentence for sentence in same_up_to_ties(worse, theirs))
    first_twice = {name: tensor.clone() for name, tensor in ours.items()}
    first_twice["slots"][..., 1], first_twice["scores"][..., 1] = ours["slots"][..., 0], ours["scores"][..., 0]
    assert "a slot is named twice for one query" in same_up_to_ties(first_twice, theirs)


def test_the_table_has_the_documented_rows_bounds_and_bars() -> None:
    assert [(row.name, row.bound, row.bar, row.aim) for row in table_rows("cpu")] == [
        ("search_256", "min", 2, 4),
        ("search_1024", "min", 1.6, 2.5),
        ("layer_64k", "min", 2, 4),
        ("layer_1m", "min", 2.5, 4),
        ("read_1m", "min", 1, 1.5),
        ("smf_step_1m", "min", 15, 40),
        ("smf_step_growth", "max", 1.25, 1.05),
        ("decorrelated_500", "min", 1, 2),
        ("decorrelated_2000", "min", 1, 2),
        ("decorrelated_10000", "min", 1, 2),
        ("counting", "min", 1.7, 1.9),
        ("sweep_overhead", "max", 1.15, 1.05),
        ("memory_vs_dense", "min", 0.85, 0.95),
    ]
