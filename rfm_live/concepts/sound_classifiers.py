"""Classifiers that hear an attribute of music, such as its instrument or its drums: external meters of steering.

Trained on labelled clips that have nothing to do with what is judged; they never see a language model's hidden states.
Logistic regression (scikit-learn) on statistics of a mel spectrogram, its cepstra and its onset strength (librosa).
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

BANDS, FINE_BANDS = 48, 80
CEPSTRA = 23
LASTING_FRAMES = 5
"""What sounds in all of so many frames (0.1 s) is not a drum."""
AFTER_ONSET = (1, 2, 4, 7)
"""Frames after the rise to a note's beginning at which its timbre is read: its attack, and what is left 0.1 s later."""
LAGS = range(10, 76)
"""Frames over which the onset strength is compared with itself: 0.2 s to 1.5 s, the beats of 300 to 40 per minute."""


def features(clip: Clip) -> Features:
    """Level-independent statistics of a clip of at least 3 s at 32 kHz: timbre, its movement, rhythm."""
    import librosa

    power = np.square(np.abs(librosa.stft(clip, n_fft=2048, hop_length=FRAME_SAMPLES)))  # [1025, T]
    mel = _mel_db(power, BANDS)  # [48, T]
    rises = np.maximum(np.diff(mel, axis=1), 0.0)  # [48, T - 1]
    onset = rises.mean(axis=0)
    treble = rises[BANDS * 3 // 4 :].mean(axis=0)
    parts = [mel.mean(axis=1), mel.std(axis=1), np.percentile(mel, 90, axis=1), rises.mean(axis=1)]
    parts += [_beats(onset), _beats(treble)]
    for strength in (onset, treble):
        peaks = _peaks(strength)
        gaps = np.diff(peaks) if len(peaks) > 2 else np.asarray([50])
        parts.append(
            np.asarray([len(peaks) / len(strength) * 50, np.median(gaps), np.percentile(gaps, 25), strength.std()])
        )
    return np.concatenate([*parts, *_timbre(power)]).astype(np.float32)


def _timbre(power: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """What tells instruments apart in power [bins, T]: cepstra (MFCC without the level) of all that sounds and of what
    lasts, and how cepstra move in the frames after notes begin.
    """
    from scipy.ndimage import minimum_filter1d

    parts = []
    mel = _mel_db(power, FINE_BANDS)
    cepstra = _cepstra(mel)
    lasting = _mel_db(minimum_filter1d(power, LASTING_FRAMES, axis=1), FINE_BANDS)
    for found in (cepstra, _cepstra(lasting)):
        parts += [found.mean(axis=1), found.std(axis=1), np.diff(found, axis=1).std(axis=1)]
    parts.append(np.percentile(lasting, 90, axis=1)[::2])
    coarse = CEPSTRA // 2 + 1
    parts.append(np.cov(cepstra[:coarse])[np.triu_indices(coarse)])
    begins = _peaks(np.maximum(np.diff(mel, axis=1), 0.0).mean(axis=0))
    begins = begins[begins + max(AFTER_ONSET) < cepstra.shape[1]]
    after = np.zeros((CEPSTRA, len(AFTER_ONSET)))
    if len(begins):
        after = np.stack([cepstra[:, begins + frames].mean(axis=1) for frames in AFTER_ONSET], axis=1)
    return [*parts, after.ravel(), (after[:, 1:] - after[:, :1]).ravel()]


def _mel_db(power: npt.NDArray[Any], bands: int) -> npt.NDArray[Any]:
    """Mel spectrogram [bands, T] in dB below its loudest, of power [bins, T]."""
    import librosa

    mel = librosa.feature.melspectrogram(S=power, sr=SAMPLE_RATE_HZ, n_mels=bands, fmin=40.0)
    found: npt.NDArray[Any] = librosa.power_to_db(mel, ref=np.max, top_db=70.0)
    return found


def _cepstra(mel: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Mel-frequency cepstra [CEPSTRA, T] without the first, which is the level."""
    import librosa

    found: npt.NDArray[Any] = librosa.feature.mfcc(S=mel, n_mfcc=CEPSTRA + 1)[1:]
    return found


def _peaks(strength: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Frames at which an onset strength [T] peaks."""
    import librosa

    found: npt.NDArray[np.int64] = librosa.util.peak_pick(
        strength, pre_max=2, post_max=2, pre_avg=8, post_avg=8, delta=float(strength.std()), wait=2
    )
    return found


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
        """Learn every attribute of the first clip's labels from clips and their labels, as `fit_in` does.

        Raises:
            ValueError: as `fit_in`.
        """
        return cls.fit_in(np.asarray([features(clip) for clip in clips], np.float32), labels, members)

    @classmethod
    def fit_in(
        cls, table: Features, labels: Sequence[Labels], members: Mapping[str, Sequence[str]] | None = None
    ) -> SoundClassifiers:
        """Learn every attribute of the first label from the rows of `table` [N, F], the clips' `features`.

        `members` names for an attribute what each clip is within its label, as a flute is of the woodwinds: what sounds
        different is learned apart and told as one.

        Raises:
            ValueError: a clip lacks an attribute, there are not as many labels as clips, or an attribute never varies.
        """
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        if not len(table) or len(table) != len(labels):
            raise ValueError(f"{len(labels)} labels stand against {len(table)} clips, expected as many, 2 or more")
        fitted, told = {}, {}
        for name in labels[0]:
            said = [_said(label, name, place) for place, label in enumerate(labels)]
            if len(set(said)) < 2:
                raise ValueError(f"'{name}' of all {len(table)} clips is '{said[0]}', expected 2 classes or more")
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

    def likelihoods(self, name: str, table: Features) -> dict[str, npt.NDArray[np.float64]]:
        """How likely every class of the attribute `name` is, 0..1, in each row of `table` [N, F]: [N] by class."""
        pipeline, told = self.by_attribute[name], self.told[name]
        shares = pipeline.predict_proba(table)  # [N, parts]
        said = np.asarray([told[str(part)] for part in pipeline.classes_])
        return {one: shares[:, said == one].sum(axis=1) for one in self.classes(name)}

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
