"""Bootstrap intervals: scipy's for the mean, the right coverage for distances, and whole clips drawn together."""

import numpy as np
import pytest
import scipy.stats

from rfm_live.concepts.distances import frechet_distance
from rfm_live.concepts.intervals import Interval, difference_interval, distance_interval, mean_interval


def test_a_means_interval_is_scipys_percentile_bootstrap() -> None:
    values = np.random.default_rng(0).exponential(size=50)
    found = mean_interval(values.tolist())
    theirs = scipy.stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=1)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(theirs.confidence_interval.low, abs=0.02)
    assert found.high == pytest.approx(theirs.confidence_interval.high, abs=0.02)
    wider = mean_interval(values.tolist(), level=0.99)
    assert wider.low < found.low < found.high < wider.high


def test_equal_values_have_no_width_and_the_same_seed_the_same_ends() -> None:
    assert mean_interval([0.25] * 5) == Interval(0.25, 0.25, 0.25)
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    assert mean_interval(values, seed=3) == mean_interval(values, seed=3)
    assert str(Interval(0.5, 0.25, 0.7504)) == "0.500 [0.250, 0.750]"
    assert Interval(0.5, 0.25, 0.75).half_width == 0.25


def test_a_difference_is_taken_clip_by_clip() -> None:
    before = np.random.default_rng(0).normal(size=30) * 10  # the clips differ much, the effect hardly
    found = difference_interval((before + 1.0).tolist(), before.tolist())
    assert found.value == pytest.approx(1.0) and found.half_width < 1e-9


def test_what_has_no_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="there are 0 values, expected 1 or more"):
        mean_interval([])
    with pytest.raises(ValueError, match=r"level is 1\.5, expected between 0 and 1"):
        mean_interval([1.0], level=1.5)
    with pytest.raises(ValueError, match="2 values stand against 1, expected as many"):
        difference_interval([1.0, 2.0], [1.0])


def test_a_distances_interval_holds_the_true_distance_about_as_often_as_it_says() -> None:
    """Normals a mean of 1 apart have a Frechet distance of 1 in one dimension; the reference is taken very large."""
    reference = np.random.default_rng(0).normal(size=(2000, 1))
    held = 0
    for seed in range(60):
        rows = np.random.default_rng(seed + 1).normal(loc=1.0, size=(40, 1))
        interval = distance_interval(frechet_distance, reference, rows, resamples=100, seed=seed)
        held += interval.low <= 1.0 <= interval.high
    assert 50 <= held <= 60


def test_rows_of_one_clip_are_drawn_together() -> None:
    rng = np.random.default_rng(0)
    per_clip = rng.normal(size=(10, 1))
    rows, clips = np.repeat(per_clip, 20, axis=0), np.repeat(np.arange(10), 20)  # ten clips, told twenty times each
    reference = rng.normal(size=(500, 1))
    apart = distance_interval(frechet_distance, reference, rows)
    together = distance_interval(frechet_distance, reference, rows, clips)
    alone = distance_interval(frechet_distance, reference, per_clip)
    assert together.half_width > 2 * apart.half_width
    assert together.half_width == pytest.approx(alone.half_width, rel=0.3)


def test_an_interval_holds_its_own_value_where_drawing_with_repetition_adds_to_the_distance() -> None:
    rng = np.random.default_rng(0)
    reference, rows = rng.normal(size=(200, 10)), rng.normal(size=(30, 10))
    found = distance_interval(frechet_distance, reference, rows)
    drawn_once = frechet_distance(reference, rows[rng.integers(0, 30, 30)])
    assert found.low < found.value < found.high < drawn_once + found.half_width
    assert abs((found.low + found.high) / 2 - found.value) < 0.25 * found.half_width
