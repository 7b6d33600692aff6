"""Fronts, crossings, shares and curves: every answer worked out by hand."""

import numpy as np
import pytest

from rfm_live.experiments.curves import crossing_frame, height_at, pareto_front, share_interval, smoothed


def test_the_front_holds_what_no_other_point_beats() -> None:
    #          a     b     c     d     e
    control = [0.10, 0.50, 0.40, 0.90, 0.85]
    drift = [1.0, 2.0, 3.0, 8.0, 9.0]
    # c is beaten by b (more control, less drift), e by d; a, b and d are beaten by none.
    assert pareto_front(control, drift) == [0, 1, 3]


def test_of_equal_control_the_least_drift_and_of_equal_points_the_first_is_on_the_front() -> None:
    assert pareto_front([0.5, 0.5, 0.2], [2.0, 1.0, 1.0]) == [1]
    assert pareto_front([0.5, 0.5], [1.0, 1.0]) == [0]
    assert pareto_front([], []) == []


def test_a_clean_crossing_is_where_the_joining_trace_comes_to_lie_above() -> None:
    falling, rising = np.linspace(1.0, 0.0, 11), np.linspace(0.0, 1.0, 11)
    # At frame 5 both are 0.5, at frame 6 the joining one leads.
    assert crossing_frame(falling, rising) == 6


def test_a_short_lead_is_not_taken_for_the_crossing() -> None:
    joining = np.array([0, 1, 0, 0, 0, 1, 1, 0, 1, 1])
    # Cut at 5: wrong are frame 1 before and frame 7 after it; cut at 8: 1, 5 and 6; so 5 is best.
    assert crossing_frame(np.full(10, 0.5), joining) == 5


def test_traces_that_never_or_always_lead_do_not_cross() -> None:
    low, high = np.zeros(5), np.ones(5)
    assert crossing_frame(high, low) is None and crossing_frame(low, high) is None
    assert crossing_frame(low, low) is None


def test_a_running_mean_takes_at_the_ends_what_there_is() -> None:
    np.testing.assert_allclose(smoothed(np.array([0.0, 3.0, 6.0, 9.0]), 3), [1.5, 3.0, 6.0, 7.5])
    np.testing.assert_allclose(smoothed(np.array([1.0, 2.0]), 1), [1.0, 2.0])
    np.testing.assert_allclose(smoothed(np.array([1.0, 3.0]), 9), [2.0, 2.0])


def test_a_curve_is_read_between_its_points_and_not_beyond() -> None:
    assert height_at([2.0, 0.0, 1.0], [20.0, 0.0, 4.0], 1.5) == 12.0
    assert height_at([0.0, 1.0], [3.0, 5.0], 1.0) == 5.0
    assert height_at([0.0, 1.0], [3.0, 5.0], 1.1) is None and height_at([], [], 0.0) is None


def test_the_share_of_an_effect_is_the_ratio_of_the_means() -> None:
    share = share_interval([0.2, 0.4, 0.3, 0.3], [0.4, 0.4, 0.4, 0.4])
    assert share is not None
    assert share.value == pytest.approx(1.2 / 1.6)  # 0.75
    assert 0.5 <= share.low < 0.75 < share.high <= 1.0  # between the least and the largest ratio of one clip
    whole = share_interval([0.3, 0.1, 0.5], [0.3, 0.1, 0.5])
    assert whole is not None and (whole.value, whole.low, whole.high) == pytest.approx((1.0, 1.0, 1.0))


def test_a_share_of_no_effect_is_none() -> None:
    assert share_interval([0.2, 0.2], [0.0, 0.0]) is None
    assert share_interval([0.2, 0.2], [-0.1, -0.3]) is None
    assert share_interval([0.2, 0.2, 0.2, 0.2], [0.9, -0.3, -0.3, -0.2]) is None  # above 0 by one clip only
    with pytest.raises(ValueError, match="0 values"):
        share_interval([], [])
    with pytest.raises(ValueError):
        share_interval([0.1], [0.1, 0.2])
