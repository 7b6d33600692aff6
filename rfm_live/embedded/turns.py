"""Turns that teach the embedded checkpoint's concepts: a piece, and from a frame on the same piece but for one thing.

Used by `banks`. Both sides of a turn are written in one style that differs in the concept alone, so that a knob learned
from them changes that and leaves the rest. Everything else that the composer draws is drawn anew for every turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch

from rfm_live.concepts.clips import Progress, Samples, no_progress
from rfm_live.concepts.meters import spectral_centroid_hz
from rfm_live.concepts.music_analysis import QUALITIES
from rfm_live.concepts.turning import Turns
from rfm_live.embedded.composer import (
    BEAT_FRAMES,
    INSTRUMENTS,
    PITCH_CLASSES,
    TEXTURES,
    Instrument,
    Piece,
    Style,
    compose,
    draw_style,
)
from rfm_live.embedded.music_meters import full_caption, rendered
from rfm_live.embedded.studies import HOME_MODES, chord_study
from rfm_live.model.checkpoint import MusicGen

BEFORE_FRAMES, AFTER_FRAMES = 128, 160
"""What is heard before and after the turn; together they must fit into the decoder's positions."""
_RENDERED_AT_ONCE, _CODED_AT_ONCE = 64, 8

Rng = np.random.Generator
Choice = TypeVar("Choice")


@dataclass(frozen=True)
class Turn:
    """`before` goes over into `after`, which has the `concept`, or with a `share` of -1 its opposite."""

    concept: str
    before: Piece
    after: Piece
    share: float = 1.0


def families() -> tuple[str, ...]:
    """The families of the composer's instruments, in their order."""
    return tuple(dict.fromkeys(one.family for one in INSTRUMENTS))


def concept_sets() -> dict[str, tuple[str, ...]]:
    """The concepts of every set, by the name of the bank that they make."""
    return {
        "notes": tuple(f"note_{name}" for name in PITCH_CLASSES),
        "chords": tuple(f"chord_{quality}" for quality in QUALITIES),
        "mode": ("mode_minor", "mode_major"),
        "tempo": ("tempo",),
        "density": ("density",),
        "brightness": ("brightness",),
        "timbres": tuple(f"timbre_{family}" for family in families()),
        "drums": ("drums",),
        "textures": tuple(f"texture_{texture}" for texture in TEXTURES),
    }


def draw_turns(concept: str, count: int, seed: int) -> list[Turn]:
    """The first `count` turns of a concept; turn `i` is drawn from `default_rng([seed, concept, i])`.

    Concepts with an opposite turn to it every other time.
    """
    draw = _DRAWS.get(concept.split("_")[0])
    if draw is None:
        raise ValueError(f"no turns teach '{concept}', expected one of {', '.join(_DRAWS)} or of their classes")
    said = concept.partition("_")[2]
    return [
        draw(np.random.default_rng([seed, index, *concept.encode()]), concept, said, index) for index in range(count)
    ]


def _style(rng: Rng, **fields: object) -> Style:
    """A drawn style with these fields; a tempo brings a beat of its own."""
    style = replace(draw_style(rng), **fields)  # type: ignore[arg-type]
    return replace(style, beat=int(rng.choice(BEAT_FRAMES[style.tempo]))) if "tempo" in fields else style


def _turn(rng: Rng, concept: str, before: Style, after: Style, share: float = 1.0) -> Turn:
    return Turn(concept, _up_to_a_bar(rng, before), compose(rng, AFTER_FRAMES, after), share)


def _up_to_a_bar(rng: Rng, style: Style) -> Piece:
    """The last BEFORE_FRAMES of some bars: what follows begins with a bar, so the beat goes on through the turn."""
    bar = 4 * style.beat
    whole = compose(rng, -(-BEFORE_FRAMES // bar) * bar, style)
    late = whole.frames - BEFORE_FRAMES
    notes = [
        replace(note, start=max(note.start - late, 0), length=note.start + note.length - max(note.start, late))
        for note in whole.notes
        if note.start + note.length > late
    ]
    return replace(whole, notes=tuple(notes), frames=BEFORE_FRAMES)


def _other(rng: Rng, choices: Sequence[Choice], not_this: Choice) -> Choice:
    left = [one for one in choices if one != not_this]
    return left[int(rng.integers(len(left)))]


def _note(rng: Rng, concept: str, said: str, index: int) -> Turn:
    """Music of any texture goes over into repeated or held notes of one pitch class; drums and all else go on."""
    tonic = PITCH_CLASSES.index(said)
    before = _style(rng, tonic=_other(rng, range(12), tonic), **_drums_every_other(index))
    return _turn(rng, concept, before, replace(before, tonic=tonic, texture=str(rng.choice(("ostinato", "pedal")))))


def _drums_every_other(index: int) -> dict[str, bool]:
    return {"drums": index % 2 == 0, "bass": index % 2 == 0}


def _chord(rng: Rng, concept: str, said: str, index: int) -> Turn:
    """Triads of another quality, or music of any texture, go over into triads of one quality."""
    style = _style(rng, drums=index % 4 < 2, bass=False, mode=HOME_MODES[said])
    after = chord_study(rng, AFTER_FRAMES, said, style)
    if index % 2:
        return Turn(concept, _up_to_a_bar(rng, style), after)
    quality = _other(rng, list(QUALITIES), said)
    before = chord_study(rng, BEFORE_FRAMES, quality, replace(style, mode=HOME_MODES[quality]))
    return Turn(concept, before, after)


def _mode(rng: Rng, concept: str, said: str, index: int) -> Turn:
    """Music of any texture in another mode goes over into chords of the mode on the same tonic, or into its triad."""
    style = _style(rng, mode=_other(rng, ("major", "minor"), said), **_drums_every_other(index // 2))
    after = replace(style, mode=said, texture=str(rng.choice(("chords", "arpeggio"))))
    if index % 2:
        return _turn(rng, concept, style, after)
    return Turn(concept, _up_to_a_bar(rng, style), chord_study(rng, AFTER_FRAMES, said, after, root=style.tonic))


def _tempo(rng: Rng, concept: str, said: str, index: int) -> Turn:
    """Slow music goes over into fast and the other way round, in textures whose notes begin on beats."""
    sides = ("slow", "fast") if index % 2 == 0 else ("fast", "slow")
    texture = str(rng.choice([one for one in TEXTURES if one != "pedal"]))
    before = _style(rng, tempo=sides[0], texture=texture, **_drums_every_other(index // 2))
    after = replace(before, tempo=sides[1], beat=int(rng.choice(BEAT_FRAMES[sides[1]])))
    return _turn(rng, concept, before, after, 1.0 if sides[1] == "fast" else -1.0)


def _density(rng: Rng, concept: str, said: str, index: int) -> Turn:
    style = _style(rng, dense=index % 2 == 0)
    return _turn(rng, concept, replace(style, dense=not style.dense), style, 1.0 if style.dense else -1.0)


def _drums(rng: Rng, concept: str, said: str, index: int) -> Turn:
    """Drums come in, with the bass that the composer always gives them, or both leave."""
    style = _style(rng, **_drums_every_other(index))
    before = replace(style, drums=not style.drums, bass=not style.bass)
    return _turn(rng, concept, before, style, 1.0 if style.drums else -1.0)


def _brightness(rng: Rng, concept: str, said: str, index: int) -> Turn:
    """The same music in another register or by another instrument of the family; the ear tells how bright each side is.

    The only instrument of its family changes its register.
    """
    style = _style(rng, **_drums_every_other(index // 4))
    family = [one for one in INSTRUMENTS if one.family == style.instrument.family]
    if index % 4 < 2 or len(family) == 1:
        sides = [_register(style.instrument, upper) for upper in (False, True)]
    else:
        sides = [style.instrument, _other(rng, family, style.instrument)]
    before, after = (replace(style, instrument=side) for side in (sides if index % 2 == 0 else sides[::-1]))
    return _turn(rng, concept, before, after, 1.0 - 2.0 * (index % 2))


def _register(instrument: Instrument, upper: bool) -> Instrument:
    """The upper or the lower end of the instrument's range: one pitch of each class."""
    return replace(instrument, low=instrument.high - 11) if upper else replace(instrument, high=instrument.low + 11)


def _timbre(rng: Rng, concept: str, said: str, index: int) -> Turn:
    members = [one for one in INSTRUMENTS if one.family == said]
    style = _style(rng, instrument=members[index % len(members)], **_drums_every_other(index // len(members)))
    others = [one for one in INSTRUMENTS if one.family != said]
    return _turn(rng, concept, replace(style, instrument=others[int(rng.integers(len(others)))]), style)


def _texture(rng: Rng, concept: str, said: str, index: int) -> Turn:
    style = _style(rng, texture=said, **_drums_every_other(index))
    return _turn(rng, concept, replace(style, texture=_other(rng, TEXTURES, said)), style)


_DRAWS: dict[str, Callable[[Rng, str, str, int], Turn]] = {
    "note": _note,
    "chord": _chord,
    "mode": _mode,
    "tempo": _tempo,
    "density": _density,
    "brightness": _brightness,
    "timbre": _timbre,
    "drums": _drums,
    "texture": _texture,
}


def sounded(model: MusicGen, turns: Sequence[Turn], concepts: Sequence[str], progress: Progress = no_progress) -> Turns:
    """The turns as the model hears them: rendered, cut together and coded; prompts ask for what was before."""
    codes, shares = [], np.zeros((len(turns), len(concepts)), np.float32)
    for start in range(0, len(turns), _RENDERED_AT_ONCE):
        some = turns[start : start + _RENDERED_AT_ONCE]
        before, after = rendered([one.before for one in some]), rendered([one.after for one in some])
        for row, (turn, *sides) in enumerate(zip(some, before, after, strict=True), start):
            shares[row, concepts.index(turn.concept)] = _share(turn, *sides)
        joined = torch.from_numpy(np.concatenate((np.stack(before), np.stack(after)), axis=1))[:, None]  # [N, 1, S]
        with torch.inference_mode():
            for first in range(0, len(some), _CODED_AT_ONCE):
                codes.append(model.codec.encode(joined[first : first + _CODED_AT_ONCE]).numpy())
        progress(start + len(some), len(turns))
    prompts = tuple(full_caption(turn.before.style) for turn in turns)
    return Turns(np.concatenate(codes), BEFORE_FRAMES, shares, prompts)


def _share(turn: Turn, before: Samples, after: Samples) -> float:
    """How far the turn goes: of brightness, octaves of the spectral centroid, at most one."""
    if turn.concept != "brightness":
        return turn.share
    first, second = (max(spectral_centroid_hz(side), 50.0) for side in (before, after))
    return float(np.clip(np.log2(second / first), -1.0, 1.0))
