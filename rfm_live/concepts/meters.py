"""External meters of rendered audio, built on librosa; they never see the probes that steering was learned from.

Used by the recipe, by concept learning and by the tests. librosa comes with the `train` and `test` extras.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from rfm_live.concepts.intervals import mean_interval

FRAME_SAMPLES = 640
SAMPLE_RATE_HZ = 32_000
SILENCE_DB = -50.0
_CHROMA_SAMPLES = 1 << 16
"""What the lowest octave's window spans; shorter music is followed by silence, as the ends of longer music are."""

Samples = npt.NDArray[np.float32]


def frame_levels_db(samples: Samples) -> npt.NDArray[np.float64]:
    """Root mean square of every 20 ms frame in dB below full scale, [T]; digital silence is -200."""
    frames = samples[: len(samples) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES).astype(np.float64)
    power: npt.NDArray[np.float64] = np.maximum(np.square(frames).mean(axis=1), 1e-20)
    return np.asarray(10.0 * np.log10(power))


def chroma(samples: Samples) -> npt.NDArray[np.float32]:
    """Constant-Q chroma [12, T] of 32 kHz samples, one column per 20 ms frame, C first; six octaves from C2, tuned to
    440 Hz. Read only: several meters of one clip share it.
    """
    return _chroma(samples.astype(np.float32, copy=False).tobytes())


@lru_cache(maxsize=2)
def _chroma(content: bytes) -> npt.NDArray[np.float32]:
    """The chroma of float32 samples; it costs more than all else that is read off a clip."""
    import librosa

    samples = np.frombuffer(content, np.float32)
    frames = len(samples) // FRAME_SAMPLES
    columns = librosa.feature.chroma_cqt(
        y=np.pad(samples, (0, max(_CHROMA_SAMPLES - len(samples), 0))),
        sr=SAMPLE_RATE_HZ,
        hop_length=FRAME_SAMPLES,
        fmin=librosa.note_to_hz("C2"),
        n_octaves=6,
        norm=None,
        tuning=0.0,
    )
    found = np.array(columns[:, :frames], np.float32)
    found.setflags(write=False)
    return found


def strongest_pitch_class(samples: Samples) -> npt.NDArray[np.int64]:
    """Strongest pitch class (0 is C) of every 20 ms frame, [T]; -1 where the frame is quieter than -50 dB."""
    columns = chroma(samples)
    levels = frame_levels_db(samples)[: columns.shape[1]]
    return np.where(levels > SILENCE_DB, columns.argmax(axis=0), -1)


def pitch_survival(original: Samples, coded: Samples) -> float:
    """Share of the original's voiced frames whose strongest pitch class is the same after coding, 0..1."""
    before, after = strongest_pitch_class(original), strongest_pitch_class(coded)
    voiced = before >= 0
    return float((before[voiced] == after[voiced]).mean()) if voiced.any() else float("nan")


def dominance(samples: Samples, pitch_class: int) -> float:
    """Share of all 20 ms frames in which `pitch_class` is the strongest, 0..1."""
    return float((strongest_pitch_class(samples) == pitch_class).mean())


def longest_silence_seconds(samples: Samples) -> float:
    """Longest run of frames quieter than -50 dB, in seconds."""
    quiet = np.concatenate(([0], (frame_levels_db(samples) <= SILENCE_DB).astype(np.int64), [0]))
    edges = np.flatnonzero(np.diff(quiet))
    runs = edges[1::2] - edges[::2]
    return float(runs.max(initial=0) * FRAME_SAMPLES / SAMPLE_RATE_HZ)


def tonal_clarity(samples: Samples) -> float:
    """Mean share of the strongest pitch class in the chroma of voiced frames: 1/12 for noise, 1 for one pure pitch
    class.
    """
    columns = chroma(samples)
    voiced = frame_levels_db(samples)[: columns.shape[1]] > SILENCE_DB
    kept = columns[:, voiced]
    return float((kept.max(axis=0) / np.maximum(kept.sum(axis=0), 1e-9)).mean()) if voiced.any() else 0.0


def onset_regularity(samples: Samples) -> float:
    """How well the onset strength repeats itself: the largest autocorrelation at lags of 0.2 to 1.5 s, at most 1."""
    import librosa

    strength = librosa.onset.onset_strength(y=samples, sr=SAMPLE_RATE_HZ, hop_length=FRAME_SAMPLES)
    centred = strength - strength.mean()
    power = float(centred @ centred)
    lags = range(10, min(76, len(centred) // 2))
    return max((float(centred[lag:] @ centred[:-lag]) / power for lag in lags), default=0.0) if power > 0 else 0.0


def spectral_centroid_hz(samples: Samples) -> float:
    """Median spectral centroid in Hz of the frames louder than -50 dB; 0 where there are none."""
    import librosa

    levels = frame_levels_db(samples)
    centroid = librosa.feature.spectral_centroid(y=samples, sr=SAMPLE_RATE_HZ, n_fft=2048, hop_length=FRAME_SAMPLES)
    voiced = centroid[0, : len(levels)][levels > SILENCE_DB]
    return float(np.median(voiced)) if len(voiced) else 0.0


def stft_distance(original: Samples, coded: Samples, sizes: Sequence[int] = (512, 1024, 2048)) -> float:
    """Multi-resolution STFT distance: spectral convergence plus mean log-magnitude error in nats, mean over `sizes`.

    Yamamoto, Song and Kim 2020 (Parallel WaveGAN, arXiv 1910.11480), equations 4 to 6; magnitudes floored at 1e-4.
    """
    import librosa

    distances = []
    for size in sizes:
        pair = [np.abs(librosa.stft(y, n_fft=size, hop_length=size // 4)) for y in (original, coded)]
        theirs, ours = (np.maximum(magnitude, 1e-4) for magnitude in pair)
        convergence = np.linalg.norm(theirs - ours) / np.linalg.norm(theirs)
        distances.append(float(convergence + np.abs(np.log(theirs / ours)).mean()))
    return float(np.mean(distances))


def interval(values: Sequence[float]) -> list[float]:
    """Mean and bootstrapped 95 % interval [mean, low, high] of `values`, rounded for a report."""
    found = mean_interval(values)
    return [round(value, 4) for value in (found.value, found.low, found.high)]
