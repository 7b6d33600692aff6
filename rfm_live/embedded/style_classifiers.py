"""Classifiers that hear what a caption asked for: instrument, drums, tempo and density. Used by `evaluate` only.

Trained on corpus clips, each as rendered and as the codec returns it, so that they judge the music and not the codec;
they never see the language model's output or its hidden states. Logistic regression (scikit-learn) on a few dozen
statistics of a mel spectrogram and of its onset strength (librosa).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rfm_live.embedded.composer import Style
from rfm_live.embedded.render import FRAME_SAMPLES, SAMPLE_RATE_HZ

Clip = npt.NDArray[np.float32]
Features = npt.NDArray[np.float32]

BANDS = 48
LAGS = range(10, 76)
"""Frames over which the onset strength is compared with itself: 0.2 s to 1.5 s, the beats of 300 to 40 per minute."""


def spoken_style(style: Style) -> dict[str, str]:
    """What captions say of a style and these classifiers listen for."""
    return {
        "instrument": style.instrument.name,
        "drums": "drums" if style.drums else "none",
        "tempo": style.tempo,
        "density": "dense" if style.dense else "sparse",
    }


def features(clip: Clip) -> Features:
    """Level-independent statistics of a clip of at least 3 s at 32 kHz: timbre, its movement, rhythm."""
    import librosa

    power = librosa.feature.melspectrogram(
        y=clip, sr=SAMPLE_RATE_HZ, n_fft=2048, hop_length=FRAME_SAMPLES, n_mels=BANDS, fmin=40.0
    )
    mel = librosa.power_to_db(power, ref=np.max, top_db=70.0)  # [48, T]
    rises = np.maximum(np.diff(mel, axis=1), 0.0)  # [48, T - 1]
    onset = rises.mean(axis=0)
    treble = rises[BANDS * 3 // 4 :].mean(axis=0)
    parts = [mel.mean(axis=1), mel.std(axis=1), np.percentile(mel, 90, axis=1), rises.mean(axis=1)]
    parts += [_beats(onset), _beats(treble)]
    for strength in (onset, treble):
        peaks = librosa.util.peak_pick(
            strength, pre_max=2, post_max=2, pre_avg=8, post_avg=8, delta=float(strength.std()), wait=2
        )
        gaps = np.diff(peaks) if len(peaks) > 2 else np.asarray([50])
        parts.append(
            np.asarray([len(peaks) / len(strength) * 50, np.median(gaps), np.percentile(gaps, 25), strength.std()])
        )
    return np.concatenate(parts).astype(np.float32)


def _beats(strength: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Autocorrelation of an onset strength at `LAGS`, 1 at lag 0."""
    centred = strength - strength.mean()
    power = max(float(centred @ centred), 1e-9)
    return np.asarray([float(centred[lag:] @ centred[:-lag]) / power for lag in LAGS])


@dataclass(frozen=True)
class StyleClassifiers:
    """One fitted pipeline per attribute of `spoken_style`."""

    by_attribute: dict[str, Any]

    @classmethod
    def fit(cls, clips: Sequence[Clip], styles: Sequence[Style]) -> StyleClassifiers:
        """Learn from clips and the styles they were written in."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        table = np.stack([features(clip) for clip in clips])
        spoken = [spoken_style(style) for style in styles]
        fitted = {}
        for name in spoken[0]:
            pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=0.03, max_iter=2000))
            fitted[name] = pipeline.fit(table, [style[name] for style in spoken])
        return cls(fitted)

    def hits(self, clips: Sequence[Clip], styles: Sequence[Style]) -> dict[str, list[bool]]:
        """Per attribute, whether each clip was heard as its style asks."""
        table = np.stack([features(clip) for clip in clips])
        return {
            name: [
                str(heard) == spoken_style(style)[name]
                for heard, style in zip(pipeline.predict(table), styles, strict=True)
            ]
            for name, pipeline in self.by_attribute.items()
        }
