"""Classifiers that hear what a caption asked for: instrument family, drums, tempo and density. Used by `evaluate` only.

Trained on corpus clips, each as rendered and as the codec returns it, so that they judge the music and not the codec.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rfm_live.concepts.sound_classifiers import Clip, SoundClassifiers
from rfm_live.embedded.composer import Style


def spoken_style(style: Style) -> dict[str, str]:
    """What captions say of a style and these classifiers listen for."""
    return {
        "family": style.instrument.family,
        "drums": "drums" if style.drums else "none",
        "tempo": style.tempo,
        "density": "dense" if style.dense else "sparse",
    }


def members_of(styles: Sequence[Style]) -> dict[str, list[str]]:
    """The instruments within the families: a harp and a guitar do not sound alike."""
    return {"family": [style.instrument.name for style in styles]}


@dataclass(frozen=True)
class StyleClassifiers:
    """One classifier per attribute of `spoken_style`."""

    classifiers: SoundClassifiers

    @classmethod
    def fit(cls, clips: Sequence[Clip], styles: Sequence[Style]) -> StyleClassifiers:
        """Learn from clips and the styles they were written in."""
        return cls(SoundClassifiers.fit(clips, [spoken_style(style) for style in styles], members_of(styles)))

    def hits(self, clips: Sequence[Clip], styles: Sequence[Style]) -> dict[str, list[bool]]:
        """Per attribute, whether each clip was heard as its style asks."""
        return self.classifiers.hits(clips, [spoken_style(style) for style in styles])
