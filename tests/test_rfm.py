"""Recursive feature machines against xrfm, autograd and arithmetic by hand."""

from itertools import islice

import numpy as np
import pytest
import torch
from xrfm import RFM

from rfm_live.concepts.rfm import (
    KernelMachine,
    RfmSettings,
    RowSpace,
    average_outer_product,
    composite_direction,
    drawn_settings,
    fit_rfm,
    machines,
    median_distance,
    metric_of,
    search_rfm,
    squared_distances,
)

SETTINGS = [
    RfmSettings(rounds=3),
    RfmSettings(bandwidth=0.5, ridge=1e-2, exponent=0.7, centred=True, rounds=3),
    RfmSettings(bandwidth=3.0, ridge=1e-1, exponent=1.4, rounds=3),
]
NAMES = ["laplace", "sharp and centred", "wide"]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def planted(points: int, width: int, outputs: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points [N, D], far from the origin, and 0/1 targets [N, O] that depend on one hidden line."""
    rng = np.random.default_rng(seed)
    line = rng.standard_normal(width) / np.sqrt(width)
    x = 3.0 * rng.standard_normal((points, width))
    hidden = x @ line + 0.3 * rng.standard_normal(points)
    edges = np.quantile(hidden, np.arange(1, outputs + (outputs == 1)) / (outputs + (outputs == 1)))
    classes = np.searchsorted(edges, hidden)
    y = classes[:, None].astype(float) if outputs == 1 else np.eye(outputs)[classes]
    return x + 5.0, y


def oracle_rounds(
    x: np.ndarray, y: np.ndarray, x_validation: np.ndarray, y_validation: np.ndarray, settings: RfmSettings, rounds: int
) -> RFM:
    """xrfm after `rounds` rounds with our settings: its predictor, and the AGOP of that predictor."""
    oracle = RFM(
        kernel="l2_high_dim",
        bandwidth=settings.bandwidth,
        exponent=settings.exponent,
        bandwidth_mode="adaptive",
        device="cpu",
        verbose=False,
        tuning_metric="mse",
    )
    parts = [torch.as_tensor(part) for part in (x, y, x_validation, y_validation)]
    oracle.fit(
        (parts[0], parts[1]),
        (parts[2], parts[3]),
        iters=rounds,
        reg=settings.ridge,
        center_grads=settings.centred,
        early_stop_rfm=False,
        return_best_params=False,
        get_agop_best_model=True,
    )
    return oracle


@pytest.mark.parametrize("settings", SETTINGS, ids=NAMES)
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize(("points", "width"), [(90, 17), (40, 61)])
def test_every_round_equals_xrfm(settings: RfmSettings, outputs: int, points: int, width: int) -> None:
    """The bars: AGOP within 1e-4 relative, top eigenvector's cosine 0.999, predictions within 1e-4."""
    x, y = planted(points + 15, width, outputs, seed=3)
    own = list(machines(torch.as_tensor(x[:points]), torch.as_tensor(y[:points]), settings))
    assert len(own) == settings.rounds + 1
    for rounds, (machine, agop) in enumerate(own):
        oracle = oracle_rounds(x[:points], y[:points], x[points:], y[points:], settings, rounds)
        scaled, theirs = agop / agop.max(), oracle.agop_best_model
        assert float((scaled - theirs).norm() / theirs.norm()) < 1e-4
        cosine = torch.linalg.eigh(scaled)[1][:, -1] @ torch.linalg.eigh(theirs)[1][:, -1]
        assert abs(float(cosine)) >= 0.999
        rows = torch.as_tensor(x[points:])
        assert float((machine.predict(rows) - oracle.predict(rows)).abs().max()) < 1e-4


@pytest.mark.parametrize("exponent", [0.7, 1.0, 1.3, 2.0])
def test_gradients_equal_autograd(exponent: float) -> None:
    rng = torch.Generator().manual_seed(0)
    points, x = torch.randn(7, 5, generator=rng).double(), torch.randn(4, 5, generator=rng).double()
    root = torch.randn(5, 5, generator=rng).double()
    machine = KernelMachine(points, torch.randn(7, 3, generator=rng).double(), root @ root.T, 1.7, exponent)
    x.requires_grad_(True)
    values = machine.predict(x)
    for output, gradient in enumerate(machine.gradients(x.detach())):
        (expected,) = torch.autograd.grad(values[:, output].sum(), x, retain_graph=True)
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


def test_two_orthogonal_gradients_average_by_hand() -> None:
    """Gradients [1, 0] and [0, 1]: (diag(1, 0) + diag(0, 1)) / 2, and around their mean [1/2, 1/2] the antidiagonal."""
    gradients = torch.eye(2, dtype=torch.float64)
    plain = average_outer_product(iter([gradients]), centred=False)
    assert plain.tolist() == [[0.5, 0.0], [0.0, 0.5]]
    centred = average_outer_product(iter([gradients[:1], gradients[1:]]), centred=True)  # two outputs, one point
    assert centred.tolist() == [[0.25, -0.25], [-0.25, 0.25]]
    values, vectors = torch.linalg.eigh(centred)
    assert values.tolist() == pytest.approx([0.0, 0.5])
    assert abs(float(vectors[:, 1] @ torch.tensor([1.0, -1.0], dtype=torch.float64))) == pytest.approx(2**0.5)


def test_the_metric_is_the_agop_to_twice_alpha() -> None:
    agop = torch.diag(torch.tensor([4.0, 1.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(metric_of(agop, 0.5), torch.diag(torch.tensor([1.0, 0.25, 0.0]).double()))
    torch.testing.assert_close(metric_of(agop, 1.0), torch.diag(torch.tensor([1.0, 0.0625, 0.0]).double()))
    torch.testing.assert_close(metric_of(agop, 0.25), torch.diag(torch.tensor([1.0, 0.5, 0.0]).double()))


def test_distances_and_their_median_by_hand() -> None:
    """Corners of a 3-4-5 triangle; the metric diag(4, 1) doubles the first axis."""
    corners = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    squared = squared_distances(corners, corners, None)
    torch.testing.assert_close(squared, torch.tensor([[0.0, 9, 16], [9, 0, 25], [16, 25, 0]]).double())
    assert median_distance(squared) == pytest.approx(4.0)
    stretched = squared_distances(corners, corners, torch.diag(torch.tensor([4.0, 1.0]).double()))
    torch.testing.assert_close(stretched[1], torch.tensor([36.0, 0.0, 52.0]).double())


def test_points_far_from_the_origin_keep_their_distances() -> None:
    """Without centring, the rounding of 1e8 squared would be a thousand times the distances."""
    points = torch.randint(-9, 10, (9, 6), generator=torch.Generator().manual_seed(1)).double()
    squared = squared_distances(points + 1e8, points + 1e8, None)
    torch.testing.assert_close(squared, torch.cdist(points, points) ** 2, rtol=1e-6, atol=1e-6)
    assert not squared.diagonal().any()


@pytest.mark.parametrize("settings", [*SETTINGS, RfmSettings(power=0.3, rounds=2)], ids=[*NAMES, "power"])
def test_the_row_space_gives_the_same_direction(settings: RfmSettings) -> None:
    """The bar: cosine 0.9999; and the same scores round by round, and the same predictions."""
    x, y = planted(48, 130, 1, seed=5)
    reduced = fit_rfm(x[:36], y[:36], x[36:], y[36:], settings)
    assert reduced.space is not None and reduced.eigenvectors.shape[0] == 130
    full = list(machines(torch.as_tensor(x[:36]), torch.as_tensor(y[:36]), settings))
    machine, agop = full[reduced.best_round]
    top = torch.linalg.eigh(agop)[1][:, -1].numpy()
    assert abs(float(top @ reduced.eigenvectors[:, 0])) >= 0.9999
    np.testing.assert_allclose(reduced.predict(x[36:]), machine.predict(torch.as_tensor(x[36:])).numpy(), atol=1e-8)


def test_the_row_space_keeps_every_distance() -> None:
    x = torch.randn(11, 30, generator=torch.Generator().manual_seed(2)).double()
    x[10] = x[3]  # a clip that occurs twice
    space = RowSpace.of(x)
    assert space.basis.shape == (30, 9)
    rows = space.reduce(x)
    torch.testing.assert_close(squared_distances(rows, rows, None), squared_distances(x, x, None), atol=1e-9, rtol=1e-9)


def test_the_top_eigenvector_finds_a_planted_line_and_the_best_round_is_kept() -> None:
    x, y = planted(300, 20, 1, seed=7)
    line = np.random.default_rng(7).standard_normal(20)
    fit = fit_rfm(x[:200], y[:200], x[200:], y[200:], RfmSettings(bandwidth=2.0, ridge=0.1, rounds=4))
    assert len(fit.scores) == 5 and fit.score == max(fit.scores) == fit.scores[fit.best_round]
    assert fit.score > 0.95
    assert abs(float(line @ fit.eigenvectors[:, 0])) / np.linalg.norm(line) > 0.95
    assert (np.diff(fit.eigenvalues) <= 0.0).all()
    np.testing.assert_allclose(fit.eigenvectors.T @ fit.eigenvectors, np.eye(20), atol=1e-10)


def test_a_tempo_is_a_regression() -> None:
    rng = np.random.default_rng(8)
    x = rng.standard_normal((180, 12))
    bpm = 120.0 + 40.0 * x[:, 4:5]
    standard = (bpm - bpm.mean()) / bpm.std()
    fit = fit_rfm(x[:120], standard[:120], x[120:], standard[120:], RfmSettings(ridge=1e-2, rounds=4))
    assert fit.score > 0.95
    assert abs(fit.eigenvectors[4, 0]) > 0.99


def test_neither_scale_nor_rotation_of_the_activations_matters() -> None:
    x, y = planted(60, 9, 1, seed=9)
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((9, 9)))[0]
    settings = RfmSettings(rounds=3)
    plain = fit_rfm(x[:45], y[:45], x[45:], y[45:], settings)
    moved = fit_rfm(70.0 * x[:45] @ turn, y[:45], 70.0 * x[45:] @ turn, y[45:], settings)
    assert plain.scores == pytest.approx(moved.scores)
    assert abs(float(plain.eigenvectors[:, 0] @ turn @ moved.eigenvectors[:, 0])) == pytest.approx(1.0, abs=1e-6)


def test_the_search_is_named_by_its_seed_and_more_draws_keep_the_earlier_ones() -> None:
    assert list(islice(drawn_settings(4, 2), 3)) == list(islice(drawn_settings(4, 2), 9))[:3]
    assert next(drawn_settings(4, 2)) != next(drawn_settings(5, 2))
    assert len(set(islice(drawn_settings(0, 2), 50))) == 50
    for settings in islice(drawn_settings(0, 2), 50):
        assert 0.2 <= settings.bandwidth <= 20.0 and 1e-5 <= settings.ridge <= 10.0 and 0.7 <= settings.exponent <= 1.4
    x, y = planted(60, 8, 1, seed=10)
    parts = x[:40], y[:40], x[40:], y[40:]
    few, many = (search_rfm(*parts, draws=draws, rounds=2, seed=1) for draws in (2, 6))
    again = search_rfm(*parts, draws=6, rounds=2, seed=1)
    assert many.score >= few.score
    assert many.settings == again.settings and np.array_equal(many.eigenvectors, again.eigenvectors)


def test_a_composite_of_eigenvectors_weighs_them_by_least_squares() -> None:
    x = np.array([[1.0, 0, 5], [-1, 0, 5], [0, 1, 5], [0, -1, 5]])
    y = 3.0 * x[:, 0] - 4.0 * x[:, 1]
    np.testing.assert_allclose(composite_direction(x, y, np.eye(3)[:, :2]), [0.6, -0.8, 0.0], atol=1e-12)
    np.testing.assert_allclose(composite_direction(x, -y, np.eye(3)[:, :1]), [-1.0, 0.0, 0.0], atol=1e-12)


def test_what_cannot_be_learned_is_refused() -> None:
    x, y = planted(20, 5, 1, seed=11)
    for name in ("bandwidth", "ridge", "exponent", "power"):
        with pytest.raises(ValueError, match=f"{name} is 0.0, expected a number above 0"):
            RfmSettings(**{name: 0.0})
    with pytest.raises(ValueError, match=r"exponent is 2.5"):
        RfmSettings(exponent=2.5)
    with pytest.raises(ValueError, match="coincide"):
        fit_rfm(np.ones_like(x), y, x, y, RfmSettings())
    with pytest.raises(ValueError, match="not finite"):
        fit_rfm(np.where(x > 8, np.nan, x), y, x, y, RfmSettings())
    with pytest.raises(ValueError, match="of 20 labels 1, expected both classes"):
        fit_rfm(x, y, x, np.ones_like(y), RfmSettings())
    with pytest.raises(ValueError, match="expected"):
        fit_rfm(x, y[:, 0], x, y, RfmSettings())


def test_labels_that_do_not_vary_end_after_the_rounds_that_are_possible() -> None:
    x, _ = planted(20, 5, 1, seed=12)
    rounds = list(machines(torch.as_tensor(x), torch.zeros(20, 1).double(), RfmSettings(rounds=4)))
    assert len(rounds) == 1 and not rounds[0][1].any()
