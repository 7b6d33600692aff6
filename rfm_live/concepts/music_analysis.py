"""Chords, keys, onsets and tempo of rendered audio, by librosa: external meters that never see a probe.

Used by the evaluation of steering and by its tests. librosa comes with the `train` and `test` extras. All functions
take mono samples at 32 kHz; frames quieter than -50 dB say nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rfm_live.concepts.meters import FRAME_SAMPLES, SAMPLE_RATE_HZ, SILENCE_DB, Samples, chroma, frame_levels_db

QUALITIES = {"major": (0, 4, 7), "minor": (0, 3, 7), "diminished": (0, 3, 6), "augmented": (0, 4, 8)}
"""Semitones above the root."""

KEY_PROFILES = {
    "albrecht": {
        "major": (0.238, 0.006, 0.111, 0.006, 0.137, 0.094, 0.016, 0.214, 0.009, 0.080, 0.008, 0.081),
        "minor": (0.220, 0.006, 0.104, 0.123, 0.019, 0.103, 0.012, 0.214, 0.062, 0.022, 0.061, 0.052),
    },
    "krumhansl": {
        "major": (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
        "minor": (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
    },
    "temperley": {
        "major": (5.0, 2.0, 3.5, 2.0, 4.5, 4.0, 2.0, 4.5, 2.0, 3.5, 1.5, 4.0),
        "minor": (5.0, 2.0, 3.5, 4.5, 2.0, 4.0, 2.0, 4.5, 3.5, 2.0, 1.5, 4.0),
    },
}
"""How well each pitch class fits a key, the tonic first: Albrecht and Shanahan 2013, Krumhansl and Kessler 1982,
Temperley 2001."""

_OVERTONES = (0, 12, 19, 24, 28, 31)
"""Semitones of the first six harmonics above a note."""
_DECAY = 0.6
"""A harmonic's share of the one below it (Papadopoulos and Peeters 2007, chord templates)."""
_COMPRESSION = 0.7
"""Exponent of a note's amplitude in a chord: a chord has its soft notes, too."""
_ONSET_HOP, _TEMPO_HOP = 320, 160
"""Samples between two values of the onset strength. At 10 ms the ends of notes seldom pass for beginnings; a tempo
wants 5 ms, for at 20 ms one of 160 could not be told from 165."""
_ONSET_DB = 1.0
"""How far the mean rise of 64 mel bands stands out at an onset. A note on top of a louder held one reaches 1 to 3 dB,
alone 10; vibrato and noise stay below."""

Array = npt.NDArray[np.float64]


def voiced_chroma(samples: Samples) -> Array:
    """Chroma [12, T] of the frames that are not silent."""
    columns, is_voiced = _frames(samples)
    return columns[:, is_voiced]


def _frames(samples: Samples) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Chroma [12, T] of all frames, and which of them are not silent [T]."""
    columns = chroma(samples).astype(np.float64)
    return columns, frame_levels_db(samples)[: columns.shape[1]] > SILENCE_DB


def sounding_notes(columns: Array) -> Array:
    """How strongly each pitch class is played [12, T], of chroma [12, T], which overtones make of it.

    Every column is told as a sum of notes with six harmonics, by non-negative least squares (Mauch and Dixon 2010,
    approximate transcription, here within one octave). Its own strength does not count.
    """
    from scipy.optimize import nnls

    notes = np.stack([np.roll(_harmonics(), pitch_class) for pitch_class in range(12)], axis=1)
    found = np.zeros_like(columns)
    for place, column in enumerate(_unit(columns).T):
        found[:, place] = nnls(notes, column)[0]
    return found


def _unit(columns: Array) -> Array:
    """Columns of length 1; what has none stays nothing."""
    return np.asarray(columns / np.maximum(np.linalg.norm(columns, axis=0), 1e-12))


def _harmonics() -> Array:
    """The chroma [12] of the note C, of length 1."""
    found = np.zeros(12)
    for number, semitones in enumerate(_OVERTONES):
        found[semitones % 12] += _DECAY**number
    return np.asarray(found / np.linalg.norm(found))


def _averaged(columns: Array, frames: int) -> Array:
    """Columns [12, T], each the sum of those up to `frames` / 2 around it."""
    half = frames // 2
    summed = np.pad(columns, ((0, 0), (half + 1, half))).cumsum(axis=1)
    return np.asarray(summed[:, 2 * half + 1 :] - summed[:, : -(2 * half + 1)])


@dataclass(frozen=True)
class Chords:
    """What fits every voiced frame best: `roots` [T] 0..11 (0 is C), `qualities` [T] places in QUALITIES.

    A quality of -1 says that a single note or a bare fifth fits better than any triad. `match` [T] is the cosine
    between notes and template, 0..1. An augmented triad has three roots; the lowest is told.
    """

    roots: npt.NDArray[np.int64]
    qualities: npt.NDArray[np.int64]
    match: Array

    def share(self, quality: str) -> float:
        """Share 0..1 of the voiced frames whose chord is of `quality`, a key of QUALITIES; 0 in silence."""
        place = list(QUALITIES).index(quality)
        return float((self.qualities == place).mean()) if len(self.qualities) else 0.0


def chords(samples: Samples, seconds: float = 1.0) -> Chords:
    """Match the notes that sound within `seconds`, so that an arpeggio sounds together, with the notes of triads.

    Overtones are taken off first (`sounding_notes`), so that a tone is not taken for a major chord by them alone.
    """
    columns, is_voiced = _frames(samples)
    notes = _averaged(sounding_notes(columns * is_voiced), round(seconds * SAMPLE_RATE_HZ / FRAME_SAMPLES))
    heard = np.maximum(notes[:, is_voiced], 0.0) ** _COMPRESSION  # [12, T]
    fit = _templates() @ _unit(heard)  # [72, T]
    best = fit.argmax(axis=0) if fit.shape[1] else np.zeros(0, np.int64)
    quality = best // 12
    return Chords(best % 12, np.where(quality < len(QUALITIES), quality, -1), fit.max(axis=0, initial=0.0))


def _templates() -> Array:
    """Unit rows [72, 12]: the qualities in their order, then the single note and the fifth, twelve roots each."""
    rows = []
    for intervals in (*QUALITIES.values(), (0,), (0, 7)):
        on_c = np.bincount(intervals, minlength=12) / np.sqrt(len(intervals))
        rows += [np.roll(on_c, root) for root in range(12)]
    return np.stack(rows)


@dataclass(frozen=True)
class Key:
    """A key and how far it leads: `tonic` 0..11 (0 is C), `mode` major or minor, `correlation` -1..1 with its profile.

    `minor_margin` is the best minor key's correlation less the best major key's: above 0 the music is in minor.
    """

    tonic: int
    mode: str
    correlation: float
    minor_margin: float


def key(samples: Samples, profiles: str = "albrecht") -> Key | None:
    """The key whose profile correlates best with the notes that sound; None where nothing sounds.

    `profiles` is a key of KEY_PROFILES (Krumhansl 1990, key-finding by correlation over 24 keys).
    """
    columns = voiced_chroma(samples)
    if not columns.size:
        return None
    mean = sounding_notes(columns).mean(axis=1)
    best = {}
    for mode, profile in KEY_PROFILES[profiles].items():
        fits = [float(np.corrcoef(mean, np.roll(profile, tonic))[0, 1]) for tonic in range(12)]
        best[mode] = max((fit, -tonic) for tonic, fit in enumerate(fits))
    mode = max(best, key=lambda name: best[name])
    fit, negative_tonic = best[mode]
    return Key(-negative_tonic, mode, fit, best["minor"][0] - best["major"][0])


def onset_rate_hz(samples: Samples) -> float:
    """Onsets per second: peaks of the onset strength that stand out by 1 dB, as librosa picks them.

    The threshold is absolute, where librosa's own goes by the strongest onset: a loud drum must not hide the notes, nor
    vibrato and noise count where nothing begins.
    """
    import librosa

    strength = _onset_strength(samples, _ONSET_HOP, 2048)
    onsets = librosa.onset.onset_detect(
        onset_envelope=strength, sr=SAMPLE_RATE_HZ, hop_length=_ONSET_HOP, normalize=False, delta=_ONSET_DB
    )
    return len(onsets) * SAMPLE_RATE_HZ / len(samples)


def tempo_bpm(samples: Samples, expected_bpm: float = 120.0) -> float:
    """Beats per minute by the tempogram, at most 300; 0 where nothing begins.

    Half and double of a tempo explain the same onsets: of those the one nearer to `expected_bpm` is told.
    """
    import librosa

    strength = _onset_strength(samples, _TEMPO_HOP, 1024)
    if not strength.any():
        return 0.0
    tempo = librosa.feature.tempo(
        onset_envelope=strength, sr=SAMPLE_RATE_HZ, hop_length=_TEMPO_HOP, start_bpm=expected_bpm, max_tempo=300.0
    )
    return float(tempo[0])


def _onset_strength(samples: Samples, hop: int, size: int) -> npt.NDArray[np.float32]:
    import librosa

    strength = librosa.onset.onset_strength(y=samples, sr=SAMPLE_RATE_HZ, hop_length=hop, n_fft=size, n_mels=64)
    return np.asarray(strength, np.float32)
