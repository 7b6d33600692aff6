"""Pieces of the corpus as listeners hear them, rendered and coded, for the classifiers that judge the checkpoint. Used
by its evaluation, its banks and the experiments.

Hearing 1500 pieces takes a quarter of an hour, so what was heard is kept; it depends on the codec, not on the decoder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rfm_live.concepts.array_files import keep, kept
from rfm_live.concepts.sound_classifiers import Features, SoundClassifiers, features
from rfm_live.embedded.codec_meters import code
from rfm_live.embedded.composer import Style
from rfm_live.embedded.corpus import piece
from rfm_live.embedded.music_meters import rendered
from rfm_live.embedded.style_classifiers import members_of
from rfm_live.model.checkpoint import MusicGen

FRAMES = 400
"""Length of a piece: 8 s."""
_FORMAT = 2
"""To be raised when the same pieces begin to be rendered, coded or heard another way."""
_SEED, _TOGETHER = 0, 20


@dataclass(frozen=True)
class HeardLessons:
    """Training pieces of FRAMES frames: `features` [2N, F] of all as rendered, then of all as the codec returns them;
    `codes` int16 [N, K, T]; `styles`, one per piece.
    """

    features: Features
    codes: npt.NDArray[np.int16]
    styles: list[Style]

    def classifiers(self, spoken: Callable[[Style], Mapping[str, str]]) -> SoundClassifiers:
        """Classifiers of the attributes that `spoken` tells of a style."""
        both = [*self.styles, *self.styles]
        return SoundClassifiers.fit_in(self.features, [spoken(style) for style in both], members_of(both))


def hear_lessons(
    model: MusicGen, count: int, folder: Path, report: Callable[[int, int], None], first: int = 0
) -> HeardLessons:
    """Hear `count` pieces of the corpus from the `first` on, or read what was heard of them from `folder`.

    `report(done, count)` is called as they are heard. Raises StartError where `folder` cannot be written.
    """
    named = f"{first}_{count}" if first else f"{count}"
    file, indices = folder / f"heard{_FORMAT}_{named}_{codec_digest(model)}.safetensors", range(first, first + count)
    styles, stored = [piece(_SEED, "train", index, FRAMES).style for index in indices], kept(file)
    if stored is None:
        plain, coded, codes = [], [], []
        for start in range(0, count, _TOGETHER):
            pieces = [piece(_SEED, "train", index, FRAMES) for index in indices[start : start + _TOGETHER]]
            for clip in rendered(pieces):
                found, after = code(model, clip)
                plain.append(features(clip))
                coded.append(features(after))
                codes.append(found.numpy().astype(np.int16))
                report(len(codes), count)
        stored = {"features": np.stack([*plain, *coded]), "codes": np.stack(codes)}
        keep(stored, file)
    return HeardLessons(stored["features"], stored["codes"], styles)


def codec_digest(model: MusicGen) -> str:
    """What tells codecs apart: the beginning of the sha256 of the codec's weights."""
    digest = hashlib.sha256()
    for name, values in sorted(model.codec.state_dict().items()):
        digest.update(name.encode())
        digest.update(values.cpu().numpy().tobytes())
    return digest.hexdigest()[:24]
