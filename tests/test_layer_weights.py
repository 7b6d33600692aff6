"""Layer weights are MusicRFM's forms of the min-max normalised scores, worked out by hand."""

import numpy as np
import pytest

from rfm_live.steering.layer_weights import layer_weights

SCORES = np.array([0.6, 0.9, 0.5, 0.7], np.float32)  # normalised: 0.25, 1, 0, 0.5


@pytest.mark.parametrize(
    ("form", "weights"),
    [
        ("uniform", [1.5, 1.5, 1.5, 1.5]),
        ("top_k", [0.0, 1.5, 0.0, 1.5]),
        ("linear", [0.375, 1.5, 0.0, 0.75]),
        ("exponential", [1.5 / 16, 1.5, 0.0, 0.375]),  # 1 / kappa = 2: squares
    ],
)
def test_every_form_is_its_formula(form: str, weights: list[float]) -> None:
    np.testing.assert_allclose(layer_weights(form, SCORES, k=2, kappa=0.5, w0=1.5), weights, rtol=1e-6)


def test_the_papers_kappa_bends_the_line_a_little() -> None:
    weights = layer_weights("exponential", SCORES, k=1, kappa=0.95, w0=1.0)
    np.testing.assert_allclose(weights, [0.25 ** (1 / 0.95), 1.0, 0.0, 0.5 ** (1 / 0.95)], rtol=1e-6)


@pytest.mark.parametrize(("k", "kept"), [(1, 1), (3, 3), (4, 4), (64, 4)])
def test_top_k_keeps_k_blocks_or_all_that_there_are(k: int, kept: int) -> None:
    assert np.count_nonzero(layer_weights("top_k", SCORES, k, 1.0, 1.0)) == kept


def test_equal_scores_are_all_best_and_the_lower_block_goes_first() -> None:
    equal = np.full(3, 0.8, np.float32)
    for form in ("linear", "exponential"):
        np.testing.assert_array_equal(layer_weights(form, equal, 1, 0.95, 1.0), np.ones(3))
    np.testing.assert_array_equal(layer_weights("top_k", equal, 2, 0.95, 1.0), [1, 1, 0])


def test_another_form_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="layer weights 'best' are none of uniform, top_k, exponential, linear"):
        layer_weights("best", SCORES, 1, 1.0, 1.0)
