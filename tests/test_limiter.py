"""The limiter: never over the ceiling, transparent below the knee, the same samples in any chunking."""

import numpy as np
import pytest

from rfm_live.engine.limiter import BLOCK, CEILING, KNEE, Limiter


def noise(blocks: int, level: float, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=blocks * BLOCK) * level).astype(np.float32)


@pytest.mark.parametrize("level", [0.1, 1.0, 3.0, 1e6])
def test_the_output_stays_below_the_ceiling(level: float) -> None:
    limited = Limiter(32_000).process(noise(200, level))
    assert np.isfinite(limited).all()
    assert np.abs(limited).max() <= np.float32(CEILING) < 1.0


def test_quiet_sound_passes_bit_for_bit() -> None:
    quiet = np.clip(noise(50, 0.2), -KNEE, KNEE)
    np.testing.assert_array_equal(Limiter(32_000).process(quiet), quiet)


def test_any_chunking_gives_the_same_samples() -> None:
    samples = noise(60, 1.0)
    whole = Limiter(32_000).process(samples)
    for chunk in (1, 7, 20):
        limiter = Limiter(32_000)
        cuts = range(0, len(samples), chunk * BLOCK)
        pieces = [limiter.process(samples[at : at + chunk * BLOCK]) for at in cuts]
        np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_a_loud_steady_tone_is_turned_down_and_not_bent() -> None:
    tone = (2.0 * np.sin(np.arange(32_000) * 2 * np.pi * 1000 / 32_000)).astype(np.float32)
    limited = Limiter(32_000).process(tone)[16_000:]
    np.testing.assert_allclose(limited, tone[16_000:] * KNEE / 2, atol=1e-3)


def test_the_gain_recovers_after_a_peak() -> None:
    limiter = Limiter(32_000)
    limiter.process(noise(10, 2.0))
    assert limiter.gain < 0.5
    limiter.process(np.zeros(96_000, dtype=np.float32))  # 3 s, ten time constants
    assert limiter.gain > 0.999


def test_the_gain_is_the_whole_state() -> None:
    samples = noise(40, 1.5)
    limiter = Limiter(32_000)
    limiter.process(samples[: 20 * BLOCK])
    gain = limiter.gain
    first = limiter.process(samples[20 * BLOCK :])
    limiter.gain = gain
    np.testing.assert_array_equal(limiter.process(samples[20 * BLOCK :]), first)


def test_partial_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="33 samples"):
        Limiter(32_000).process(np.zeros(33, dtype=np.float32))
