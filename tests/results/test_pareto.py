import numpy as np
import pytest

from memlm.results.pareto import Curve, hypervolume, nondominated

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


def line(learning: list[list[float]], loss: list[list[float]]) -> tuple[Curve, np.ndarray]:
    """Points behind an untrained model that knows nothing and has lost nothing."""
    zeros = np.zeros((len(learning), 1))
    return Curve(np.hstack([zeros, learning])), np.hstack([zeros, loss])


@pytest.mark.parametrize(
    ("level", "expected"), [(0.1, 0.05), (0.2, 0.1), (0.3, 0.1), (0.5, 0.15), (0.6, 0.2), (0.75, 0.45), (0.9, 0.7)]
)
def test_interpolation_from_the_untrained_model_through_neighbouring_points(level: float, expected: float) -> None:
    curve, loss = line([[0.2, 0.4, 0.6, 0.9]], [[0.1, 0.1, 0.2, 0.7]])
    assert curve.reaches(level).all()
    np.testing.assert_allclose(curve.at(level, loss), [expected])


def test_a_line_joins_its_points_in_the_order_of_each_rows_learning() -> None:
    curve, loss = line([[0.4, 0.8], [0.8, 0.4]], [[0.1, 0.3], [0.3, 0.1]])
    np.testing.assert_allclose(curve.at(0.6, loss), [0.2, 0.2])


def test_beyond_its_end_a_line_continues_its_last_segment() -> None:
    curve, loss = line([[0.4, 0.6, 0.9]], [[0.1, 0.2, 0.7]])
    assert not curve.reaches(0.96).any()
    np.testing.assert_allclose(curve.at(0.96, loss), [0.7 + 0.06 / 0.3 * 0.5])


def test_points_close_together_do_not_continue_a_line() -> None:
    """The last two points give a slope of 20; the next one at 0.05 or more, 0.6, gives 1."""
    curve, loss = line([[0.6, 0.79, 0.8]], [[0.2, 0.2, 0.4]])
    np.testing.assert_allclose(curve.at(0.9, loss), [0.4 + 0.1 * 1.0])
    nothing, loss = line([[0.01, 0.02]], [[0.0, 0.3]])
    np.testing.assert_allclose(nothing.at(0.9, loss), [0.3])


def test_rows_are_independent_and_a_row_without_settings_has_no_value() -> None:
    curve, loss = line([[0.4, 0.8], [0.4, np.nan], [np.nan, np.nan]], [[0.1, 0.3], [0.1, np.nan], [np.nan, np.nan]])
    np.testing.assert_array_equal(curve.reaches(0.6), [True, False, False])
    np.testing.assert_allclose(curve.at(0.6, loss), [0.2, 0.15, np.nan])


def test_a_level_that_the_untrained_model_knows_costs_nothing() -> None:
    curve = Curve(np.array([[0.3, 0.5]]))
    np.testing.assert_allclose(curve.at(0.2, np.array([[0.0, 0.4]])), [0.0])
    np.testing.assert_allclose(curve.at(0.4, np.array([[0.0, 0.4]])), [0.2])
