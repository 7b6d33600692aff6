"""The composer of the training corpus: short pieces as lists of notes on the 20 ms frame grid, and their captions.

Used by the recipe (`corpus`, `train`) and by the learning of concept directions. Everything is drawn from one
`numpy.random.Generator`, so a seed names a piece for good. The tonic is uniform over the 12 pitch classes and is never
in the caption, so that notes are left to steering. Pieces emphasise their tonic and repeat themselves: a pitch class
that matters is one that a model can learn and a performer can hear.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

FRAME_RATE_HZ = 50
PITCH_CLASSES = ("c", "c_sharp", "d", "d_sharp", "e", "f", "f_sharp", "g", "g_sharp", "a", "a_sharp", "b")

SCALES: dict[str, tuple[int, ...]] = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "octatonic": (0, 2, 3, 5, 6, 8, 9, 11),
    "whole_tone": (0, 2, 4, 6, 8, 10),
}
"""Semitones above the tonic of each mode. Triads on every other degree of the last two are diminished and augmented."""
MODE_SHARES = (0.35, 0.35, 0.1, 0.08, 0.06, 0.06)

MOODS = {
    "major": ("happy", "cheerful", "joyful"),
    "minor": ("sad", "melancholic", "gloomy"),
    "dorian": ("cool", "dreamy"),
    "mixolydian": ("warm", "relaxed"),
    "octatonic": ("tense", "uneasy"),
    "whole_tone": ("floating", "mysterious"),
}

BEAT_FRAMES = {"fast": (20,), "medium": (28,), "slow": (48,)}
"""Frames per beat, so that sixteenths fall on frames; beats per minute are 3000 / frames: 150, 107, 62."""

TEMPO_WORDS = {
    "fast": ("fast", "quick", "lively"),
    "medium": ("medium tempo", "moderate"),
    "slow": ("slow", "calm", "unhurried"),
}


@dataclass(frozen=True)
class Instrument:
    """One General MIDI program with the range (MIDI numbers, inclusive) in which the composer writes for it."""

    name: str
    family: str
    program: int
    low: int
    high: int
    words: tuple[str, ...]


INSTRUMENTS = (
    Instrument("piano", "keys", 0, 60, 76, ("piano", "solo piano", "grand piano")),
    Instrument("electric piano", "keys", 4, 57, 73, ("electric piano", "rhodes")),
    Instrument("organ", "organ", 16, 55, 71, ("organ", "drawbar organ")),
    Instrument("accordion", "organ", 21, 60, 76, ("accordion",)),
    Instrument("guitar", "plucked", 24, 52, 68, ("guitar", "nylon guitar", "acoustic guitar")),
    Instrument("harp", "plucked", 46, 60, 76, ("harp",)),
    Instrument("strings", "strings", 48, 55, 71, ("strings", "string ensemble", "string section")),
    Instrument("cello", "strings", 42, 43, 59, ("cello", "solo cello")),
    Instrument("choir", "voice", 52, 55, 71, ("choir", "voices")),
    Instrument("trumpet", "brass", 56, 60, 76, ("trumpet",)),
    Instrument("horn", "brass", 60, 50, 66, ("french horn", "horn")),
    Instrument("flute", "woodwind", 73, 67, 83, ("flute", "solo flute")),
    Instrument("clarinet", "woodwind", 71, 58, 74, ("clarinet",)),
    Instrument("marimba", "mallets", 12, 60, 76, ("marimba", "mallets")),
    Instrument("vibraphone", "mallets", 11, 62, 78, ("vibraphone", "vibes")),
)
"""A tenth of range each: there are few notes to know of every instrument, and chords sound in one place."""
SUSTAINED = frozenset({"organ", "strings", "voice", "brass", "woodwind"})
"""Families whose held notes would sound the same from their first to their last frame; they fade a little instead, so
that a model can hear how old a note is."""
SHORT_LIVED = frozenset({"marimba"})
"""Instruments whose notes have died away after a second: longer ones are struck again on every beat."""
BASS = Instrument("bass", "bass", 33, 36, 47, ("bass",))
TEXTURES = ("ostinato", "pedal", "arpeggio", "chords", "melody")
TEXTURE_WORDS = {
    "ostinato": ("ostinato", "repeated notes", "hypnotic loop"),
    "pedal": ("drone", "held notes", "pedal tone"),
    "arpeggio": ("arpeggio", "broken chords", "rolling pattern"),
    "chords": ("chords", "chord progression"),
    "melody": ("melody", "tune", "solo line"),
}

VELOCITIES = {0: 92, 1: 80, 9: 100}
"""MIDI velocities of the lead, the bass and the drums: chosen so that none covers the others."""

NOVELTY, RETURN = 0.4, 0.2
"""After two bars: how likely new ones are, and how likely the first ones come back instead of the newest."""


@dataclass(frozen=True)
class Note:
    """One note: `start` and `length` in frames, MIDI `pitch`, `velocity` 1..127, MIDI `channel` (9 is drums)."""

    start: int
    length: int
    pitch: int
    velocity: int
    channel: int


@dataclass(frozen=True)
class Style:
    """What the caption may speak of, and the tonic, of which it must not; `beat` in frames."""

    instrument: Instrument
    tonic: int
    mode: str
    tempo: str
    beat: int
    texture: str
    dense: bool
    drums: bool
    bass: bool


@dataclass(frozen=True)
class Piece:
    """A finished piece of `frames` frames; `programs` maps channel to General MIDI program."""

    style: Style
    notes: tuple[Note, ...]
    programs: tuple[tuple[int, int], ...]
    frames: int
    caption: str


def draw_style(rng: np.random.Generator) -> Style:
    """A style drawn uniformly over tonics, instruments, tempos and density; the bass plays where the drums do."""
    tempo = str(rng.choice(list(BEAT_FRAMES)))
    texture = str(rng.choice(TEXTURES, p=(0.3, 0.15, 0.2, 0.15, 0.2)))
    drums = bool(rng.random() < 0.4)
    return Style(
        instrument=INSTRUMENTS[int(rng.integers(len(INSTRUMENTS)))],
        tonic=int(rng.integers(12)),
        mode=str(rng.choice(list(SCALES), p=MODE_SHARES)),
        tempo=tempo,
        beat=int(rng.choice(BEAT_FRAMES[tempo])),
        texture=texture,
        dense=bool(rng.random() < 0.5),
        drums=drums,
        bass=drums,
    )


def compose(rng: np.random.Generator, frames: int, style: Style | None = None) -> Piece:
    """Write one piece of `frames` frames (20 ms each) in `style`, or in a style drawn from `rng`."""
    style = style or draw_style(rng)
    bar = 4 * style.beat
    loops = [_loop(rng, style)]
    notes: list[Note] = []
    bars = -(-frames // bar)
    for index in range(0, bars, 2):
        if index and rng.random() < NOVELTY:
            loops.append(_loop(rng, style))
        source = loops[0] if rng.random() < RETURN else loops[-1]
        notes += [replace(note, start=note.start + index * bar) for note in source]
    kept = tuple(
        replace(note, length=min(note.length, frames - note.start))
        for note in sorted(notes, key=_order)
        if note.start < frames
    )
    programs = ((0, style.instrument.program), (1, BASS.program))
    return Piece(style, kept, programs, frames, caption(rng, style))


def _order(note: Note) -> tuple[int, int, int]:
    return note.start, note.channel, note.pitch


def _loop(rng: np.random.Generator, style: Style) -> list[Note]:
    """Two bars of every voice."""
    notes = _VOICES[style.texture](rng, style)
    if style.instrument.name in SHORT_LIVED:
        notes = [struck for note in notes for struck in _struck_again(note, style.beat)]
    if style.bass and style.texture != "pedal":
        notes += _bass(rng, style)
    if style.drums:
        notes += _drums(style)
    return notes


def _struck_again(note: Note, beat: int) -> list[Note]:
    """A note longer than a second as one note per beat, a frame apart like all others; other notes as they are."""
    if note.length <= FRAME_RATE_HZ:
        return [note]
    starts = range(0, note.length, beat)
    return [replace(note, start=note.start + start, length=min(beat - 1, note.length - start)) for start in starts]


def _pitches(style: Style, pitch_class: int, instrument: Instrument) -> list[int]:
    """All pitches of one pitch class within the instrument's range, low to high."""
    return [pitch for pitch in range(instrument.low, instrument.high + 1) if pitch % 12 == pitch_class % 12]


def _near_middle(style: Style, pitch_class: int) -> int:
    middle = (style.instrument.low + style.instrument.high) // 2
    return min(_pitches(style, pitch_class, style.instrument), key=lambda pitch: abs(pitch - middle))


def _rhythm(rng: np.random.Generator, dense: bool) -> list[int]:
    """Onsets in sixteenths over one bar; the first is always 0."""
    cells = ((0, 2), (0, 3), (0, 1, 2), (0,)) if dense else ((0,), (0,), (0, 2))
    onsets: list[int] = []
    for beat in range(4):
        if beat in (0, 2) or dense or rng.random() < 0.6:
            onsets += [4 * beat + offset for offset in cells[int(rng.integers(len(cells)))]]
    return onsets


def _place(style: Style, onsets: list[int], pitches: list[int], channel: int, *, hold: bool = True) -> list[Note]:
    """One note per onset (in sixteenths over two bars), each held to the next when `hold`."""
    notes = []
    for index, (onset, pitch) in enumerate(zip(onsets, pitches, strict=True)):
        gap = (onsets[index + 1] if index + 1 < len(onsets) else 32) - onset
        start, stop = _frame(style, onset), _frame(style, onset + (gap if hold else min(gap, 2)))
        notes.append(Note(start, max(1, stop - start - 1), pitch, VELOCITIES[channel], channel))
    return notes


def _frame(style: Style, sixteenth: int) -> int:
    """Frame of a sixteenth, counted from the start of the loop."""
    return sixteenth * style.beat // 4


def _ostinato(rng: np.random.Generator, style: Style) -> list[Note]:
    bar = _rhythm(rng, style.dense)
    onsets = bar + [16 + onset for onset in bar]
    choices = _pitches(style, style.tonic, style.instrument)
    home = _near_middle(style, style.tonic)
    figure = [home if index == 0 or rng.random() < 0.5 else int(rng.choice(choices)) for index in range(len(bar))]
    return _place(style, onsets, figure + figure, 0)


def _pedal(rng: np.random.Generator, style: Style) -> list[Note]:
    home = _near_middle(style, style.tonic)
    low = [pitch for pitch in _pitches(style, style.tonic, style.instrument) if pitch <= home][-2:]
    onsets = list(range(0, 32, 4 if style.dense else 8))
    notes = [note for pitch in low for note in _place(style, onsets, [pitch] * len(onsets), 0)]
    if rng.random() < 0.5:
        notes += _place(style, onsets, [_degree(style, home, 4)] * len(onsets), 0)
    return notes


def _degree(style: Style, home: int, degree: int) -> int:
    """Pitch of scale degree `degree` (0 is the tonic, may be negative or beyond the octave) above the tonic `home`."""
    octave, step = divmod(degree, len(SCALES[style.mode]))
    pitch = home + 12 * octave + SCALES[style.mode][step]
    while pitch > style.instrument.high:
        pitch -= 12
    while pitch < style.instrument.low:
        pitch += 12
    return pitch


def _roots(rng: np.random.Generator) -> tuple[int, int]:
    """Chord roots (scale degrees) of the two bars; the tonic chord most of the time."""
    return 0, int(rng.choice((0, 3, 4, 5), p=(0.5, 0.2, 0.2, 0.1)))


def _arpeggio(rng: np.random.Generator, style: Style) -> list[Note]:
    home = _near_middle(style, style.tonic)
    octave = len(SCALES[style.mode])
    shape = (0, 2, 4, octave, 4, 2, 0, 2) if rng.random() < 0.5 else (0, 4, 0, octave, 0, 4, 0, 2)
    every = 1 if style.dense and style.tempo == "slow" else 2
    notes = []
    for bar, root in enumerate(_roots(rng)):
        onsets = list(range(16 * bar, 16 * bar + 16, every))
        pitches = [_degree(style, home, root + shape[index % len(shape)]) for index in range(len(onsets))]
        notes += _place(style, [*onsets], pitches, 0, hold=False)
    return notes


def _chords(rng: np.random.Generator, style: Style) -> list[Note]:
    home = _near_middle(style, style.tonic)
    bar = _rhythm(rng, style.dense)[::2] if style.dense else [0, 8]
    notes = []
    for index, root in enumerate(_roots(rng)):
        onsets = [16 * index + onset for onset in bar]
        for third in (0, 2, 4):
            notes += _place(style, onsets, [_degree(style, home, root + third)] * len(onsets), 0)
    return notes


def _melody(rng: np.random.Generator, style: Style) -> list[Note]:
    home = _near_middle(style, style.tonic)
    bar = _rhythm(rng, style.dense)
    onsets = bar + [16 + onset for onset in bar]
    degree, degrees = 0, []
    for onset in onsets:
        degree = 0 if onset % 8 == 0 else int(np.clip(degree + rng.choice((-2, -1, 1, 2)), -3, 6))
        degrees.append(degree)
    return _place(style, onsets, [_degree(style, home, value) for value in degrees], 0)


def _bass(rng: np.random.Generator, style: Style) -> list[Note]:
    pitch = _pitches(style, style.tonic, BASS)[0]
    onsets = [0, 8, 16, 24] if not style.dense else [0, 4, 8, 12, 16, 20, 24, 28]
    return _place(style, onsets, [pitch] * len(onsets), 1)


def _drums(style: Style) -> list[Note]:
    """Kick on 1 and 3, snare on 2 and 4, closed hat in between (General MIDI keys 36, 38, 42)."""
    hits = [(0, 36), (4, 38), (8, 36), (12, 38)]
    hits += [(onset, 42) for onset in (range(0, 16, 2) if style.dense else range(2, 16, 4))]
    length = max(1, style.beat // 4 - 1)
    return [
        Note(_frame(style, 16 * bar + onset), length, key, VELOCITIES[9], 9) for bar in range(2) for onset, key in hits
    ]


_VOICES: dict[str, Callable[[np.random.Generator, Style], list[Note]]] = {
    "ostinato": _ostinato,
    "pedal": _pedal,
    "arpeggio": _arpeggio,
    "chords": _chords,
    "melody": _melody,
}


def caption(rng: np.random.Generator, style: Style) -> str:
    """A short English sentence about the style; parts are left out at random, the key always."""

    def word(choices: tuple[str, ...]) -> str:
        return str(rng.choice(choices))

    instrument, tempo = word(style.instrument.words), word(TEMPO_WORDS[style.tempo])
    mood, texture = word(MOODS[style.mode]), word(TEXTURE_WORDS[style.texture])
    density = word(("dense", "busy")) if style.dense else word(("sparse", "simple"))
    drums = word(("with drums", "drums", "and a drum beat")) if style.drums else word(("no drums", "without drums"))
    templates = (
        f"{tempo} {instrument}, {drums}",
        f"{mood} {instrument} {texture}, {tempo}, {drums}",
        f"a {tempo} {texture} on {instrument}",
        f"{instrument}, {mood}, {density}, {drums}",
        f"{density} {tempo} {instrument} {texture} {drums}",
        f"{mood} {texture} played by {instrument}, {tempo}, {density}, {drums}",
        f"{instrument}",
        f"{instrument} {drums}",
    )
    return word(templates)


def note_study(rng: np.random.Generator, frames: int, pitch_class: int, instrument: Instrument) -> Piece:
    """A study of one pitch class (repeated or held notes over octaves, no drums) for learning a note direction."""
    texture = str(rng.choice(("ostinato", "pedal")))
    return compose(
        rng, frames, replace(draw_style(rng), tonic=pitch_class, texture=texture, instrument=instrument, drums=False)
    )
