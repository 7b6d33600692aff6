"""AUC by rank and R2 against scikit-learn and arithmetic by hand."""

import numpy as np
import pytest
from sklearn.metrics import r2_score, roc_auc_score

from rfm_live.concepts.scores import auc, is_binary, r_squared, score


def test_auc_counts_pairs_and_half_of_the_ties() -> None:
    """Positives 1, 3 against negatives 0, 1, 2: (1 + 1/2 + 0 + 1 + 1 + 1) / 6."""
    assert auc(np.array([[1.0], [3.0]]), np.array([[0.0], [1.0], [2.0]])) == pytest.approx([4.5 / 6])


def test_auc_equals_scikit_learn_with_many_ties_in_every_column() -> None:
    rng = np.random.default_rng(0)
    readings, labels = rng.integers(0, 9, (71, 3)).astype(float), rng.integers(0, 2, 71)
    expected = [roc_auc_score(labels, column) for column in readings.T]
    np.testing.assert_allclose(auc(readings[labels == 1], readings[labels == 0]), expected)
    one_hot = np.stack([labels, 1 - labels, labels], axis=1).astype(float)
    assert score(readings, one_hot) == pytest.approx(np.mean([expected[0], 1 - expected[1], expected[2]]))


def test_r_squared_equals_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    values = rng.standard_normal((40, 1))
    readings = values + 0.3 * rng.standard_normal((40, 1))
    assert r_squared(readings, values) == pytest.approx(r2_score(values, readings))
    assert score(readings, values) == r_squared(readings, values)
    with pytest.raises(ValueError, match="all 3 values are equal"):
        r_squared(np.zeros(3), np.ones(3))


def test_labels_are_binary_only_when_all_are_zero_or_one() -> None:
    assert is_binary(np.array([0.0, 1.0, 1.0])) and not is_binary(np.array([0.0, 1.0, 2.0]))
