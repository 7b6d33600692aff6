"""The engine: the same events at the same frames give the same samples, and none before them changes."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from rfm_live.engine.player import Engine, EngineSettings
from rfm_live.engine.prompts import CACHE_NAME, Prompts, save_prompt_states
from rfm_live.engine.stream import Window
from rfm_live.errors import RfmError
from rfm_live.model.checkpoint import MusicGen, load_checkpoint
from rfm_live.model.sampling import SamplingSettings
from rfm_live.steering.bank import ConceptBank
from tests.test_bank import some_bank
from tests.tiny import tiny_checkpoint

HOP = 640
WINDOW = Window(frames=24, prime=9, forget=4, chunk=3)
UNGUIDED = SamplingSettings(guidance=1.0, top_k=32, seed=1)
EVENTS = [
    (3, "/concept/note_a/eta", 1.5),
    (5, "/gain", -6.0),
    (9, "/temperature", 1.3),
    (9, "/concept/note_b/eta", -1.0),
    (14, "/forget", True),
    (20, "/prompt", "calm piano"),
    (26, "/guidance", 1),
    (28, "/top_p", 0.7),
    (30, "/transport/play", 0),
    (36, "/transport/play", 1),
    (40, "/seed", 7),
    (44, "/panic", 1),
    (50, "/prompt", ""),
]


@pytest.fixture(scope="module")
def bank(tiny_model: MusicGen) -> ConceptBank:
    config = tiny_model.decoder.config
    bank = some_bank(3, config.layers, config.width)
    return dataclasses.replace(bank, unit=np.full(3, 8.0, np.float32), gate=np.array([1.0, 0.5, 0.0], np.float32))


@pytest.fixture
def new_engine(tiny_model: MusicGen, bank: ConceptBank) -> Callable[..., Engine]:
    def make(guidance: float = 3.0, prompt: str = "", with_bank: bool = True) -> Engine:
        sampling = SamplingSettings(guidance=guidance, top_k=32, seed=1)
        return Engine(tiny_model, bank if with_bank else None, EngineSettings(sampling, WINDOW, prompt))

    return make


def test_every_frame_is_one_hop_of_sound_in_range(new_engine: Callable[..., Engine]) -> None:
    engine = new_engine()
    frames = [engine.advance() for _ in range(60)]
    assert {frame.shape for frame in frames} == {(HOP,)}
    sound = np.concatenate(frames)
    assert sound.dtype == np.float32
    assert 0.01 < np.abs(sound).max() < 1.0
    assert engine.frame == engine.status()["frame"] == 60


@pytest.mark.parametrize("codec", ["causal", "centred"])
def test_samples_are_the_codec_s_offline_decoding_of_the_stream_s_codes(
    tiny_model: MusicGen, tmp_path: Path, codec: str
) -> None:
    model = tiny_model
    if codec == "centred":  # as MusicGen's own: the sound trails the codes by 2402 samples
        model = load_checkpoint(tiny_checkpoint(tmp_path, layers=1, causal=False, pad_mode="reflect"))
    engine, twin = (Engine(model, settings=EngineSettings(UNGUIDED, WINDOW)) for _ in range(2))
    engine.apply("/gain", -20)  # below the limiter's knee
    played = engine.render([], 1.0)
    codes = [code for _ in range(63) if (code := twin._stream.step()) is not None]
    offline = model.codec.decode(torch.from_numpy(np.stack(codes, axis=1))[None])[0, 0].numpy()
    np.testing.assert_allclose(played[HOP:], offline[HOP : len(played)] * 0.1, atol=1e-5)


def test_the_same_events_give_the_same_samples_however_the_frames_are_asked_for(
    new_engine: Callable[..., Engine],
) -> None:
    whole = new_engine().render(EVENTS, 1.5)
    assert len(whole) == 48_000
    engine, pieces = new_engine(), []
    for piece in (1, 4, 2, 30, 20, 18):
        until = engine.frame + piece
        pieces.append(engine.render([event for event in EVENTS if engine.frame <= event[0] < until], piece * 0.02))
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_knobs_at_zero_or_a_closed_gate_are_bit_for_bit_the_model_without_a_bank(
    new_engine: Callable[..., Engine],
) -> None:
    plain = new_engine(with_bank=False).render([], 1.0)
    np.testing.assert_array_equal(new_engine().render([(5, "/strength", 2.0)], 1.0), plain)
    np.testing.assert_array_equal(new_engine().render([(0, "/concept/note_c/eta", 2.0)], 1.0), plain)
    released = [(0, "/concept/note_a/eta", 2.0), (0, "/strength", 0.0)]
    np.testing.assert_array_equal(new_engine().render(released, 1.0), plain)


@pytest.mark.parametrize(
    ("address", "value"),
    [
        ("/concept/note_a/eta", 2.0),
        ("/gain", -12.0),
        ("/seed", 99),
        ("/prompt", "dark drums"),
        ("/forget", True),
        ("/transport/play", 0),
        ("/top_k", 1),
    ],
)
def test_an_event_changes_no_sample_before_its_frame(
    new_engine: Callable[..., Engine], address: str, value: object
) -> None:
    plain, turned = new_engine().render([], 0.8), new_engine().render([(17, address, value)], 0.8)
    np.testing.assert_array_equal(turned[: 17 * HOP], plain[: 17 * HOP])
    assert not np.array_equal(turned[17 * HOP :], plain[17 * HOP :])


def test_a_shorter_window_makes_the_engine_hear_less_from_its_frame_on(tiny_model: MusicGen) -> None:
    def play(events: list[tuple[int, str, object]]) -> tuple[np.ndarray, list[int]]:
        engine, lengths = Engine(tiny_model, settings=EngineSettings(window=Window(100, 40, 10, 4))), []
        sound = []
        for frame in range(200):
            for _, address, value in (event for event in events if event[0] == frame):
                engine.apply(address, value)
            sound.append(engine.advance())
            lengths.append(engine._stream.column - engine._stream.context_start)
        return np.concatenate(sound), lengths

    plain, lengths = play([])
    turned, shorter = play([(70, "/window", 1.0)])
    np.testing.assert_array_equal(turned[: 70 * HOP], plain[: 70 * HOP])
    assert not np.array_equal(turned, plain)
    assert max(lengths[80:]) == 99 and max(shorter[80:]) == 49  # and the column that the next step reads
    np.testing.assert_array_equal(play([(70, "/window", 60.0)])[0], plain)  # as much as the engine allows


@pytest.mark.parametrize("stop", [0, 1, 8, 15, 22, 31, 47])
def test_a_restored_engine_replays_the_same_samples(new_engine: Callable[..., Engine], stop: int) -> None:
    engine = new_engine()
    engine.render([event for event in EVENTS if event[0] < stop], stop * 0.02)
    state = engine.copy_state()
    later = [event for event in EVENTS if event[0] >= stop]
    first = engine.render(later, 1.2)
    other = new_engine(prompt="bright")
    other.render([], 0.3)
    for restored in (engine, other, engine):
        restored.restore_state(state)
        np.testing.assert_array_equal(restored.render(later, 1.2), first)


def test_a_rewind_with_another_knob_changes_only_what_comes_after(new_engine: Callable[..., Engine]) -> None:
    engine = new_engine()
    before = engine.render([], 0.3)
    state = engine.copy_state()
    kept = engine.render([], 0.5)
    engine.restore_state(state)
    turned = engine.render([(engine.frame, "/concept/note_a/eta", 2.0)], 0.5)
    assert not np.array_equal(kept, turned)
    np.testing.assert_array_equal(new_engine().render([(15, "/concept/note_a/eta", 2.0)], 0.8)[: len(before)], before)
    joined = new_engine().render([(15, "/concept/note_a/eta", 2.0)], 0.8)
    np.testing.assert_array_equal(np.concatenate([before, turned]), joined)


def test_hold_fades_to_silence_and_play_goes_on_where_the_music_stood(new_engine: Callable[..., Engine]) -> None:
    plain = new_engine().render([], 1.0)
    held = new_engine().render([(10, "/transport/play", 0), (20, "/transport/play", 1)], 1.0)
    np.testing.assert_array_equal(held[: 10 * HOP], plain[: 10 * HOP])
    assert not held[11 * HOP : 20 * HOP].any()
    # Frame 10 fades out, frame 11 of the music fades in at 20; from 12 on it is the same music, later by 9 frames.
    np.testing.assert_allclose(held[30 * HOP : 40 * HOP], plain[21 * HOP : 31 * HOP], atol=0.02)
    engine = new_engine()
    engine.render([(10, "/transport/play", 0)], 0.4)
    column = engine.status()["column"]
    engine.render([], 0.4)
    assert engine.status()["column"] == column


def test_gain_moves_on_a_line_across_its_frame(new_engine: Callable[..., Engine]) -> None:
    plain = new_engine().render([(0, "/gain", -20)], 0.4)
    turned = new_engine().render([(0, "/gain", -20), (10, "/gain", -60)], 0.4)
    line = np.linspace(0.1, 0.001, HOP + 1)[1:] / 0.1
    np.testing.assert_allclose(turned[10 * HOP : 11 * HOP], plain[10 * HOP : 11 * HOP] * line, atol=1e-6)
    np.testing.assert_allclose(turned[11 * HOP :], plain[11 * HOP :] * 0.01, atol=1e-6)


def test_panic_releases_every_knob_and_the_sound_goes_on(new_engine: Callable[..., Engine]) -> None:
    engine = new_engine()
    engine.apply("/concept/note_a/eta", 2.0)
    engine.render([], 0.3)
    engine.apply("/panic", False)
    assert engine._plan.coefficients(engine._stream.column) is not None
    engine.apply("/panic", True)
    assert engine._plan.coefficients(engine._stream.column) is None
    assert np.abs(engine.render([], 0.5)).max() > 0.01


def test_a_prompt_changes_the_music_and_a_start_prompt_is_there_from_the_first_frame(
    new_engine: Callable[..., Engine],
) -> None:
    plain, prompted = new_engine(), new_engine(prompt="calm piano")
    assert prompted.status()["prompt"] == "calm piano"
    sound = prompted.render([], 0.4)
    np.testing.assert_array_equal(new_engine().render([(0, "/prompt", "calm piano")], 0.4), sound)
    assert not np.array_equal(plain.render([], 0.4), sound)


def test_stored_prompt_states_need_no_text_encoder(tiny_model: MusicGen, tmp_path: Path) -> None:
    folder = dataclasses.replace(tiny_model, path=tmp_path)  # a folder without tokenizer or text encoder
    encoded = tiny_model.text_encoder().encode("calm piano")
    assert encoded is not None
    save_prompt_states(tiny_model, ["calm piano", "dark drums", ""], tmp_path)
    prompts = Prompts(folder)
    assert [prompts.is_quick(text) for text in (" calm piano ", "", "new")] == [True, True, False]
    states = prompts.states("calm piano")
    assert states is not None
    assert states[0].equal(encoded[0])
    assert states[1].all()
    assert prompts.states("  ") is None


def test_broken_prompt_states_are_refused(tiny_model: MusicGen, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = dataclasses.replace(tiny_model, path=tmp_path)
    save_file({"calm": torch.zeros(3, 5)}, tmp_path / CACHE_NAME)
    with pytest.raises(RfmError, match=r"states of 'calm' are \[3, 5\], expected \[S, 48\]"):
        Prompts(folder)
    (tmp_path / CACHE_NAME).write_bytes(b"nothing")
    with pytest.raises(RfmError, match="cannot be read"):
        Prompts(folder)


@pytest.mark.parametrize(
    ("address", "value"),
    [
        ("/nothing", 1),
        ("/concept/note_x/eta", 1),
        ("/concept/note_a", 1),
        ("", 1),
        ("/concept/note_a/eta", 5),
        ("/concept/note_a/eta", None),
        ("/strength", -1),
        ("/gain", 13),
        ("/gain", math.nan),
        ("/window", 0.5),
        ("/window", 61),
        ("/temperature", math.inf),
        ("/top_k", 2.5),
        ("/top_p", 1.5),
        ("/top_p", -0.1),
        ("/seed", -1),
        ("/prompt", 3),
        ("/transport/play", "yes"),
        ("/forget", []),
    ],
)
def test_wrong_events_are_refused_and_change_nothing(
    new_engine: Callable[..., Engine], address: str, value: object
) -> None:
    engine = new_engine()
    with pytest.raises(RfmError):
        engine.apply(address, value)
    np.testing.assert_array_equal(engine.render([], 0.3), new_engine().render([], 0.3))


def test_an_event_in_the_past_is_refused(new_engine: Callable[..., Engine]) -> None:
    engine = new_engine()
    engine.render([], 0.1)
    with pytest.raises(RfmError, match="names frame 2, the music is at 5"):
        engine.render([(2, "/gain", 0)], 0.1)


def test_what_is_written_to_the_tape_is_what_is_returned(tiny_model: MusicGen) -> None:
    written: list[np.ndarray] = []
    engine = Engine(tiny_model, settings=EngineSettings(window=WINDOW), tape_writer=written.append)
    returned = [engine.advance() for _ in range(5)]
    np.testing.assert_array_equal(np.concatenate(written), np.concatenate(returned))
