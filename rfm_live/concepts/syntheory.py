"""SynTheory as data: its seven sets, every excerpt with class and MIDI events, no sound. Used by concept learning.

The specification is that of brown-palm/syntheory (MIT) and of Wei, Freeman, Donahue and Sun (ISMIR 2024). An excerpt
names the track to render and which part of it to keep; whoever renders takes a track's events and needs nothing else
from here. Times are MIDI ticks, 480 to the quarter, at the track's tempo. All tonal clips last 8 beats at 120 BPM, 4 s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from rfm_live.concepts.harmony import AEOLIAN, IONIAN, MODES, PITCH_CLASSES, chord, progression, scale
from rfm_live.errors import ClipError

TICKS_PER_QUARTER = 480
CLIP_SECONDS = 4.0
TONAL_BPM = 120
TONAL_CHANNEL = 2
TONAL_VELOCITY = 64

_OVERTONES = {8, 9, 14, 21, 23, 47, 86}
"""Celesta, glockenspiel, tubular bells, accordion, tango accordion, timpani, fifths lead: strong overtones."""
_ARTICULATE = {22, 31, 55, 77, 78}
"""Harmonica, guitar harmonics, orchestra hit, shakuhachi, whistle."""
_EFFECTS = {*range(96, 104), *range(112, 128)}
PROGRAMS = tuple(program for program in range(128) if program not in _OVERTONES | _ARTICULATE | _EFFECTS)
"""The 92 General MIDI programs (0 is the grand piano) of the tonal sets."""


@dataclass(frozen=True)
class NoteEvent:
    """One note: `start` and `length` in ticks, MIDI `pitch` 0..127, `velocity` 1..127."""

    start: int
    length: int
    pitch: int
    velocity: int


@dataclass(frozen=True)
class Track:
    """What one synthesiser channel plays: `program` 0..127 on `channel` 0..15 at `bpm` quarters a minute.

    `reverb` 0..127 is sent once as controller 91 before the notes; None sends nothing. The sound is cut at `seconds`.
    """

    bpm: int
    channel: int
    program: int
    notes: tuple[NoteEvent, ...]
    seconds: float
    reverb: int | None = None

    def seconds_at(self, tick: int) -> float:
        """Time of `tick` in seconds from the track's start."""
        return tick * 60.0 / (self.bpm * TICKS_PER_QUARTER)


@dataclass(frozen=True)
class Excerpt:
    """4 seconds of `track` from `start_seconds` on, under a `name` that is unique in its set.

    `label` is the index of the class in the set's `classes`, or the tempo in BPM. `instrument` names the program or the
    click. Excerpts of one track have the same `track_name`.
    """

    name: str
    label: int
    instrument: str
    track_name: str
    track: Track
    start_seconds: float = 0.0


@dataclass(frozen=True)
class ConceptSet:
    """One set of SynTheory: its `classes` in the order of the labels, empty for a regression, and how many excerpts.

    `label` names what is told apart. `excerpts(seed)` yields all of them in a fixed order; the seed places the crops of
    the click sets and is ignored by the tonal sets (the published crops were drawn without a seed and cannot be had
    again).
    """

    name: str
    label: str
    classes: tuple[str, ...]
    count: int
    excerpts: Callable[[int], Iterator[Excerpt]]

    def label_value(self, label: int) -> str | float:
        """The class of the index `label`, or the quantity."""
        return self.classes[label] if self.classes else float(label)


def tonal_notes(strokes: tuple[tuple[int, ...], ...]) -> tuple[NoteEvent, ...]:
    """The notes of `strokes`, tuples of MIDI pitches struck together, which share the 8 beats of a clip equally."""
    length = 8 * TICKS_PER_QUARTER // len(strokes)
    return tuple(
        NoteEvent(index * length, length, pitch, TONAL_VELOCITY)
        for index, pitches in enumerate(strokes)
        for pitch in pitches
    )


def program_name(program: int) -> str:
    """The instrument of an excerpt that plays a General MIDI program, 0..127."""
    return f"program{program:03d}"


def _on_every_program(name: str, label: int, strokes: tuple[tuple[int, ...], ...]) -> Iterator[Excerpt]:
    notes = tonal_notes(strokes)
    for program in PROGRAMS:
        track = Track(TONAL_BPM, TONAL_CHANNEL, program, notes, CLIP_SECONDS)
        instrument = program_name(program)
        yield Excerpt(f"{name}_{instrument}", label, instrument, f"{name}_{instrument}", track)


def notes(seed: int) -> Iterator[Excerpt]:
    """Pitch classes: MIDI 0..107, four strokes. 88 of the published clips are silent: the soundfont has no such key."""
    for pitch in range(108):
        yield from _on_every_program(f"{PITCH_CLASSES[pitch % 12]}_octave{pitch // 12}", pitch % 12, ((pitch,),) * 4)


def intervals(seed: int) -> Iterator[Excerpt]:
    """1 to 12 semitones over MIDI 60..71, upwards, downwards and together; label 0 is the semitone."""
    for low, size in product(range(60, 72), range(1, 13)):
        pair = ((low,), (low + size,))
        played = {"up": pair * 4, "down": pair[::-1] * 4, "unison": ((low, low + size),) * 8}
        for style, strokes in played.items():
            yield from _on_every_program(f"{size:02d}_on_{PITCH_CLASSES[low % 12]}_{style}", size - 1, strokes)


def scales(seed: int) -> Iterator[Excerpt]:
    """The seven modes from the tonic to its octave, and downwards."""
    for tonic, (label, mode) in product(range(12), enumerate(MODES)):
        rising = tuple((pitch,) for pitch in scale(tonic, mode))
        for style, strokes in (("up", rising), ("down", rising[::-1])):
            yield from _on_every_program(f"{mode}_on_{PITCH_CLASSES[tonic]}_{style}", label, strokes)


CHORDS = ("major", "minor", "aug", "dim")
POSITIONS = ("5", "6", "64")


def chords(seed: int) -> Iterator[Excerpt]:
    """Triads in root position and both inversions, four strokes."""
    for root, (label, kind), position in product(range(12), enumerate(CHORDS), POSITIONS):
        strokes = (chord(root, kind, position),) * 4
        yield from _on_every_program(f"{kind}_on_{PITCH_CLASSES[root]}_position{position}", label, strokes)


IONIAN_PROGRESSIONS = ("1451", "1465", "1564", "1645", "2516", "4156", "4536", "5415", "5641", "6415")
AEOLIAN_PROGRESSIONS = ("1251", "1341", "1451", "1637", "1671", "1673", "1764", "4711", "7671")
PROGRESSIONS = tuple((IONIAN, degrees) for degrees in IONIAN_PROGRESSIONS) + tuple(
    (AEOLIAN, degrees) for degrees in AEOLIAN_PROGRESSIONS
)
"""Mode and scale degrees of the 19 progressions, in the order of their labels."""


def progressions(seed: int) -> Iterator[Excerpt]:
    """Four triads in each of 12 keys."""
    for tonic, (label, (mode, degrees)) in product(range(12), enumerate(PROGRESSIONS)):
        strokes = progression(tonic, mode, degrees)
        yield from _on_every_program(f"{mode}_{degrees}_in_{PITCH_CLASSES[tonic]}", label, strokes)


@dataclass(frozen=True)
class Click:
    """A percussive sound: MIDI pitch of the first click of a bar and of the others."""

    name: str
    channel: int
    program: int
    downbeat: int
    other: int


CLICKS = (
    Click("default", 9, 0, 37, 31),
    Click("woodblock_dark", 2, 115, 37, 31),
    Click("woodblock_light", 2, 115, 52, 48),
    Click("taiko", 2, 116, 52, 48),
    Click("synth_drum", 2, 118, 52, 48),
)
DOWNBEAT_VELOCITY, OTHER_VELOCITY = 100, 75
REVERBS = (0, 63, 127)
TEMPOS_BPM = range(50, 211)
TEMPO_OFFSETS, METRE_OFFSETS = 5, 10
METRES = ((2, 2), (2, 4), (3, 4), (3, 8), (4, 4), (6, 8), (9, 8), (12, 8))
"""Beats in the bar and the note value that is a beat."""
METRE_BPM = 120


def click_track(click: Click, metre: tuple[int, int], bpm: int, beats: int, seconds: float, reverb: int) -> Track:
    """`beats` + 1 clicks, each one beat of `metre` long, the first of every bar accented; to be cut at `seconds`."""
    in_bar, value = metre
    length = 4 * TICKS_PER_QUARTER // value
    events = []
    for beat in range(beats + 1):
        is_first = beat % in_bar == 0
        pitch = click.downbeat if is_first else click.other
        velocity = DOWNBEAT_VELOCITY if is_first else OTHER_VELOCITY
        events.append(NoteEvent(beat * length, length, pitch, velocity))
    return Track(bpm, click.channel, click.program, tuple(events), seconds, reverb)


def _crops(name: str, label: int, click: Click, track: Track, starts: npt.NDArray[np.float64]) -> Iterator[Excerpt]:
    for index, start in enumerate(starts):
        yield Excerpt(f"{name}_offset{index}", label, click.name, name, track, float(start))


def _starts(track: Track, count: int, key: list[int]) -> npt.NDArray[np.float64]:
    return np.random.default_rng(key).uniform(0.0, track.seconds - CLIP_SECONDS, count)


def tempos(seed: int) -> Iterator[Excerpt]:
    """50 to 210 BPM in 4/4: 5 crops out of 20 s of each click; the label is the tempo."""
    for bpm, (index, click) in product(TEMPOS_BPM, enumerate(CLICKS)):
        track = click_track(click, (4, 4), bpm, bpm // 3, 20.0, REVERBS[0])
        starts = _starts(track, TEMPO_OFFSETS, [seed, 0, bpm, index])
        yield from _crops(f"{bpm:03d}_bpm_{click.name}", bpm, click, track, starts)


def time_signatures(seed: int) -> Iterator[Excerpt]:
    """Eight metres at 120 quarters a minute: 10 crops out of 30 s of each click with three levels of reverb."""
    for (label, metre), (level, reverb), (index, click) in product(
        enumerate(METRES), enumerate(REVERBS), enumerate(CLICKS)
    ):
        beats = metre[1] * METRE_BPM // 8  # 30 s
        track = click_track(click, metre, METRE_BPM, beats, 30.0, reverb)
        name = f"{metre[0]}_{metre[1]}_{click.name}_reverb{reverb:03d}"
        yield from _crops(name, label, click, track, _starts(track, METRE_OFFSETS, [seed, 1, label, level, index]))


SETS = (
    ConceptSet("notes", "note", PITCH_CLASSES, 9_936, notes),
    ConceptSet("intervals", "interval", tuple(str(size) for size in range(1, 13)), 39_744, intervals),
    ConceptSet("scales", "scale", tuple(MODES), 15_456, scales),
    ConceptSet("chords", "chord", CHORDS, 13_248, chords),
    ConceptSet(
        "progressions",
        "progression",
        tuple(f"{mode}_{degrees}" for mode, degrees in PROGRESSIONS),
        20_976,
        progressions,
    ),
    ConceptSet("tempos", "tempo_bpm", (), 4_025, tempos),
    ConceptSet(
        "time_signatures",
        "time_signature",
        tuple(f"{beats}/{value}" for beats, value in METRES),
        1_200,
        time_signatures,
    ),
)


def concept_set(name: str) -> ConceptSet:
    """The set of that name. Raises `ClipError`."""
    for member in SETS:
        if member.name == name:
            return member
    raise ClipError(f"SynTheory has no set '{name}', expected {', '.join(member.name for member in SETS)}")
