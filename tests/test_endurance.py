"""The endurance command's measurements: they hold for what the engine plays, and each sees what it is there to see."""

from dataclasses import replace

import numpy as np
import pytest

from rfm_live.embedded.endurance import (
    Stream,
    bends,
    ends,
    is_steady,
    largest_sample_error,
    play,
    wrong_codes,
    wrong_swaps,
)
from rfm_live.engine.player import EngineSettings
from rfm_live.engine.stream import Window
from rfm_live.model.checkpoint import MusicGen
from rfm_live.model.sampling import SamplingSettings

SETTINGS = EngineSettings(SamplingSettings(top_k=32, seed=1), Window(60, 24, 10, 3), "calm piano")


@pytest.fixture(scope="module")
def stream(tiny_model: MusicGen) -> Stream:
    return play(tiny_model, SETTINGS, 600, "playing")


def test_what_the_engine_plays_holds(tiny_model: MusicGen, stream: Stream) -> None:
    assert stream.swaps.tolist() == list(range(60, 603, 36))
    assert wrong_swaps(stream, SETTINGS) == 0
    compared, different = wrong_codes(tiny_model, SETTINGS, stream)
    assert compared > 60 and different == 0
    assert largest_sample_error(tiny_model, stream) < 1e-5
    found = bends(stream, tiny_model.config.hop, 4)
    assert found["bend_mean_rank"] < found["bend_mean_rank_limit"]


def test_a_context_that_changes_late_is_seen(stream: Stream) -> None:
    starts = stream.context_starts.copy()
    starts[stream.swaps[3]] = starts[stream.swaps[3] - 1]
    assert wrong_swaps(replace(stream, context_starts=starts), SETTINGS) > 0


def test_a_repeated_frame_is_seen(tiny_model: MusicGen, stream: Stream) -> None:
    codes = np.insert(stream.codes, 300, stream.codes[:, 300], axis=1)[:, :600]
    repeated = replace(stream, codes=codes)
    assert wrong_codes(tiny_model, SETTINGS, repeated)[1] > 0
    assert largest_sample_error(tiny_model, repeated) > 1e-3


def test_a_context_of_other_columns_is_seen(tiny_model: MusicGen, stream: Stream) -> None:
    starts = np.where(np.arange(len(stream.context_starts)) >= 60, stream.context_starts + 1, 0)
    assert wrong_codes(tiny_model, SETTINGS, replace(stream, context_starts=starts))[1] > 0


def test_clicks_where_contexts_change_are_seen(tiny_model: MusicGen, stream: Stream) -> None:
    samples, hop = stream.samples.copy(), tiny_model.config.hop
    samples[(stream.swaps - 3)[:-1] * hop] += 0.5
    found = bends(replace(stream, samples=samples), hop, 4)
    assert found["bend_at_swaps_max"] > found["bend_elsewhere_max"]
    assert found["bend_mean_rank"] > found["bend_mean_rank_limit"]


def test_steady_minutes_are_told_from_fading_ones() -> None:
    levels = np.random.default_rng(0).normal(-30.0, 2.0, 30)
    assert is_steady(ends(levels.tolist()), 6.0, 30)
    assert not is_steady(ends((levels - np.arange(30) * 0.2).tolist()), 9.0, 30)
    assert not is_steady(ends([*levels[:-1].tolist(), -60.0]), 6.0, 30)
