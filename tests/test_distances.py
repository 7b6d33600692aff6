"""Frechet distance and MMD against closed forms, scipy and sums by hand; embeddings by what they must tell apart."""

import math

import numpy as np
import pytest
import scipy.linalg
from scipy.spatial.distance import pdist

from rfm_live.concepts.distances import frechet_distance, median_distance, squared_mmd
from rfm_live.concepts.embeddings import hidden_rows, mel_rows, stacked
from rfm_live.concepts.states import hidden_states
from rfm_live.model.checkpoint import MusicGen

RATE = 32_000


def normal_rows(rows: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, width))


def test_the_frechet_distance_is_scipys_matrix_root_written_out() -> None:
    one, other = normal_rows(60, 7), normal_rows(40, 7, seed=1) @ normal_rows(7, 7, seed=2) + 0.5
    first, second = np.cov(one.T), np.cov(other.T)
    root = scipy.linalg.sqrtm(first @ second).real
    gap = one.mean(axis=0) - other.mean(axis=0)
    expected = gap @ gap + np.trace(first + second - 2 * root)
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-9)


def test_the_frechet_distance_of_one_dimension_by_hand() -> None:
    # {0, 2} has mean 1 and variance 2; {1, 7} has mean 4 and variance 18: 9 + (sqrt(18) - sqrt(2))^2 = 9 + 8
    assert frechet_distance(np.array([[0.0], [2.0]]), np.array([[1.0], [7.0]])) == pytest.approx(17.0)


def test_the_frechet_distance_is_even_handed_zero_for_the_same_and_the_shift_squared() -> None:
    one, other = normal_rows(30, 5), normal_rows(50, 5, seed=1)
    assert frechet_distance(one, one) == pytest.approx(0.0, abs=1e-10)
    assert frechet_distance(one, other) == pytest.approx(frechet_distance(other, one))
    assert frechet_distance(one, one + 3.0) == pytest.approx(5 * 9.0)


def test_fewer_rows_than_dimensions_still_have_a_distance() -> None:
    assert frechet_distance(normal_rows(4, 20), normal_rows(5, 20, seed=1)) > 0.0


def test_the_mmd_is_its_double_sum() -> None:
    one, other, bandwidth = normal_rows(6, 3), normal_rows(4, 3, seed=1) + 1.0, 1.7

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return math.exp(-float((x - y) @ (x - y)) / (2 * bandwidth**2))

    within = [
        sum(kernel(x, y) for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j)
        / len(rows)
        / (len(rows) - 1)
        for rows in (one, other)
    ]
    across = sum(kernel(x, y) for x in one for y in other) / len(one) / len(other)
    assert squared_mmd(one, other, bandwidth) == pytest.approx(sum(within) - 2 * across, rel=1e-10)


def test_the_bandwidth_is_the_median_distance_of_the_reference() -> None:
    one, other = normal_rows(21, 4), normal_rows(30, 4, seed=1) * 5
    assert median_distance(one) == pytest.approx(float(np.median(pdist(one))), rel=1e-12)
    assert squared_mmd(one, other) == squared_mmd(one, other, median_distance(one))
    assert squared_mmd(one, other) != squared_mmd(one, other, median_distance(other))


def test_the_mmd_of_equal_distributions_is_zero_on_average_and_so_may_be_negative() -> None:
    values = [squared_mmd(normal_rows(20, 3, seed), normal_rows(15, 3, seed + 1000), 2.0) for seed in range(300)]
    assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(len(values))
    assert min(values) < 0.0


def test_the_mmd_of_two_normal_distributions_is_the_closed_form() -> None:
    """E k(x, y) = (s^2 / (s^2 + 2))^(d / 2) exp(-|m|^2 / (2 (s^2 + 2))): unit normals a mean m apart, bandwidth s."""
    width, shift, bandwidth = 2, 1.0, 1.5
    scale = bandwidth**2 / (bandwidth**2 + 2)
    expected = 2 * scale ** (width / 2) * (1 - math.exp(-width * shift**2 / (2 * (bandwidth**2 + 2))))
    draws = [
        squared_mmd(normal_rows(200, width, seed), normal_rows(200, width, seed + 1000) + shift, bandwidth)
        for seed in range(40)
    ]
    assert np.mean(draws) == pytest.approx(expected, rel=0.06)


def test_large_values_lose_no_small_distance() -> None:
    one, other = normal_rows(12, 3), normal_rows(14, 3, seed=1)
    assert squared_mmd(one + 1e6, other + 1e6, 1.0) == pytest.approx(squared_mmd(one, other, 1.0), abs=1e-7)


@pytest.mark.parametrize("distance", [frechet_distance, squared_mmd])
def test_sets_that_cannot_be_compared_are_refused(distance) -> None:  # type: ignore[no-untyped-def]
    good = normal_rows(5, 3)
    for bad, text in (
        (good[:1], r"rows has the shape \[1, 3\], expected 2 rows or more"),
        (good[0], r"rows has the shape \[3\]"),
        (normal_rows(5, 4), "rows are 4 wide, the reference is 3"),
        (np.where(good > 1, np.nan, good), "rows holds a value that is not finite"),
    ):
        with pytest.raises(ValueError, match=text):
            distance(good, bad)
    with pytest.raises(ValueError, match=r"the median distance of 4 rows is 0\.0, expected above 0"):
        median_distance(np.ones((4, 2)))


# Embeddings


def noise(seconds: float, gain: float = 0.1) -> np.ndarray:
    return (gain * np.random.default_rng(0).standard_normal(round(seconds * RATE))).astype(np.float32)


def test_mel_rows_are_one_a_second_of_means_and_spreads() -> None:
    rows = mel_rows(noise(2.7))
    assert rows.shape == (2, 80) and rows.dtype == np.float32
    louder = mel_rows(noise(2.7, gain=1.0))
    np.testing.assert_allclose(louder[:, :40] - rows[:, :40], 20.0, atol=1e-3)  # ten times the amplitude
    np.testing.assert_allclose(louder[:, 40:], rows[:, 40:], atol=1e-3)
    assert np.all(mel_rows(np.zeros(RATE, np.float32)) == np.repeat([-60.0, 0.0], 40))


def test_a_tone_lies_in_its_mel_band() -> None:
    import librosa

    hz = librosa.mel_frequencies(n_mels=42, fmin=40.0, fmax=RATE / 2)[1:-1]  # the bands' centres
    for band in (10, 25):
        tone = np.sin(2 * np.pi * hz[band] * np.arange(RATE) / RATE).astype(np.float32)
        assert mel_rows(tone)[0, :40].argmax() == band


def test_hidden_rows_are_the_seconds_of_the_middle_block(tiny_model: MusicGen) -> None:
    import torch

    samples = noise(2.5)
    rows = hidden_rows(tiny_model, samples)
    states = hidden_states(tiny_model, torch.from_numpy(samples[None, : 2 * RATE]))[0]  # [L, T, D]
    middle = tiny_model.config.decoder.layers // 2
    expected = [states[middle, :50].mean(dim=0).tolist(), states[middle, 50:].mean(dim=0).tolist()]
    np.testing.assert_allclose(rows, expected, atol=1e-5)
    first = hidden_rows(tiny_model, samples, layer=0)
    np.testing.assert_allclose(first[0], states[0, :50].mean(dim=0).tolist(), atol=1e-5)


def test_rows_of_clips_are_stacked_with_the_clip_that_they_belong_to() -> None:
    rows, clips = stacked([np.zeros((2, 3), np.float32), np.ones((3, 3), np.float32)])
    assert rows[:, 0].tolist() == [0, 0, 1, 1, 1] and clips.tolist() == [0, 0, 1, 1, 1]


def test_other_music_lies_farther_than_more_of_the_same() -> None:
    def sines(low: float, high: float, seed: int) -> np.ndarray:
        pitches = np.random.default_rng(seed).uniform(low, high, 30)
        return np.concatenate([0.3 * np.sin(2 * np.pi * hz * np.arange(RATE) / RATE) for hz in pitches]).astype(
            np.float32
        )

    reference, same, other = (mel_rows(sines(*case)) for case in ((200, 400, 0), (200, 400, 1), (800, 1600, 2)))
    assert frechet_distance(reference, other) > 3 * frechet_distance(reference, same)
    assert squared_mmd(reference, other) > 10 * max(squared_mmd(reference, same), 0.001)
