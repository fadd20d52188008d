import numpy as np
import pytest

from memlm.results.pareto import forgetting_at, hypervolume, nondominated

# Six points by hand: A is beaten by B (same forgetting, learns more), C by D (better on both), E
# by F (same learning).
LEARNING = np.array([[0.2, 0.4, 0.5, 0.6, 0.9, 0.9]])
FORGETTING = np.array([[0.1, 0.1, 0.3, 0.2, 0.8, 0.7]])
ON = np.array([[False, True, False, True, False, True]])


def test_nondominated_of_six_points_by_hand() -> None:
    np.testing.assert_array_equal(nondominated(LEARNING, FORGETTING), ON)


def test_equal_points_are_both_kept_and_absent_ones_never() -> None:
    learning = np.array([[0.5, 0.5, np.nan], [0.5, np.nan, 0.6]])
    forgetting = np.array([[0.2, 0.2, np.nan], [0.2, np.nan, 0.1]])
    expected = np.array([[True, True, False], [False, False, True]])
    np.testing.assert_array_equal(nondominated(learning, forgetting), expected)


def test_hypervolume_by_hand() -> None:
    # Strips of the frontier B, D, F: 0.4 * 0.9 + 0.2 * 0.8 + 0.3 * 0.3.
    np.testing.assert_allclose(hypervolume(LEARNING, FORGETTING), [0.61])


def test_hypervolume_counts_nothing_beyond_the_reference_but_gains_below_zero() -> None:
    learning = np.array([[0.5, 0.9], [0.5, np.nan], [np.nan, np.nan]])
    forgetting = np.array([[0.2, 1.4], [-0.1, np.nan], [np.nan, np.nan]])
    np.testing.assert_allclose(hypervolume(learning, forgetting), [0.5 * 0.8, 0.5 * 1.1, 0])


@pytest.mark.parametrize(
    ("level", "expected"), [(0.4, 0.1), (0.5, 0.15), (0.55, 0.175), (0.6, 0.2), (0.75, 0.45), (0.9, 0.7)]
)
def test_interpolation_between_neighbouring_frontier_points(level: float, expected: float) -> None:
    value, spans = forgetting_at(level, LEARNING, FORGETTING, ON)
    assert spans.all()
    np.testing.assert_allclose(value, [expected])


def test_outside_the_frontier_is_not_spanned_and_continues_the_frontier() -> None:
    above, spans_above = forgetting_at(0.96, LEARNING, FORGETTING, ON)
    below, spans_below = forgetting_at(0.3, LEARNING, FORGETTING, ON)
    assert not spans_above.any()
    assert not spans_below.any()
    np.testing.assert_allclose(above, [0.7 + 0.06 / 0.3 * 0.5])  # the segment D-F, continued
    np.testing.assert_allclose(below, [0.1])  # B learns more than asked for as little


def test_rows_are_independent() -> None:
    learning = np.array([[0.4, 0.8], [0.4, np.nan], [np.nan, np.nan], [0.8, 0.4]])
    forgetting = np.array([[0.1, 0.3], [0.1, np.nan], [np.nan, np.nan], [0.3, 0.1]])
    value, spans = forgetting_at(0.6, learning, forgetting, nondominated(learning, forgetting))
    np.testing.assert_array_equal(spans, [True, False, False, True])
    np.testing.assert_allclose(value, [0.2, 0.1, np.nan, 0.2])
