"""Chords, keys, onsets and tempo of sounds that are made here, so that the truth is known."""

from collections.abc import Sequence

import numpy as np
import pytest

from rfm_live.concepts.harmony import scale
from rfm_live.concepts.meters import chroma, dominance
from rfm_live.concepts.music_analysis import (
    KEY_PROFILES,
    QUALITIES,
    chords,
    key,
    onset_rate_hz,
    sounding_notes,
    tempo_bpm,
    voiced_chroma,
)

RATE = 32_000


def tone(pitch: int, seconds: float, harmonics: int = 6) -> np.ndarray:
    """A MIDI pitch with harmonics that fall by 0.6 each, with short ramps at both ends."""
    time = np.arange(round(seconds * RATE)) / RATE
    hz = 440.0 * 2 ** ((pitch - 69) / 12)
    wave = sum(0.6**number * np.sin(2 * np.pi * hz * (number + 1) * time) for number in range(harmonics))
    ramp = np.minimum(1.0, np.minimum(time / 0.01, (time[-1] - time) / 0.02))
    return (0.1 * wave * ramp).astype(np.float32)


def together(pitches: Sequence[int], seconds: float = 1.2, harmonics: int = 6) -> np.ndarray:
    return np.sum([tone(pitch, seconds, harmonics) for pitch in pitches], axis=0).astype(np.float32)


def in_turn(pitches: Sequence[int], seconds: float) -> np.ndarray:
    return np.concatenate([tone(pitch, seconds) for pitch in pitches])


def plucked(bpm: float, seconds: float) -> np.ndarray:
    """Notes that die away, one a beat."""
    samples = np.zeros(round(seconds * RATE), np.float32)
    note = tone(60, 1.0) * np.exp(-8 * np.arange(RATE) / RATE).astype(np.float32)
    for beat in range(int(seconds * bpm / 60)):
        start = round((beat * 60 / bpm + 0.1) * RATE)
        rest = samples[start : start + RATE]
        rest += note[: len(rest)]
    return samples


@pytest.mark.parametrize("harmonics", [1, 6])
@pytest.mark.parametrize("quality", QUALITIES)
def test_every_triad_is_heard_by_its_quality_and_root(quality: str, harmonics: int) -> None:
    root = 2
    heard = chords(together([60 + root + above for above in QUALITIES[quality]], harmonics=harmonics))
    assert heard.share(quality) > 0.95 and heard.match.mean() > 0.9
    roots = {"augmented": {2, 6, 10}}.get(quality, {root})  # an augmented triad is three of them
    assert set(heard.roots.tolist()) <= roots


def test_an_inversion_is_the_same_chord() -> None:
    heard = chords(together([64, 67, 72]))
    assert heard.share("major") > 0.95 and set(heard.roots.tolist()) == {0}


@pytest.mark.parametrize("quality", QUALITIES)
def test_a_broken_chord_is_heard_as_a_chord(quality: str) -> None:
    assert chords(in_turn([60 + above for above in QUALITIES[quality]] * 4, 0.15)).share(quality) > 0.9


@pytest.mark.parametrize("pitches", [[60], [60, 67], [60, 72]])
def test_a_note_and_a_bare_fifth_are_no_triad_in_spite_of_their_overtones(pitches: list[int]) -> None:
    heard = chords(together(pitches))
    assert set(heard.qualities.tolist()) == {-1}
    assert [heard.share(quality) for quality in QUALITIES] == [0.0] * 4


@pytest.mark.parametrize("pitches", [[60], [60, 64], [60, 61, 67]])
def test_notes_are_told_from_their_overtones(pitches: list[int]) -> None:
    columns = voiced_chroma(together(pitches))
    heard, others = sounding_notes(columns).mean(axis=1), np.setdiff1d(np.arange(12), np.mod(pitches, 12))
    played = heard[np.mod(pitches, 12)]
    assert heard[others].sum() < 0.15 * played.sum()
    assert heard[others].max() < 0.2 * played.min()
    assert sounding_notes(1e-3 * columns) == pytest.approx(sounding_notes(columns), abs=1e-9)


def test_no_frames_have_no_notes() -> None:
    assert sounding_notes(np.zeros((12, 0))).shape == (12, 0)
    assert not sounding_notes(np.zeros((12, 3))).any()


def test_silence_has_no_chord_no_key_no_onset_and_no_tempo() -> None:
    silence = np.zeros(2 * RATE, np.float32)
    assert chords(silence).share("major") == 0.0 and len(chords(silence).match) == 0
    assert key(silence) is None
    assert onset_rate_hz(silence) == 0.0 and tempo_bpm(silence) == 0.0


MELODY = (0, 2, 4, 0, 3, 5, 7, 4, 6, 7, 1, 4, 0, 2, 4, 0)
"""Degrees of a scale that dwell on its triads."""


@pytest.mark.parametrize("profiles", KEY_PROFILES)
@pytest.mark.parametrize(("tonic", "scale_name", "mode"), [(0, "ionian", "major"), (7, "aeolian", "minor")])
def test_a_melody_is_heard_in_its_key(profiles: str, tonic: int, scale_name: str, mode: str) -> None:
    notes = scale(tonic, scale_name)
    heard = key(in_turn([notes[degree] for degree in MELODY], 0.2), profiles)
    assert heard is not None
    assert (heard.tonic, heard.mode) == (tonic, mode) and heard.correlation > 0.7
    assert (heard.minor_margin > 0.1) if mode == "minor" else (heard.minor_margin < -0.1)


def test_dominance_is_the_share_of_a_pitch_class_in_time() -> None:
    music = np.concatenate([tone(60, 3.0), tone(65, 1.0)])
    assert dominance(music, 0) == pytest.approx(0.75, abs=0.03)
    assert dominance(music, 5) == pytest.approx(0.25, abs=0.03)


def test_short_music_has_a_chroma_without_a_warning() -> None:
    assert chroma(tone(60, 0.5)).shape == (12, 25)
    assert chroma(tone(60, 0.5))[:, 5:-5].argmax(axis=0).tolist() == [0] * 15


@pytest.mark.parametrize("bpm", [60, 120, 240, 480])
def test_every_note_is_an_onset(bpm: float) -> None:
    assert onset_rate_hz(plucked(bpm, 6.0)) == pytest.approx(bpm / 60, rel=0.06)


def test_where_nothing_begins_there_is_no_onset() -> None:
    time = np.arange(4 * RATE) / RATE
    vibrato = 0.2 * np.sin(2 * np.pi * 440 * time + 3 * np.sin(2 * np.pi * 5 * time))
    noise = 0.1 * np.random.default_rng(0).standard_normal(len(time))
    for held in (tone(60, 4.0), vibrato.astype(np.float32), noise.astype(np.float32)):
        assert onset_rate_hz(held) <= 0.25


def test_neither_a_loud_drum_nor_a_held_note_hides_the_notes() -> None:
    notes = plucked(240, 6.0)
    drum = np.zeros_like(notes)
    burst = np.random.default_rng(0).standard_normal(1600) * np.exp(-np.arange(1600) / 300)
    for beat in range(5):
        drum[beat * RATE + 3200 :][:1600] += burst.astype(np.float32)
    for other in (drum, tone(48, 6.0)):
        assert onset_rate_hz(0.3 * notes + other) == pytest.approx(4.0, rel=0.06)


@pytest.mark.parametrize("bpm", [63, 90, 117, 166])
def test_the_tempo_is_found_within_a_percent(bpm: float) -> None:
    assert tempo_bpm(plucked(bpm, 8.0), expected_bpm=bpm) == pytest.approx(bpm, rel=0.01)


def test_of_a_tempo_and_its_half_the_expected_one_is_told() -> None:
    music = plucked(180, 8.0)
    assert tempo_bpm(music, expected_bpm=180.0) == pytest.approx(180, rel=0.01)
    assert tempo_bpm(music, expected_bpm=80.0) == pytest.approx(90, rel=0.01)
