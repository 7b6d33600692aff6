"""Sinks without a device: the clock keeps time, the file holds the samples, a missing library says what to install."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rfm_live.audio.feed import Feed
from rfm_live.audio.null_clock import BLOCK, BlockClock, NullSink
from rfm_live.audio.options import PlayoutOptions
from rfm_live.audio.sinks import Sink, choose_sink
from rfm_live.audio.wav_file import WavSink
from rfm_live.engine.tape import Tape
from rfm_live.errors import AudioError
from tests.jackd import poll

ROOT = Path(__file__).parents[1]


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(3).uniform(-1, 1, count).astype(np.float32)


@pytest.fixture
def tape() -> Iterator[Tape]:
    with Tape.create(seconds=4) as made:
        yield made


def feed_of(tape: Tape, sink: Sink) -> Feed:
    return Feed(tape, sink.rate, PlayoutOptions(start_samples=0, resume_samples=0))


def test_the_null_clock_keeps_real_time_within_one_percent(tape: Tape) -> None:
    tape.write(noise(128000))
    sink = choose_sink("null")
    sink.open(feed_of(tape, sink))
    seen: dict[int, float] = {}  # play head -> the first moment it was seen there

    def has_played_two_seconds() -> bool:
        seen.setdefault(tape.played, time.monotonic())
        return tape.played >= 64000 + BLOCK

    poll(has_played_two_seconds, "two seconds are played")
    sink.close()
    late = {played: moment - played / 32000 for played, moment in seen.items() if played}
    early_half = min(value for played, value in late.items() if played <= 32000)
    late_half = min(value for played, value in late.items() if played > 32000)  # the least late is the least disturbed
    assert abs(late_half - early_half) < 0.01
    assert tape.underruns == 0 and sink.failure is None


def test_the_clock_makes_up_for_slow_ticks() -> None:
    pause = threading.Event()
    moments: list[float] = []

    def tick() -> None:
        moments.append(time.monotonic())
        if len(moments) % 10 == 1:
            pause.wait(0.07)  # three and a half blocks

    clock = BlockClock(32000, tick)
    clock.start()
    poll(lambda: len(moments) >= 51, "51 ticks")
    clock.stop()
    lateness = np.array(moments) - moments[0] - 0.02 * np.arange(len(moments))
    assert lateness.min() > -0.005
    for begin in range(0, 50, 10):
        assert lateness[begin + 5 : begin + 10].min() < 0.015  # each stall is made up for within its ten ticks


def test_a_tick_that_fails_is_told() -> None:
    def tick() -> None:
        raise AudioError("the disk is full")

    clock = BlockClock(32000, tick)
    clock.start()
    poll(lambda: clock.failure is not None, "the failure is told")
    clock.stop()
    clock.stop()
    assert clock.failure == "the disk is full"


def test_the_file_holds_exactly_the_samples_and_appears_when_it_is_finished(tape: Tape, tmp_path: Path) -> None:
    samples = noise(9 * BLOCK + 17)
    path = tmp_path / "take.wav"
    path.write_bytes(b"an older take")
    tape.write(samples)
    sink = choose_sink(f"wav:{path}")
    feed = feed_of(tape, sink)
    sink.open(feed)
    poll(lambda: tape.played == len(samples), "everything is recorded")
    assert path.read_bytes() == b"an older take"
    sink.close()
    sink.close()
    heard, rate = soundfile.read(path, dtype="float32")
    assert rate == 32000 and soundfile.info(path).subtype == "FLOAT"
    np.testing.assert_array_equal(heard, samples)
    assert [entry.name for entry in tmp_path.iterdir()] == ["take.wav"]


def test_a_gap_is_not_recorded(tape: Tape, tmp_path: Path) -> None:
    sink = WavSink(tmp_path / "take.wav", 32000)
    sink.open(feed_of(tape, sink))
    samples = noise(3000)
    for part in np.split(samples, [700, 1001]):
        tape.write(part)
        poll(lambda: tape.played == tape.written, "the part is recorded")
    sink.close()
    np.testing.assert_array_equal(soundfile.read(tmp_path / "take.wav", dtype="float32")[0], samples)
    assert tape.underruns == 0


def test_a_stop_in_the_middle_finishes_the_file(tape: Tape, tmp_path: Path) -> None:
    samples = noise(100000)
    tape.write(samples)
    sink = WavSink(tmp_path / "take.wav", 32000)
    sink.open(feed_of(tape, sink))
    poll(lambda: tape.played > 3000, "some of it is recorded")
    sink.close()
    heard, _ = soundfile.read(tmp_path / "take.wav", dtype="float32")
    assert 3000 < len(heard) <= tape.played < 100000
    np.testing.assert_array_equal(heard, samples[: len(heard)])


def test_what_a_crash_left_of_a_recording_is_kept_by_the_next(tape: Tape, tmp_path: Path) -> None:
    left = tmp_path / "take.wav.part"
    left.write_bytes(b"half an hour of music")
    sink = WavSink(tmp_path / "take.wav", 32000)
    sink.open(feed_of(tape, sink))
    sink.close()
    assert left.read_bytes() == b"half an hour of music"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["take.wav", "take.wav.part"]


def test_a_folder_that_is_not_there_is_named(tape: Tape, tmp_path: Path) -> None:
    sink = WavSink(tmp_path / "nowhere" / "take.wav", 32000)
    with pytest.raises(AudioError, match=r"cannot write .*nowhere/take\.wav\.part"):
        sink.open(feed_of(tape, sink))
    sink.close()


@pytest.mark.parametrize("name", ["", "speaker", "wav", "wav:"])
def test_an_unknown_sink_is_named(name: str) -> None:
    with pytest.raises(AudioError, match=f"sink is '{name}', expected auto, soundcard, jack, null or wav:PATH"):
        choose_sink(name)


def test_a_null_clock_says_why_it_is_one() -> None:
    assert (
        NullSink(32000, "there is no sound card").describe() == "null clock, 32000 Hz, because there is no sound card"
    )


def without_library(library: str, program: str) -> list[str]:
    """Run `program` where the dynamic linker knows no such library; sounddevice and jack ask this function for it."""
    program = f"""
import ctypes.util
find = ctypes.util.find_library
ctypes.util.find_library = lambda name: None if {library!r} in name else find(name)
from rfm_live.audio.sinks import choose_sink
from rfm_live.audio.devices import list_devices
from rfm_live.errors import AudioError
def error_of(action, *args):
    try:
        action(*args)
    except AudioError as error:
        return str(error)
{program}
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_without_portaudio_the_sound_card_says_what_to_install_and_the_rest_works() -> None:
    lines = without_library(
        "portaudio",
        "for action, *args in ((list_devices,), (choose_sink, 'soundcard'), (choose_sink, 'auto', 'hw:0')):\n"
        "    print(error_of(action, *args))\n"
        "print(choose_sink('auto').describe())\n"
        "print(choose_sink('wav:take.wav').describe())",
    )
    text = (
        "the sound card needs the PortAudio library (PortAudio library not found): "
        "on Debian and Ubuntu, apt install libportaudio2; elsewhere, the package portaudio"
    )
    assert lines == [
        text,
        text,
        "None",
        f"null clock, 32000 Hz, because {text}",
        "file take.wav, 32000 Hz",
    ]


def test_without_libjack_the_jack_sink_says_what_to_install() -> None:
    lines = without_library("jack", "print(error_of(choose_sink, 'jack'))")
    assert len(lines) == 1 and lines[0].startswith("JACK needs libjack (JACK library not found): on Debian and Ubuntu")
