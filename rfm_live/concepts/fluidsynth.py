"""SynTheory's tracks to samples with the FluidSynth library. Used by `syntheory_audio`.

A synthesiser of its own for every track, so that a track's samples depend on nothing but the track, the soundfont and
FluidSynth's version: reverb and chorus have a memory. The library is bound with ctypes, for a process of the FluidSynth
program takes three times as long to start as four seconds take to render. It frees Python's lock: threads run in
parallel.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from rfm_live.concepts.clips import Samples
from rfm_live.concepts.syntheory import Track
from rfm_live.errors import StartError

SAMPLE_RATE_HZ = 44_100
SOUNDFONT = Path("/usr/share/sounds/sf2/TimGM6mb.sf2")
_INSTALL = "apt-get install libfluidsynth3 timgm6mb-soundfont"
_LIBRARIES = ("libfluidsynth.so.3", "libfluidsynth.so.2", "libfluidsynth.3.dylib")
_REVERB_SEND = 91
_LOG_LEVELS = 5
_GAIN = 1.0
_POINTER, _INT, _TEXT, _DOUBLE = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_double
_CALLS = {
    "new_fluid_settings": (_POINTER, ()),
    "delete_fluid_settings": (None, (_POINTER,)),
    "fluid_settings_setnum": (_INT, (_POINTER, _TEXT, _DOUBLE)),
    "new_fluid_synth": (_POINTER, (_POINTER,)),
    "delete_fluid_synth": (None, (_POINTER,)),
    "fluid_synth_sfload": (_INT, (_POINTER, _TEXT, _INT)),
    "fluid_synth_program_change": (_INT, (_POINTER, _INT, _INT)),
    "fluid_synth_cc": (_INT, (_POINTER, _INT, _INT, _INT)),
    "fluid_synth_noteon": (_INT, (_POINTER, _INT, _INT, _INT)),
    "fluid_synth_noteoff": (_INT, (_POINTER, _INT, _INT)),
    "fluid_synth_write_float": (_INT, (_POINTER, _INT, _POINTER, _INT, _INT, _POINTER, _INT, _INT)),
    "fluid_set_log_function": (_POINTER, (_INT, _POINTER, _POINTER)),
}
"""Result and arguments of what is called, from FluidSynth 2's API reference."""


@dataclass(frozen=True, order=True)
class _Stroke:
    """A key goes down, or up where `velocity` is 0, at a sample. Keys go up before others go down."""

    sample: int
    is_down: bool
    pitch: int
    velocity: int


def render_track(track: Track, soundfont: Path) -> Samples:
    """Mono samples of a track at 44.1 kHz, cut at exactly `track.seconds`, about as loud as the soundfont has them.

    Raises:
        StartError: FluidSynth is not installed, or the soundfont cannot be loaded.
    """
    library = _library()
    stereo = np.zeros((round(track.seconds * SAMPLE_RATE_HZ), 2), np.float32)
    with _synthesiser(library, soundfont) as synthesiser:
        library.fluid_synth_program_change(synthesiser, track.channel, track.program)
        if track.reverb is not None:
            library.fluid_synth_cc(synthesiser, track.channel, _REVERB_SEND, track.reverb)
        done = 0
        for stroke in _strokes(track):
            done = _write(library, synthesiser, stereo, done, stroke.sample)
            if stroke.is_down:
                library.fluid_synth_noteon(synthesiser, track.channel, stroke.pitch, stroke.velocity)
            else:
                library.fluid_synth_noteoff(synthesiser, track.channel, stroke.pitch)
        _write(library, synthesiser, stereo, done, len(stereo))
    return np.asarray(stereo.mean(axis=1), np.float32)


def installed_soundfont(soundfont: Path | None = None) -> Path:
    """The soundfont that is asked for, or TimGM6mb where Debian puts it. Raises `StartError` where there is none."""
    found = SOUNDFONT if soundfont is None else soundfont
    if not found.is_file():
        raise StartError(f"soundfont '{found}' does not exist: {_INSTALL}, or name another one")
    return found


def _strokes(track: Track) -> list[_Stroke]:
    strokes = []
    for note in track.notes:
        for tick, velocity in ((note.start, note.velocity), (note.start + note.length, 0)):
            sample = round(track.seconds_at(tick) * SAMPLE_RATE_HZ)
            strokes.append(_Stroke(sample, velocity > 0, note.pitch, velocity))
    return sorted(strokes)


def _write(library: ctypes.CDLL, synthesiser: int, stereo: Samples, done: int, until: int) -> int:
    """Render samples `done`..`until` of `stereo` [N, 2], as far as there are any; answers where it stopped."""
    end = min(until, len(stereo))
    if end > done:
        place = stereo[done:].ctypes.data
        library.fluid_synth_write_float(synthesiser, end - done, place, 0, 2, place, 1, 2)
    return max(done, end)


@contextmanager
def _synthesiser(library: ctypes.CDLL, soundfont: Path) -> Iterator[int]:
    settings = library.new_fluid_settings()
    library.fluid_settings_setnum(settings, b"synth.sample-rate", float(SAMPLE_RATE_HZ))
    library.fluid_settings_setnum(settings, b"synth.gain", _GAIN)
    synthesiser = library.new_fluid_synth(settings)
    try:
        if library.fluid_synth_sfload(synthesiser, str(soundfont).encode(), 1) < 0:
            raise StartError(f"soundfont '{soundfont}' cannot be loaded by FluidSynth")
        yield synthesiser
    finally:
        library.delete_fluid_synth(synthesiser)
        library.delete_fluid_settings(settings)


@cache
def _library() -> ctypes.CDLL:
    """The library with its calls declared, silent. Raises `StartError`."""
    for name in (ctypes.util.find_library("fluidsynth"), *_LIBRARIES):
        try:
            library = ctypes.CDLL(name) if name else None
        except OSError:
            continue
        if library is not None and hasattr(library, "fluid_synth_write_float"):
            for call, (result, arguments) in _CALLS.items():
                function = getattr(library, call)
                function.restype, function.argtypes = result, arguments
            for level in range(_LOG_LEVELS):
                library.fluid_set_log_function(level, None, None)
            return library
    raise StartError(f"SynTheory's sound needs FluidSynth 2: {_INSTALL}")
