"""Pieces to sound: Standard MIDI files written with mido, rendered by the FluidSynth program. Used by the recipe only.

FluidSynth runs as a separate process on many pieces at a time (loading the soundfont takes longer than a piece). One
MIDI tick is 1 ms, so every onset lies on the 20 ms frame grid; reverb and chorus are off, so equal notes give equal
samples. Held notes of sustained instruments fade from their onset on, by expression (controller 11).
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import mido
import numpy as np
import soundfile

from rfm_live.embedded.composer import SUSTAINED, Piece
from rfm_live.errors import StartError

SAMPLE_RATE_HZ = 32_000
FRAME_SAMPLES = 640
FRAME_MS = 20
TAIL_FRAMES = 50
"""Silence after each piece in which the last notes ring out before the next piece begins."""
FADE_DB_PER_SECOND, FADE_FLOOR_DB = 10.0, 15.0

SOUNDFONTS = (
    "/usr/share/sounds/sf3/FluidR3Mono_GM.sf3",
    "/usr/share/fluidr3mono-gm-soundfont/FluidR3Mono_GM.sf3",
)


def soundfont() -> Path:
    """Path of the FluidR3 Mono soundfont (Debian `fluidr3mono-gm-soundfont`, MIT).

    Raises:
        StartError: neither the soundfont nor FluidSynth is installed.
    """
    if shutil.which("fluidsynth") is None:
        raise StartError(
            "the training recipe needs the program fluidsynth: apt-get install fluidsynth fluidr3mono-gm-soundfont"
        )
    for name in SOUNDFONTS:
        if Path(name).exists():
            return Path(name)
    raise StartError("the training recipe needs the FluidR3 Mono soundfont: apt-get install fluidr3mono-gm-soundfont")


def midi_file(pieces: Sequence[Piece]) -> mido.MidiFile:
    """One MIDI file (1 tick = 1 ms) with the pieces one after another, `TAIL_FRAMES` apart."""
    events: list[tuple[int, int, mido.Message]] = []
    offset = 0
    for piece in pieces:
        for channel, program in piece.programs:
            events.append((offset * FRAME_MS, 0, mido.Message("program_change", channel=channel, program=program)))
        full = mido.Message("control_change", channel=0, control=11, value=127)
        events.append((offset * FRAME_MS, 0, full))
        for note in piece.notes:
            start = (offset + note.start) * FRAME_MS
            stop = start + note.length * FRAME_MS
            on = mido.Message("note_on", channel=note.channel, note=note.pitch, velocity=note.velocity)
            off = mido.Message("note_off", channel=note.channel, note=note.pitch, velocity=0)
            events += [(start, 3, on), (stop, 1, off)]
        if piece.style.instrument.family in SUSTAINED:
            events += [(tick + offset * FRAME_MS, 2, message) for tick, message in _fades(piece)]
        offset += piece.frames + TAIL_FRAMES
    events.append((offset * FRAME_MS, 4, mido.Message("note_off", channel=0, note=0, velocity=0)))
    track = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=500_000, time=0)])
    clock = 0
    for tick, _, message in sorted(events, key=lambda event: event[:2]):
        track.append(message.copy(time=tick - clock))
        clock = tick
    return mido.MidiFile(ticks_per_beat=500, tracks=[track])


def _fades(piece: Piece) -> list[tuple[int, mido.Message]]:
    """Expression of the lead, frame by frame: full at every onset, then falling to the floor; ticks from the piece's
    start.
    """
    onsets = sorted({note.start for note in piece.notes if note.channel == 0})
    fades = []
    for onset, following in zip(onsets, [*onsets[1:], piece.frames], strict=True):
        for frame in range(onset, following):
            fall_db = (frame - onset) * FRAME_MS / 1000 * FADE_DB_PER_SECOND
            level = round(127 * 10 ** (-min(fall_db, FADE_FLOOR_DB) / 40))  # SoundFont 2.01, 9.6: 40 dB a decade
            fades.append((frame * FRAME_MS, mido.Message("control_change", channel=0, control=11, value=level)))
            if fall_db >= FADE_FLOOR_DB:
                break
    return fades


def render_pieces(pieces: Sequence[Piece], gain: float = 2.0) -> list[np.ndarray]:
    """Render each piece to mono int16 samples of exactly `piece.frames * 640` at 32 kHz.

    Raises:
        StartError: FluidSynth or the soundfont is missing.
        subprocess.CalledProcessError: FluidSynth failed; its message is in `stderr`.
    """
    font = soundfont()
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "pieces.mid"), Path(folder, "pieces.wav")
        midi_file(pieces).save(str(source))
        command = [
            "fluidsynth",
            "-ni",
            "-q",
            "-R",
            "0",
            "-C",
            "0",
            "-g",
            str(gain),
            "-r",
            str(SAMPLE_RATE_HZ),
            "-T",
            "wav",
        ]
        subprocess.run(
            [*command, "-F", str(target), str(font), str(source)], check=True, capture_output=True, text=True
        )
        stereo, _ = soundfile.read(str(target), dtype="float32", always_2d=True)
    mono = stereo.mean(axis=1)
    clips, offset = [], 0
    for piece in pieces:
        clip = mono[offset * FRAME_SAMPLES : (offset + piece.frames) * FRAME_SAMPLES]
        clip = np.pad(clip, (0, piece.frames * FRAME_SAMPLES - len(clip)))
        clips.append(np.round(np.clip(clip, -1.0, 1.0) * 32767.0).astype(np.int16))
        offset += piece.frames + TAIL_FRAMES
    return clips
