"""Studies: pieces that are about one concept from their first bar to their last. Used by the recipe and by turns.

The corpus has too few of them for pushes to lead to: chords of one quality on any root, notes repeated or held.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rfm_live.concepts.music_analysis import QUALITIES
from rfm_live.embedded.composer import PITCH_CLASSES, Instrument, Note, Piece, Style, compose, draw_style

STUDY_FRAMES = 1100
CHORD_STUDIES, NOTE_STUDIES = 80, 30
"""Studies of every chord quality and of every pitch class."""
HOME_MODES = {"major": "major", "minor": "minor", "diminished": "octatonic", "augmented": "whole_tone"}
"""The mode of which a chord quality is the triad on the tonic."""
_CHORDS, _NOTES = 901, 902
_DRUM_CHANNEL = 9

Rng = np.random.Generator


@dataclass(frozen=True)
class Study:
    """A piece that is about `concept`."""

    concept: str
    piece: Piece


def draw_studies(seed: int, chords: int = CHORD_STUDIES, notes: int = NOTE_STUDIES) -> list[Study]:
    """`chords` studies of every chord quality, in which the root changes or stays, and `notes` of every pitch class."""
    drawn = []
    for index in range(chords):
        for quality in QUALITIES:
            rng = np.random.default_rng([seed, _CHORDS, index, *quality.encode()])
            style = replace(
                draw_style(rng), drums=index % 4 < 2, bass=False, mode=HOME_MODES[quality], texture="chords"
            )
            root = int(rng.integers(12)) if index // 2 % 2 else None
            drawn.append(Study(f"chord_{quality}", chord_study(rng, STUDY_FRAMES, quality, style, root)))
    for index in range(notes):
        for tonic, name in enumerate(PITCH_CLASSES):
            rng = np.random.default_rng([seed, _NOTES, index, tonic])
            texture = str(rng.choice(("ostinato", "pedal")))
            style = replace(draw_style(rng), tonic=tonic, texture=texture, drums=index % 4 < 2, bass=index % 4 < 2)
            drawn.append(Study(f"note_{name}", compose(rng, STUDY_FRAMES, style)))
    return drawn


def chord_study(rng: Rng, frames: int, quality: str, style: Style, root: int | None = None) -> Piece:
    """Triads of one quality, struck together or broken, in any inversion, over the drums of `style` if it has any.

    They stand on the pitch class `root`, or without one on roots that change from bar to bar.
    """
    bar, notes = 4 * style.beat, []
    is_broken, strokes = bool(rng.random() < 0.3), int(rng.choice((1, 2, 4)))
    here = int(rng.integers(12)) if root is None else root
    for start in range(0, frames, bar):
        if root is None and rng.random() < 0.5:
            here = int(rng.integers(12))
        pitches = _voiced(rng, [(here + step) % 12 for step in QUALITIES[quality]], style.instrument)
        count = 8 if is_broken else strokes
        for place in range(count):
            at = start + place * bar // count
            length = min(max(bar // count - 1, 1), frames - at)
            struck = ([pitches[place % 3]] if is_broken else pitches) if length > 0 else []
            notes += [Note(at, length, pitch, 96 if place == 0 else 84, 0) for pitch in struck]
    notes += [note for note in compose(rng, frames, replace(style, bass=False)).notes if note.channel == _DRUM_CHANNEL]
    ordered = tuple(sorted(notes, key=lambda note: (note.start, note.pitch)))
    return Piece(style, ordered, ((0, style.instrument.program),), frames, "")


def _voiced(rng: Rng, pitch_classes: Sequence[int], instrument: Instrument) -> list[int]:
    """One pitch of each class, each the next above a pitch that is drawn from the lower part of the range."""
    base = int(rng.integers(instrument.low, max(instrument.high - 11, instrument.low + 1)))
    return [base + (pitch_class - base) % 12 for pitch_class in pitch_classes]
