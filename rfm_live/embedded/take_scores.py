"""How well a take came out: what is heard in it of the pushes under which it was played, and of its prompt. Used by the
recipe only.

The ears are not those that judge the banks: classifiers of other pieces, and a chroma of short-time Fourier transforms
where those read a constant-Q one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rfm_live.concepts.clips import Progress, no_progress
from rfm_live.concepts.meters import FRAME_SAMPLES, SAMPLE_RATE_HZ, Samples
from rfm_live.concepts.music_analysis import QUALITIES
from rfm_live.concepts.sound_classifiers import SoundClassifiers, features
from rfm_live.embedded.composer import PITCH_CLASSES, Style
from rfm_live.embedded.heard_lessons import hear_lessons
from rfm_live.embedded.style_classifiers import spoken_style
from rfm_live.model.checkpoint import MusicGen

FIRST_JUDGED, JUDGED = 1500, 600
OF_CONCEPT = {"note": 1.1, "timbre": 1.5, "drums": 1.5, "chord": 1.5, "mode": 1.5}
"""What a concept that is wholly heard is worth, by its kind."""
OF_PROMPT = {"family": 1.2, "drums": 1.1}
"""What an attribute of the prompt is worth that pushes say nothing of."""
_SILENT, _SILENCE = 1e-3, 1.0
"""The root mean square below which a take is silence, and what that costs."""
_WINDOW, _CHORD_FRAMES = 8192, 10
_CHORD_SHARPNESS, _MODE_SHARPNESS = 25.0, 8.0
_KEYS = {
    "major": (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
    "minor": (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
}
"""Key profiles of Krumhansl and Kessler 1982."""

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Wish:
    """What takes are asked for: the `style` that their caption tells in full, and pushes by so much of concepts."""

    style: Style
    shares: Mapping[str, float]


@dataclass(frozen=True)
class TakeJudge:
    """Hears takes by classifiers of `spoken_style`."""

    classifiers: SoundClassifiers

    @classmethod
    def learned(cls, model: MusicGen, folder: Path, report: Progress = no_progress) -> TakeJudge:
        """Learn from JUDGED pieces of the corpus that no other classifier hears; what was heard is kept in `folder`.

        Raises StartError where that cannot be written.
        """
        return cls(hear_lessons(model, JUDGED, folder, report, first=FIRST_JUDGED).classifiers(spoken_style))

    def scores(self, clips: Sequence[Samples], wishes: Sequence[Wish]) -> npt.NDArray[np.float64]:
        """How well each clip, of 3 s or more at 32 kHz, came out: [N], 0 and up."""
        table = np.stack([features(clip) for clip in clips])
        heard = {name: self.classifiers.likelihoods(name, table) for name in OF_PROMPT}
        found = [
            self._score(
                clip, wish, {name: {said: float(p[row]) for said, p in one.items()} for name, one in heard.items()}
            )
            for row, (clip, wish) in enumerate(zip(clips, wishes, strict=True))
        ]
        return np.asarray(found)

    def _score(self, clip: Samples, wish: Wish, heard: Mapping[str, Mapping[str, float]]) -> float:
        asked, led = spoken_style(wish.style), {_kind(concept) for concept in wish.shares}
        columns = stft_chroma(clip)
        worth = sum(OF_CONCEPT[_kind(concept)] * _shown(concept, columns, heard) for concept in wish.shares)
        for name, each in OF_PROMPT.items():
            if {"family": "timbre"}.get(name, name) not in led:
                worth += each * heard[name][asked[name]]
        return worth - _SILENCE * float(np.sqrt(np.mean(np.square(clip))) < _SILENT)


def _kind(concept: str) -> str:
    return concept.split("_")[0]


def _shown(concept: str, columns: Floats, heard: Mapping[str, Mapping[str, float]]) -> float:
    """How much of a concept is heard, 0..1: by the chroma [12, T] and by how likely each class is."""
    kind, name = _kind(concept), concept.partition("_")[2]
    match kind:
        case "note":
            return note_share(columns, PITCH_CLASSES.index(name))
        case "chord":
            return chord_share(columns, name)
        case "mode":
            return mode_share(columns, name)
        case "drums":
            return heard["drums"]["drums"]
    return heard["family"][name]


def stft_chroma(samples: Samples) -> Floats:
    """Chroma [12, T] of 32 kHz samples by short-time Fourier transforms, one column per 20 ms frame, C first."""
    import librosa

    columns: Floats = librosa.feature.chroma_stft(
        y=samples, sr=SAMPLE_RATE_HZ, n_fft=_WINDOW, hop_length=FRAME_SAMPLES, norm=None, tuning=0.0
    )
    return columns


def note_share(columns: Floats, pitch_class: int) -> float:
    """The share of the columns [12, T] in which a pitch class is the strongest."""
    return float((columns.argmax(axis=0) == pitch_class).mean())


def chord_share(columns: Floats, quality: str) -> float:
    """How clearly a fifth of a second is nearer to a triad of this quality than of any other, on the mean, 0..1."""
    from scipy.special import expit

    spans = np.stack(
        [part.mean(axis=1) for part in np.array_split(columns, max(columns.shape[1] // _CHORD_FRAMES, 1), 1)]
    )
    spans /= np.maximum(np.linalg.norm(spans, axis=1, keepdims=True), 1e-9)  # [S, 12]
    best = {name: (spans @ _triads(steps).T).max(axis=1) for name, steps in QUALITIES.items()}
    rivals = np.max([nearness for name, nearness in best.items() if name != quality], axis=0)
    return float(expit(_CHORD_SHARPNESS * (best[quality] - rivals)).mean())


def _triads(steps: Sequence[int]) -> Floats:
    """The triad on each of the twelve roots as a chroma of length 1, [12, 12]."""
    member = np.zeros(12)
    member[list(steps)] = 1.0 / np.sqrt(len(steps))
    return np.stack([np.roll(member, root) for root in range(12)])


def mode_share(columns: Floats, mode: str) -> float:
    """How clearly the chroma's sum goes with a key of this mode, 0..1; 1/2 where the other one goes as well."""
    from scipy.special import expit

    whole = columns.sum(axis=1)
    best = {
        name: max(np.corrcoef(np.roll(profile, tonic), whole)[0, 1] for tonic in range(12))
        for name, profile in _KEYS.items()
    }
    other = "minor" if mode == "major" else "major"
    return float(expit(_MODE_SHARPNESS * (best[mode] - best[other])))
