"""Classifiers that hear an attribute of music, such as its instrument or its drums: external meters of steering.

Trained on labelled clips that have nothing to do with what is judged; they never see a language model's hidden states.
Logistic regression (scikit-learn) on a few dozen statistics of a mel spectrogram and of its onset strength (librosa).
Used by evaluation and by the recipe of the embedded checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rfm_live.concepts.meters import FRAME_SAMPLES, SAMPLE_RATE_HZ

Clip = npt.NDArray[np.float32]
Features = npt.NDArray[np.float32]
Labels = Mapping[str, str]
"""What is said of one clip, by attribute: {"instrument": "flute", "drums": "none"}."""

BANDS = 48
LAGS = range(10, 76)
"""Frames over which the onset strength is compared with itself: 0.2 s to 1.5 s, the beats of 300 to 40 per minute."""


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
class SoundClassifiers:
    """One fitted pipeline per attribute, and what each of its classes is told as."""

    by_attribute: dict[str, Any]
    told: dict[str, dict[str, str]]

    @classmethod
    def fit(
        cls, clips: Sequence[Clip], labels: Sequence[Labels], members: Mapping[str, Sequence[str]] | None = None
    ) -> SoundClassifiers:
        """Learn every attribute of the first clip's labels from clips and their labels.

        `members` names for an attribute what each clip is within its label, as a flute is of the woodwinds: what sounds
        different is learned apart and told as one.

        Raises:
            ValueError: a clip lacks an attribute, there are not as many labels as clips, or an attribute never varies.
        """
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        if not clips or len(clips) != len(labels):
            raise ValueError(f"{len(labels)} labels stand against {len(clips)} clips, expected as many, 2 or more")
        table = np.stack([features(clip) for clip in clips])
        fitted, told = {}, {}
        for name in labels[0]:
            said = [_said(label, name, place) for place, label in enumerate(labels)]
            if len(set(said)) < 2:
                raise ValueError(f"'{name}' of all {len(clips)} clips is '{said[0]}', expected 2 classes or more")
            parts = (members or {}).get(name, said)
            fitted[name] = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000)).fit(table, parts)
            told[name] = dict(zip(parts, said, strict=True))
        return cls(fitted, told)

    def heard(self, clips: Sequence[Clip]) -> list[dict[str, str]]:
        """What each clip is heard as, by attribute."""
        return self.heard_in(np.stack([features(clip) for clip in clips]))

    def heard_in(self, table: Features) -> list[dict[str, str]]:
        """What each clip is heard as, by attribute, from the rows of `table` [N, F]: the clips' `features`."""
        by_name = {
            name: [self.told[name][str(part)] for part in pipeline.predict(table)]
            for name, pipeline in self.by_attribute.items()
        }
        return [{name: said[place] for name, said in by_name.items()} for place in range(len(table))]

    def classes(self, name: str) -> list[str]:
        """What the attribute `name` may be heard as."""
        return sorted(set(self.told[name].values()))

    def hits(self, clips: Sequence[Clip], wanted: Sequence[Labels]) -> dict[str, list[bool]]:
        """Per attribute, whether each clip was heard as it should be."""
        pairs = list(zip(self.heard(clips), wanted, strict=True))
        return {name: [heard[name] == asked[name] for heard, asked in pairs] for name in self.by_attribute}


def _said(label: Labels, name: str, place: int) -> str:
    if name not in label:
        raise ValueError(f"clip {place} has no label '{name}', expected one as clip 0 has")
    return label[name]
