import math

import pytest

from memlm.results.scores import Measure, SetScore


def score(items: tuple[float, ...], *, chance: float, measure: Measure = "nats_per_token") -> SetScore:
    return SetScore(task="a@1", measure=measure, chance=chance, items=items)


def test_the_drop_of_a_loss_is_the_share_lost_of_what_a_unigram_model_does_not_know() -> None:
    start, end = score((1.0, 3.0), chance=6.0), score((2.0, 4.0), chance=6.0)
    assert start.above_chance == 4.0
    assert start.drop_to(end) == pytest.approx(1 / 4)
    assert end.drop_to(start) == pytest.approx(-1 / 3)
    assert start.drop_to(score((6.0, 6.0), chance=6.0)) == pytest.approx(1.0)


def test_a_loss_without_chance_drops_as_it_did_before_chance_was_measured() -> None:
    start, end = score((1.0, 3.0), chance=0.0), score((2.0, 4.0), chance=0.0)
    assert start.drop_to(end) == pytest.approx(1 / 2)
    assert start.standard_errors_above_chance == math.inf


def test_a_loss_at_chance_has_nothing_to_lose() -> None:
    for value in (6.0, 7.0):
        assert math.isnan(score((value, value), chance=6.0).drop_to(score((8.0, 8.0), chance=6.0)))


def test_standard_errors_of_a_loss_count_downwards_from_chance() -> None:
    assert score((1.0, 3.0), chance=6.0).standard_errors_above_chance == pytest.approx(4 / (1 / 2**0.5))
    assert score((7.0, 9.0), chance=6.0).standard_errors_above_chance < 0


def test_the_drop_of_an_accuracy_is_the_share_lost_above_chance() -> None:
    start = score((1.0, 0.5), chance=0.25, measure="accuracy")
    assert start.above_chance == 0.5
    assert start.drop_to(score((0.5, 0.5), chance=0.25, measure="accuracy")) == pytest.approx(0.5)
