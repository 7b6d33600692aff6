"""SynTheory as sound: each set's pitches and times by arithmetic, rendering in parallel and after a kill."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from rfm_live.concepts.fluidsynth import SOUNDFONT, render_track
from rfm_live.concepts.splits import hold_out
from rfm_live.concepts.syntheory import PROGRAMS, SETS, Excerpt, concept_set
from rfm_live.concepts.syntheory_audio import Rendering, chosen_excerpts, rendered_syntheory
from rfm_live.errors import ClipError, StartError

RATE = 44_100
OCARINA, STRINGS = 79, 48
Samples = npt.NDArray[np.float32]


@cache
def excerpts(set_name: str, ending: str) -> dict[str, Excerpt]:
    found = {item.name: item for item in concept_set(set_name).excerpts(0)}
    return {name.removesuffix(ending): item for name, item in found.items() if name.endswith(ending)}


def sound(excerpt: Excerpt) -> Samples:
    return render_track(excerpt.track, SOUNDFONT)


def hertz(pitch: float) -> float:
    """Equal temperament: A4, MIDI 69, is 440 Hz."""
    return 440.0 * 2.0 ** ((pitch - 69) / 12)


def pitch_by_autocorrelation(samples: Samples, low: float = 60.0, high: float = 1_100.0) -> float:
    """MIDI pitch of the first lag whose autocorrelation nearly reaches the highest, parabola through its neighbours."""
    size = 2 * len(samples)
    power = np.abs(np.fft.rfft(samples - samples.mean(), size)) ** 2
    correlation = np.fft.irfft(power)[: len(samples)] / np.arange(len(samples), 0, -1)
    lags = np.arange(int(RATE / high), int(RATE / low))
    values = correlation[lags]
    peaks = [i for i in range(1, len(lags) - 1) if values[i - 1] < values[i] >= values[i + 1]]
    best = next(i for i in peaks if values[i] > 0.9 * max(values[j] for j in peaks))
    below, top, above = values[best - 1 : best + 2]
    lag = lags[best] + 0.5 * (below - above) / (below - 2 * top + above)
    return float(69 + 12 * np.log2(RATE / lag / 440.0))


def pitches_by_spectrum(samples: Samples, count: int) -> list[int]:
    """The MIDI pitches 40..100 of the `count` strongest partials."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 4 * len(samples)))
    frequencies = np.fft.rfftfreq(4 * len(samples), 1 / RATE)
    strength = {}
    for pitch in range(40, 101):
        near = (frequencies > hertz(pitch - 0.4)) & (frequencies < hertz(pitch + 0.4))
        strength[pitch] = spectrum[near].max()
    return sorted(sorted(strength, key=lambda pitch: -strength[pitch])[:count])


def parts(samples: Samples, count: int) -> list[Samples]:
    """The middle half of each of `count` equal parts."""
    length = len(samples) // count
    return [samples[i * length + length // 4 : i * length + 3 * length // 4] for i in range(count)]


def onsets(samples: Samples) -> list[float]:
    """Seconds at which the level of 5 ms rises over a tenth of the loudest, at least 0.1 s after the one before."""
    block = RATE // 200
    level = np.sqrt(np.square(samples[: len(samples) // block * block]).reshape(-1, block).mean(axis=1))
    found: list[float] = []
    for index in range(len(level)):
        rises = level[index] > 0.1 * level.max() and level[index] > 2.0 * (level[index - 1] if index else 0.0)
        if rises and (not found or index / 200 - found[-1] > 0.1):
            found.append(index / 200)
    return found


@pytest.mark.parametrize("program", [OCARINA, STRINGS])
def test_notes_sound_at_their_pitch_for_four_strokes(program: int) -> None:
    named = excerpts("notes", f"_program{program:03d}")
    for name, pitch in (("g_octave4", 55), ("c_octave5", 60), ("c_sharp_octave5", 61), ("a_octave5", 69)):
        samples = sound(named[name])
        assert len(samples) == 4 * RATE
        for stroke in parts(samples, 4):
            assert pitch_by_autocorrelation(stroke) == pytest.approx(pitch, abs=0.25)


def test_intervals_alternate_in_sound() -> None:
    named = excerpts("intervals", f"_program{OCARINA:03d}")
    for name, low, high in (("07_on_c_up", 60, 67), ("12_on_a_up", 69, 81), ("01_on_e_up", 64, 65)):
        heard = [pitch_by_autocorrelation(beat) for beat in parts(sound(named[name]), 8)]
        assert heard == pytest.approx([low, high] * 4, abs=0.3)
    assert pitches_by_spectrum(sound(named["07_on_c_unison"]), 2) == [60, 67]


def test_scales_climb_in_sound() -> None:
    named = excerpts("scales", f"_program{OCARINA:03d}")
    heard = [pitch_by_autocorrelation(beat) for beat in parts(sound(named["dorian_on_d_up"]), 8)]
    assert heard == pytest.approx([62, 64, 65, 67, 69, 71, 72, 74], abs=0.3)
    heard = [pitch_by_autocorrelation(beat) for beat in parts(sound(named["locrian_on_g_down"]), 8)]
    assert heard == pytest.approx([67, 65, 63, 61, 60, 58, 56, 55], abs=0.3)


def test_chords_and_progressions_sound_their_notes() -> None:
    chords = excerpts("chords", f"_program{OCARINA:03d}")
    for name, pitches in (("major_on_c_position5", [60, 64, 67]), ("dim_on_b_position6", [62, 65, 71])):
        for stroke in parts(sound(chords[name]), 4):
            assert pitches_by_spectrum(stroke, 3) == pitches
    named = excerpts("progressions", f"_program{OCARINA:03d}")
    heard = [pitches_by_spectrum(chord, 3) for chord in parts(sound(named["ionian_1451_in_c"]), 4)]
    assert heard == [[60, 64, 67], [60, 65, 69], [62, 67, 71], [60, 64, 67]]


def clicks(samples: Samples) -> tuple[float, list[float]]:
    """The distance of the clicks in seconds, and the level of each."""
    found = onsets(samples)
    levels = [float(np.abs(samples[round(at * RATE) : round((at + 0.05) * RATE)]).max()) for at in found]
    return float(np.median(np.diff(found))), levels


@pytest.mark.parametrize("bpm", [50, 93, 120, 210])
def test_tempos_click_at_their_tempo(bpm: int) -> None:
    for click in ("woodblock_light", "synth_drum"):
        track = excerpts("tempos", "_offset0")[f"{bpm:03d}_bpm_{click}"].track
        distance, levels = clicks(render_track(track, SOUNDFONT))
        assert 60.0 / distance == pytest.approx(bpm, rel=0.02)
        assert len(levels) == pytest.approx(20.0 * bpm / 60, rel=0.06)


@pytest.mark.parametrize(
    ("metre", "beats", "unit"), [("2_2", 2, 1.0), ("3_4", 3, 0.5), ("4_4", 4, 0.5), ("6_8", 6, 0.25)]
)
def test_metres_accent_the_first_click_of_the_bar(metre: str, beats: int, unit: float) -> None:
    track = excerpts("time_signatures", "_offset0")[f"{metre}_woodblock_light_reverb000"].track
    distance, levels = clicks(render_track(track, SOUNDFONT))
    assert distance == pytest.approx(unit, abs=0.006)
    in_bar = [float(np.median(levels[beat::beats])) for beat in range(beats)]
    assert in_bar[0] > 1.2 * max(in_bar[1:])


def test_reverb_rings_on_with_its_send() -> None:
    """Controller 91 at 0, 63 and 127: the level between two taiko strokes rises."""
    named = excerpts("time_signatures", "_offset0")
    ringing = []
    for level in (0, 63, 127):
        samples = render_track(named[f"2_2_default_reverb{level:03d}"].track, SOUNDFONT)
        ringing.append(float(np.square(samples[round(0.6 * RATE) : round(0.9 * RATE)]).mean()))
    assert ringing[0] < ringing[1] < ringing[2]


def test_equal_tracks_give_equal_samples() -> None:
    track = excerpts("chords", f"_program{STRINGS:03d}")["aug_on_c_position5"].track
    first = render_track(track, SOUNDFONT)
    sound(excerpts("notes", f"_program{OCARINA:03d}")["c_octave5"])
    assert (render_track(track, SOUNDFONT) == first).all()


@pytest.mark.parametrize("concept", SETS, ids=lambda concept: concept.name)
def test_a_rendered_set_has_its_labels_and_instruments(concept, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    found = rendered_syntheory(
        concept.name, tmp_path, Rendering(subset=10), lambda done, total: told.append((done, total))
    )
    originals = {f"{concept.name}/{item.name}": item for item in concept.excerpts(0)}
    assert len(found.clips) == 10 and told[0] == (0, len(told) - 1) and told[-1] == (len(told) - 1, len(told) - 1)
    for clip in found.clips:
        original = originals[clip.name]
        expected = concept.classes[original.label] if concept.classes else float(original.label)
        assert clip.labels == {concept.label: expected} and clip.group == original.instrument
        if concept.name != "notes":
            samples = clip.read(32_000)
            assert len(samples) == 128_000 and np.abs(samples).max() == pytest.approx(0.9, abs=1e-4)
    assert "FluidSynth and TimGM6mb.sf2" in found.origin and found.licence == "MIT (SynTheory)"


def test_an_excerpt_of_a_click_track_is_that_part_of_it(tmp_path: Path) -> None:
    found = rendered_syntheory("tempos", tmp_path, Rendering(subset=3, seed=4))
    named = {f"tempos/{item.name}": item for item in concept_set("tempos").excerpts(4)}
    for clip in found.clips:
        original = named[clip.name]
        start = round(original.start_seconds * RATE)
        whole = render_track(original.track, SOUNDFONT)[start : start + 4 * RATE]
        assert clip.sound.start_seconds == original.start_seconds
        np.testing.assert_allclose(clip.read(RATE), whole * (0.9 / np.abs(whole).max()), atol=2e-4)


@pytest.mark.parametrize(
    ("program", "silent", "sounding"),
    [(10, range(12), 12), (56, range(12), 12), (67, range(80, 108), 79), (68, range(36), 36)],
    ids=["music box", "trumpet", "baritone saxophone", "oboe"],
)
def test_keys_that_the_soundfont_lacks_are_silent(program: int, silent: range, sounding: int) -> None:
    """Four programs lack 12 + 12 + 28 + 36 = 88 keys: the 88 silent clips of the publication."""
    named = excerpts("notes", f"_program{program:03d}")
    by_pitch = {item.track.notes[0].pitch: item.track for item in named.values()}
    for pitch, is_silent in ((silent[0], True), (silent[-1], True), (sounding, False)):
        short = replace(by_pitch[pitch], seconds=0.3)
        assert (float(np.abs(render_track(short, SOUNDFONT)).max()) < 1e-4) == is_silent, pitch


def test_threads_render_the_same_files(tmp_path: Path) -> None:
    for jobs in (1, 3):
        rendered_syntheory("intervals", tmp_path / str(jobs), Rendering(subset=12, jobs=jobs))
    files = [sorted((tmp_path / str(jobs)).rglob("*.flac")) for jobs in (1, 3)]
    assert len(files[0]) == 12
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]


def test_a_killed_rendering_goes_on(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.rendering", str(tmp_path / "killed"), "16"], cwd=Path(__file__).parent.parent
    )
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "killed").rglob("*.flac"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 4 <= len(list((tmp_path / "killed").rglob("*.flac"))) < 16
    for name in ("killed", "whole"):
        rendered_syntheory("chords", tmp_path / name, Rendering(subset=16))
    contents = [
        {file.name: file.read_bytes() for file in (tmp_path / name).rglob("*.flac")} for name in ("killed", "whole")
    ]
    assert contents[0] == contents[1] and len(contents[0]) == 16


def balance(counts: Sequence[int]) -> int:
    return max(counts) - min(counts)


def test_subsets_are_balanced_and_whole_instruments_are_held_out() -> None:
    chosen = chosen_excerpts(list(concept_set("notes").excerpts(0)), 1_104)
    assert balance(list(Counter(item.label for item in chosen).values())) == 0
    assert balance([Counter(item.instrument for item in chosen)[f"program{program:03d}"] for program in PROGRAMS]) <= 1
    instruments = [item.instrument for item in chosen]
    held = hold_out(instruments, [item.label for item in chosen])
    assert not set(np.asarray(instruments)[held]) & set(np.asarray(instruments)[~held])
    assert held.mean() == pytest.approx(0.25, abs=0.02)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClipError, match="SynTheory has no set 'melodies', expected notes, intervals"):
        rendered_syntheory("melodies", tmp_path)
    with pytest.raises(StartError, match=r"soundfont '.*nowhere.sf2' does not exist: apt-get install"):
        rendered_syntheory("notes", tmp_path, Rendering(soundfont=tmp_path / "nowhere.sf2"))
    broken = tmp_path / "broken.sf2"
    broken.write_bytes(b"RIFF and no more")
    with pytest.raises(StartError, match=r"soundfont '.*broken.sf2' cannot be loaded by FluidSynth"):
        rendered_syntheory("notes", tmp_path, Rendering(subset=12, soundfont=broken))
    with pytest.raises(ClipError, match=r"subset is 0, expected 1\.\.9936"):
        rendered_syntheory("notes", tmp_path, Rendering(subset=0))
    with pytest.raises(ClipError, match="jobs are 0, expected 1 or more"):
        Rendering(jobs=0)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ClipError, match="cannot be written"):
        rendered_syntheory("notes", tmp_path / "file", Rendering(subset=12))
