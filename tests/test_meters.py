"""The external meters, on sounds whose figures are known by construction."""

import numpy as np
import pytest

from rfm_live.concepts.meters import (
    frame_levels_db,
    interval,
    longest_silence_seconds,
    onset_regularity,
    spectral_centroid_hz,
    stft_distance,
    strongest_pitch_class,
    tonal_clarity,
)
from rfm_live.embedded.codec_meters import baseline_losses

RATE = 32_000
TIME = np.arange(4 * RATE) / RATE


def tone(hz: float) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hz * TIME)).astype(np.float32)


def noise(seconds: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal(seconds * RATE)).astype(np.float32)


def clicks(every: int) -> np.ndarray:
    samples = np.zeros(4 * RATE, np.float32)
    for start in range(0, len(samples) - 640, every):
        samples[start : start + 640] = 0.5 * np.sin(np.arange(640) * 0.2) * np.linspace(1, 0, 640)
    return samples


def test_a_sine_is_its_pitch_class_its_level_and_its_frequency() -> None:
    sine = tone(440.0)
    assert (strongest_pitch_class(sine)[10:-10] == 9).all()
    assert frame_levels_db(sine)[50] == pytest.approx(20 * np.log10(0.3 / np.sqrt(2)), abs=0.1)
    assert spectral_centroid_hz(sine) == pytest.approx(440.0, rel=0.05)
    assert tonal_clarity(sine) > 3 * tonal_clarity(noise(4))


def test_a_pause_is_as_long_as_it_is() -> None:
    samples = tone(440.0)
    samples[RATE : 2 * RATE] = 0
    assert longest_silence_seconds(samples) == pytest.approx(1.0, abs=0.021)


def test_a_steady_pulse_is_more_regular_than_noise() -> None:
    assert onset_regularity(clicks(16_000)) > 0.6
    assert onset_regularity(noise(4)) < 0.4
    assert onset_regularity(np.zeros(4 * RATE, np.float32)) == 0.0


def test_the_stft_distance_is_zero_for_the_same_and_grows_with_the_difference() -> None:
    sine = tone(440.0)
    assert stft_distance(sine, sine) == 0.0
    assert 0 < stft_distance(sine, (0.9 * sine).astype(np.float32)) < stft_distance(sine, tone(880.0))
    # |0.9 x| lies 10 % below |x|: the convergence is 0.1, and the logarithms differ by at most ln(1 / 0.9)
    assert 0.1 == pytest.approx(stft_distance(sine, (0.9 * sine).astype(np.float32)), abs=0.11)


def test_an_interval_holds_its_mean_and_shrinks_to_a_point_for_equal_values() -> None:
    mean, low, high = interval([0.0, 1.0] * 20)
    assert low < mean == 0.5 < high
    assert interval([0.25] * 5) == [0.25, 0.25, 0.25]


def test_the_baseline_knows_repetition_and_pairs_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    held = np.repeat(rng.integers(0, 8, 400), 10)[None]  # nine of ten codes repeat
    pairs = np.tile([0, 1, 2, 3], 1000)[None]  # each code has one successor
    random = rng.integers(0, 8, 4000)[None]
    (repeating,) = baseline_losses([held], [held], 8)
    # 1/10 of a change among 8: H = -(0.9 + 0.0125) ln 0.9125 - 0.0875 ln 0.0125, less the grid's coarseness
    assert repeating == pytest.approx(-0.9125 * np.log(0.9125) - 0.0875 * np.log(0.0125), abs=0.03)
    assert baseline_losses([pairs], [pairs], 8)[0] == pytest.approx(-np.log(0.9), abs=0.05)
    assert baseline_losses([random], [random], 8)[0] == pytest.approx(np.log(8), abs=0.02)
