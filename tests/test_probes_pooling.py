"""Poolings of hidden states over time, and attention learned on clips whose concept sounds only briefly."""

import numpy as np
import pytest
import torch

from rfm_live.concepts.pooling import (
    AttentionPooling,
    AttentionTraining,
    learn_attention,
    pool_last,
    pool_mean,
    pool_segments,
)
from rfm_live.concepts.probes import DifferenceOfMeans, learn_direction


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def brief_clips(clips: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """States [N, 40, 12] and labels: 2 frames, marked by coordinate 0, tell the label by coordinate 1."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, clips).astype(float)
    states = rng.standard_normal((clips, 40, 12))
    for clip in range(clips):
        marked = rng.choice(40, 2, replace=False)
        states[clip, marked, 0] += 6.0
        states[clip, marked, 1] += 2.0 * y[clip] - 1.0
    return states.astype(np.float32), y


def test_mean_last_and_segments_by_hand() -> None:
    states = np.array([[1.0, 0], [3, 0], [5, 6], [7, 6], [9, 8]])
    np.testing.assert_array_equal(pool_mean(states), [5.0, 4.0])
    np.testing.assert_array_equal(pool_last(states), [9.0, 8.0])
    np.testing.assert_array_equal(pool_segments(states, 2), [[3.0, 2.0], [8.0, 7.0]])
    np.testing.assert_array_equal(pool_segments(states, 1), [pool_mean(states)])
    np.testing.assert_array_equal(pool_segments(states, 5), states)
    for segments in (0, 6):
        with pytest.raises(ValueError, match=f"segments is {segments}, expected 1..5"):
            pool_segments(states, segments)


def test_half_precision_states_are_averaged_in_double() -> None:
    """Sums beyond float16's 65504 must not overflow."""
    np.testing.assert_array_equal(pool_mean(np.full((4000, 3), 60.0, np.float16)), [60.0] * 3)


def test_attention_without_a_query_is_the_mean() -> None:
    states = np.random.default_rng(0).standard_normal((9, 4))
    pooling = AttentionPooling(np.zeros(4), np.ones(4), np.full(4, 2.0))
    np.testing.assert_allclose(pooling.pool(states), pool_mean(states))
    untrained = learn_attention(states[None].repeat(2, axis=0), np.array([0.0, 1.0]), AttentionTraining(steps=0))
    np.testing.assert_allclose(untrained.pool(states), pool_mean(states))


def test_attention_weighs_frames_by_hand() -> None:
    """Logits 0 and log 3: weights 1/4 and 3/4."""
    pooling = AttentionPooling(np.array([np.log(3.0), 0.0]), np.array([1.0, 0.0]), np.array([2.0, 1.0]))
    states = np.array([[1.0, 4.0], [3.0, 8.0]])
    np.testing.assert_allclose(pooling.weights(states), [0.25, 0.75])
    np.testing.assert_allclose(pooling.pool(states), [2.5, 7.0])


def test_learned_attention_hears_what_the_mean_drowns() -> None:
    states, y = brief_clips(240, seed=1)
    pooling = learn_attention(states[:160], y[:160], AttentionTraining())
    again = learn_attention(states[:160], y[:160], AttentionTraining())
    assert np.array_equal(pooling.query, again.query)

    def score(points: np.ndarray) -> float:
        return learn_direction(DifferenceOfMeans(), points[:160], y[:160], points[160:], y[160:]).score

    attended, plain = np.stack([pooling.pool(clip) for clip in states]), states.mean(axis=1)
    assert score(attended) > 0.9 and score(plain) < 0.75
    marked = states[200, :, 0] > 3.0
    assert pooling.weights(states[200])[marked].sum() > 0.5  # 2 of 40 frames


def test_labels_that_do_not_vary_teach_no_attention() -> None:
    with pytest.raises(ValueError, match="all 3 labels are 1, expected labels that vary"):
        learn_attention(np.zeros((3, 5, 2)), np.ones(3), AttentionTraining())
