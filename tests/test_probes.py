"""Probes against scikit-learn, numpy and arithmetic by hand; what every probe must do; their geometry."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.metrics import r2_score, roc_auc_score

from rfm_live.concepts.geometry import closest_pairs, eigen_spectrum, pairwise_cosines
from rfm_live.concepts.probes import (
    DifferenceOfMeans,
    LeastSquares,
    Logistic,
    Probe,
    RandomDirection,
    RecursiveFeatures,
    Ridge,
    SphericalLeastSquares,
    learn_direction,
)

LEARNING: list[Probe] = [
    DifferenceOfMeans(),
    LeastSquares(),
    SphericalLeastSquares(),
    Ridge(),
    Logistic(),
    RecursiveFeatures(draws=3, rounds=2),
    RecursiveFeatures(draws=3, rounds=2, components=3),
]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def two_classes(points: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points [N, D] of uneven scale, labels 0/1 [N], and the unit line [D] along which the classes lie 4 apart."""
    rng = np.random.default_rng(seed)
    line = rng.standard_normal(width)
    line /= np.linalg.norm(line)
    y = rng.integers(0, 2, points).astype(float)
    return rng.standard_normal((points, width)) + 4.0 * np.outer(y - 0.5, line), y, line


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


@pytest.mark.parametrize("probe", LEARNING, ids=repr)
@pytest.mark.parametrize("width", [7, 150])
def test_every_probe_finds_a_planted_direction_with_the_sign_of_the_labels(probe: Probe, width: int) -> None:
    x, y, line = two_classes(160, width, seed=1)
    found = learn_direction(probe, x[:120], y[:120], x[120:], y[120:])
    assert np.linalg.norm(found.vector) == pytest.approx(1.0)
    assert cosine(found.vector, line) > (0.9 if width == 7 else 0.35)
    assert found.score > 0.85 and found.score == pytest.approx(roc_auc_score(y[120:], found.read(x[120:])))
    assert found.slope > 0 and found.mean[1] > found.mean[0]
    again = learn_direction(probe, x[:120], y[:120], x[120:], y[120:])
    assert np.array_equal(found.vector, again.vector)
    turned = learn_direction(probe, x[:120], 1.0 - y[:120], x[120:], 1.0 - y[120:])
    assert cosine(found.vector, turned.vector) < -0.35


def test_a_composite_explains_the_labels_at_least_as_well_as_the_top_eigenvector() -> None:
    x, y, _ = two_classes(120, 30, seed=10)
    explained = []
    for components in (1, 2, 8):
        vector = RecursiveFeatures(draws=2, rounds=1, components=components).fit(x, y)
        explained.append(np.corrcoef(x @ vector, y)[0, 1])
    assert explained[0] < explained[1] < explained[2]


def test_projections_are_described_per_class_by_hand() -> None:
    """Along the first axis: label 0 at -1 and 1, label 1 at 3 and 5; the line through them is y = 0.2 p + 0.1."""
    x = np.array([[-1.0, 7], [1, 7], [3, 7], [5, 7]])
    found = learn_direction(DifferenceOfMeans(), x, np.array([0.0, 0, 1, 1]), x, np.array([0.0, 1, 0, 1]))
    np.testing.assert_allclose(found.vector, [1.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(found.mean, [0.0, 4.0])
    np.testing.assert_allclose(found.spread, [1.0, 1.0])
    # slope = covariance 4/4 over variance 20/4; intercept = 1/2 - 2 slope
    assert (found.slope, found.intercept) == pytest.approx((0.2, 0.1))
    assert found.score == 0.75  # of four pairs one is the wrong way round


def test_difference_of_means_is_the_covariance_with_the_label() -> None:
    x, y, _ = two_classes(50, 9, seed=2)
    assert cosine(DifferenceOfMeans().fit(x, y), x[y == 1].mean(axis=0) - x[y == 0].mean(axis=0)) == pytest.approx(1.0)


@pytest.mark.parametrize(("points", "width"), [(80, 12), (20, 45)])
def test_least_squares_reads_as_linear_regression_does(points: int, width: int) -> None:
    x, y, _ = two_classes(points + 30, width, seed=3)
    found = learn_direction(LeastSquares(), x[:points], y[:points], x[points:], y[points:])
    expected = LinearRegression().fit(x[:points], y[:points])
    np.testing.assert_allclose(found.read(x[points:]), expected.predict(x[points:]), atol=1e-9)


@pytest.mark.parametrize(("points", "width"), [(80, 12), (20, 45)])
def test_ridge_equals_scikit_learn_in_both_shapes(points: int, width: int) -> None:
    x, y, _ = two_classes(points, width, seed=4)
    penalty = 0.3 * float(np.square(x - x.mean(axis=0)).mean()) * points
    expected = SklearnRidge(alpha=penalty).fit(x, y).coef_
    np.testing.assert_allclose(Ridge(strength=0.3).fit(x, y), expected, rtol=1e-8, atol=1e-12)


def test_spherical_least_squares_is_the_linear_layer_of_the_paper() -> None:
    """2506.10225: unit rows, -1 and +1, mean square error, no bias."""
    x, y, _ = two_classes(90, 8, seed=5)
    rows = x / np.sqrt((x**2).sum(axis=1))[:, None]
    expected = LinearRegression(fit_intercept=False).fit(rows, 2 * y - 1).coef_
    np.testing.assert_allclose(SphericalLeastSquares().fit(x, y), expected, rtol=1e-9)


def test_logistic_does_not_depend_on_the_scale_of_a_coordinate() -> None:
    x, y, _ = two_classes(90, 8, seed=6)
    scale = np.array([1e-3, 1, 1, 50, 1, 1, 1, 0.0])
    plain, scaled = Logistic().fit(x * (scale > 0), y), Logistic().fit(x * scale, y)
    np.testing.assert_allclose(scaled * scale, plain, rtol=1e-3, atol=1e-4)
    standard = (x - x.mean(axis=0)) / x.std(axis=0)
    expected = LogisticRegression(max_iter=2000).fit(standard, y).coef_[0]
    np.testing.assert_allclose(Logistic().fit(x, y) * x.std(axis=0), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "probe", [DifferenceOfMeans(), LeastSquares(), Ridge(), RecursiveFeatures(draws=3, rounds=2)], ids=repr
)
def test_a_tempo_is_read_in_beats_per_minute(probe: Probe) -> None:
    rng = np.random.default_rng(7)
    bpm = rng.uniform(50.0, 210.0, 160)
    x = rng.standard_normal((160, 10)) * 0.2
    x[:, 3] -= bpm / 40.0
    found = learn_direction(probe, x[:120], bpm[:120], x[120:], bpm[120:])
    assert found.mean.shape == found.spread.shape == (1,)
    assert found.vector[3] < -0.9  # faster is along minus the fourth coordinate
    assert found.score > 0.9 and found.score == pytest.approx(r2_score(bpm[120:], found.read(x[120:])))
    assert np.abs(found.read(x[120:]) - bpm[120:]).mean() < 15.0


def test_a_random_direction_is_the_control() -> None:
    """It scores about chance where the planted line scores almost 1; seeds differ."""
    x, y, _ = two_classes(600, 300, seed=8)
    found = [learn_direction(RandomDirection(seed), x[:400], y[:400], x[400:], y[400:]) for seed in range(12)]
    assert 0.4 < np.mean([direction.score for direction in found]) < 0.65
    assert all(direction.slope > 0 and direction.mean[1] > direction.mean[0] for direction in found)
    assert learn_direction(DifferenceOfMeans(), x[:400], y[:400], x[400:], y[400:]).score > 0.9
    assert abs(cosine(RandomDirection(0).fit(x, y), RandomDirection(1).fit(x, y))) < 0.3


def test_labels_that_a_probe_cannot_learn_are_refused() -> None:
    x, y, _ = two_classes(20, 5, seed=9)
    with pytest.raises(ValueError, match="all 20 labels are 1, expected labels that vary"):
        learn_direction(LeastSquares(), x, np.ones(20), x, y)
    with pytest.raises(ValueError, match="expected both classes"):
        learn_direction(LeastSquares(), x, y, x, np.zeros(20))
    for probe in (Logistic(), SphericalLeastSquares()):
        with pytest.raises(ValueError, match=f"{type(probe).__name__} has labels .*, expected 0 and 1"):
            learn_direction(probe, x, y * 3.0, x, y)
    with pytest.raises(ValueError, match="finds no direction"):
        learn_direction(DifferenceOfMeans(), np.ones((20, 5)), y, x, y)
    with pytest.raises(ValueError, match="held-out points hold a value that is not finite"):
        learn_direction(DifferenceOfMeans(), x, y, np.full_like(x, np.inf), y)
    with pytest.raises(ValueError, match="a class has 1 points"):
        RecursiveFeatures().fit(x, np.eye(20)[0])


def test_cosines_between_concepts_by_hand() -> None:
    """Two blocks; [3, 4] against [5, 0] is 3/5."""
    directions = np.array([[[3.0, 4], [1, 0]], [[5, 0], [0, 2]], [[-3, -4], [1, 1]]])
    cosines = pairwise_cosines(directions)
    np.testing.assert_allclose(cosines[0], [[1, 0.6, -1], [0.6, 1, -0.6], [-1, -0.6, 1]], atol=1e-12)
    first, second, *_ = closest_pairs(directions, 2)
    assert (first.first, first.second, first.layer, first.cosine) == (0, 2, 0, pytest.approx(-1.0))
    assert (second.first, second.second, second.layer, second.cosine) == (1, 2, 1, pytest.approx(2**-0.5))
    assert pairwise_cosines(np.zeros((0, 3, 4))).shape == (3, 0, 0) and closest_pairs(np.ones((1, 3, 4)), 5) == []
    with pytest.raises(ValueError, match="direction 1 of layer 0 has length 0"):
        pairwise_cosines(np.array([[[1.0]], [[0.0]]]))


def test_the_eigen_spectrum_counts_directions() -> None:
    spectrum = eigen_spectrum(np.array([1.0, 3.0, 0.0]))
    np.testing.assert_allclose(spectrum.shares, [0.75, 0.25, 0.0])
    assert spectrum.participation == pytest.approx(1.6)  # 4^2 / (3^2 + 1^2)
    assert [spectrum.components(share) for share in (0.5, 0.75, 0.76, 1.0)] == [1, 1, 2, 2]
    assert eigen_spectrum(np.full(7, 0.2)).participation == pytest.approx(7.0)
    with pytest.raises(ValueError, match="expected 0 or more"):
        eigen_spectrum(np.array([1.0, -1.0]))
