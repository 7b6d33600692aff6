"""Scales, triads and voicings as MIDI pitches, as SynTheory spells them. Used by `syntheory`."""

from __future__ import annotations

PITCH_CLASSES = ("c", "c_sharp", "d", "d_sharp", "e", "f", "f_sharp", "g", "g_sharp", "a", "a_sharp", "b")

IONIAN, AEOLIAN, LOCRIAN, HARMONIC_MINOR = "ionian", "aeolian", "locrian", "harmonic_minor"
MODES = {
    IONIAN: (0, 2, 4, 5, 7, 9, 11),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "phrygian": (0, 1, 3, 5, 7, 8, 10),
    "lydian": (0, 2, 4, 6, 7, 9, 11),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    AEOLIAN: (0, 2, 3, 5, 7, 8, 10),
    LOCRIAN: (0, 1, 3, 5, 6, 8, 10),
}
"""Semitones above the tonic."""
_SCALES = {**MODES, HARMONIC_MINOR: (0, 2, 3, 5, 7, 8, 11)}

_CHORDS = {"major": (IONIAN, 1), "minor": (AEOLIAN, 1), "dim": (LOCRIAN, 1), "aug": (HARMONIC_MINOR, 3)}
"""The scale and the degree on which a chord is built."""
_LIFTED = {"5": 0, "6": 1, "64": 2}
"""How many of a triad's notes a figured bass lifts by an octave."""


def tonic_pitch(pitch_class: int) -> int:
    """MIDI pitch of a tonic, `pitch_class` 0..11: C4 to F4, then F#3 to B3."""
    return 60 + pitch_class if pitch_class <= 5 else 48 + pitch_class


def scale(pitch_class: int, mode: str) -> tuple[int, ...]:
    """Eight MIDI pitches from the tonic to its octave."""
    tonic = tonic_pitch(pitch_class)
    return (*(tonic + offset for offset in MODES[mode]), tonic + 12)


def triad(pitch_class: int, scale_name: str, degree: int) -> tuple[int, ...]:
    """Three MIDI pitches on `degree` 1..7: every second step of the scale, folded into the tonic's octave.

    Nothing is carried into the next octave, so the fifth degree of C ionian is 67, 71, 62.
    """
    offsets, tonic = _SCALES[scale_name], tonic_pitch(pitch_class)
    return tuple(tonic + offsets[(degree - 1 + step) % 7] for step in (0, 2, 4))


def chord(root: int, kind: str, position: str) -> tuple[int, ...]:
    """MIDI pitches of a major, minor, aug or dim triad on the pitch class `root`; `position` 5 (root), 6 or 64.

    The augmented triad is the third degree of the harmonic minor scale three semitones below its root.
    """
    scale_name, degree = _CHORDS[kind]
    tonic = (root - _SCALES[scale_name][degree - 1]) % 12
    lifted = _LIFTED[position]
    pitches = triad(tonic, scale_name, degree)
    return (*(pitch + 12 for pitch in pitches[:lifted]), *pitches[lifted:])


def progression(pitch_class: int, mode: str, degrees: str) -> tuple[tuple[int, ...], ...]:
    """The triads on `degrees`, digits 1..7, in the key of `pitch_class`."""
    return tuple(triad(pitch_class, mode, int(degree)) for degree in degrees)
