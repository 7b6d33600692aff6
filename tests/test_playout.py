"""The playout: the device hears what is on the tape, gaps fade, and the process survives and ends as it should."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from rfm_live.audio.feed import Feed
from rfm_live.audio.options import PlayoutOptions
from rfm_live.audio.resampler import Resampler
from rfm_live.audio.ring import SampleRing
from rfm_live.engine.tape import Tape, TapeRangeError
from rfm_live.errors import AudioError
from tests.jackd import Spawned, playing, poll, told

Samples = npt.NDArray[np.float32]
FADE = 160  # 5 ms at 32 kHz
AT_ONCE = PlayoutOptions(start_samples=0, resume_samples=0)


def noise(count: int, seed: int = 0) -> Samples:
    return np.random.default_rng(seed).uniform(-1, 1, count).astype(np.float32)


def sine(count: int, hz: float = 110.0, start: int = 0) -> Samples:
    return np.sin(2 * np.pi * hz * np.arange(start, start + count) / 32000).astype(np.float32)


def pulled(feed: Feed, *sizes: int) -> Samples:
    blocks = [np.full(size, np.nan, dtype=np.float32) for size in sizes]
    for block in blocks:
        feed.pull(block)
    return np.concatenate(blocks)


@pytest.fixture
def tape() -> Iterator[Tape]:
    with Tape.create(seconds=4) as made:
        yield made


# --- ring and resampler


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 9)), max_size=60))
def test_the_ring_gives_back_what_was_written_in_order(steps: list[tuple[int, int]]) -> None:
    ring = SampleRing(7)
    written = 0
    heard: list[float] = []
    for offered, wanted in steps:
        count = min(offered, ring.space)
        ring.write(np.arange(written, written + count, dtype=np.float32))
        written += count
        out = np.full(wanted, np.nan, dtype=np.float32)
        got = ring.read_into(out)
        assert got == min(wanted, written - len(heard))
        heard.extend(out[:got])
    assert heard == list(range(len(heard))) and ring.fill == written - len(heard)


def test_the_ring_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="8 samples do not fit into the ring's space of 7"):
        SampleRing(7).write(noise(8))


@settings(max_examples=25, deadline=None)
@given(
    rate=st.sampled_from([22050, 32000, 44100, 48000, 96000]),
    cuts=st.lists(st.integers(0, 6001), max_size=12),
    single=st.booleans(),
)
def test_any_chunking_of_the_resampler_equals_one_offline_pass(rate: int, cuts: list[int], single: bool) -> None:
    samples = noise(6001)
    resampler = Resampler(32000, rate)
    edges = sorted({0, 6001, *cuts, *(range(700, 900) if single else ())})
    parts = [resampler.push(samples[a:b]) for a, b in itertools.pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate([*parts, resampler.flush()]), soxr.resample(samples, 32000, rate))


def test_equal_rates_pass_through_untouched() -> None:
    samples = noise(100)
    assert Resampler(32000, 32000).push(samples) is samples
    assert Resampler(32000, 32000).longest_wait() == 0


def test_the_resampler_knows_how_much_may_wait_inside() -> None:
    resampler = Resampler(32000, 48000)
    wait = resampler.longest_wait()
    assert not any(len(resampler.push(noise(1))) for _ in range(wait - 32))
    assert any(len(resampler.push(noise(1))) for _ in range(32))


# --- feed


@settings(max_examples=25, deadline=None)
@given(
    rate=st.sampled_from([32000, 44100, 48000]),
    blocks=st.lists(st.integers(1, 1500), min_size=1, max_size=8),
    writes=st.lists(st.integers(1, 3000), min_size=1, max_size=5),
)
def test_any_blocks_of_any_device_hear_the_offline_samples(rate: int, blocks: list[int], writes: list[int]) -> None:
    with Tape.create(seconds=1) as tape:
        samples = noise(sum(writes))
        tape.write(samples)
        tape.end()
        feed = Feed(tape, rate, AT_ONCE)
        parts = []
        while not feed.has_ended:
            parts.append(pulled(feed, *blocks))
        expected = soxr.resample(samples, 32000, rate)
        np.testing.assert_array_equal(np.concatenate(parts)[: len(expected)], expected)
        assert tape.played == tape.written == len(samples) and tape.underruns == 0


def test_the_feed_changes_nothing_on_the_tape_but_played_and_underruns(tape: Tape) -> None:
    tape.write(noise(5000))
    other = Tape.attach(tape.name)
    memory = tape._memory.buf
    assert memory is not None
    before = bytes(memory)
    feed = Feed(other, 48000, AT_ONCE)
    pulled(feed, *[333] * 40)
    assert (tape.played, tape.underruns) == (5000, 1)
    other.close()
    after = bytearray(memory)
    for field in (5, 6):  # played, underruns: int64 fields of the header
        after[8 * field : 8 * field + 8] = before[8 * field : 8 * field + 8]
    assert bytes(after) == before


def test_nothing_sounds_before_the_prebuffer_is_written(tape: Tape) -> None:
    feed = Feed(tape, 32000, PlayoutOptions(start_samples=1000))
    tape.write(noise(999))
    assert not pulled(feed, 64, 64).any() and tape.played == 0
    tape.write(noise(1, seed=2))
    np.testing.assert_array_equal(pulled(feed, 64), noise(64))
    assert tape.underruns == 0


def test_the_play_head_runs_ahead_of_the_device_by_the_lead_alone(tape: Tape) -> None:
    tape.write(noise(32000))
    feed = Feed(tape, 32000, PlayoutOptions(start_samples=0, lead_ms=10))
    feed.expect_blocks_of(256)
    feed.pump()
    lead = 2 * 256 + 320
    assert lead <= tape.played < lead + 160
    out = np.zeros(256, dtype=np.float32)
    for _ in range(20):
        feed.fill(out)
        feed.pump()
    assert 20 * 256 + lead <= tape.played < 20 * 256 + lead + 160


def test_an_empty_tape_fades_to_silence_and_back_without_a_click(tape: Tape) -> None:
    feed = Feed(tape, 32000, AT_ONCE)
    tape.write(sine(1290))
    first = pulled(feed, *[128] * 20)
    assert tape.underruns == 1 and feed.is_quiet
    tape.write(sine(1290, start=1290))
    second = pulled(feed, *[128] * 20)
    heard = np.concatenate([first, second])
    np.testing.assert_array_equal(heard[:1290], sine(1290))
    assert not heard[1290 + FADE : len(first)].any()
    np.testing.assert_array_equal(second[FADE:1290], sine(1290, start=1290)[FADE:])
    slope = 2 * np.pi * 110 / 32000 + np.pi / (2 * FADE)
    assert np.abs(np.diff(heard)).max() <= 1.01 * slope < 0.04
    pulled(feed, 128)
    assert tape.underruns == 2


def test_a_gap_shorter_than_the_fade_is_a_cross_fade(tape: Tape) -> None:
    feed = Feed(tape, 32000, AT_ONCE)
    tape.write(np.full(1000, 0.9, dtype=np.float32))
    heard = [pulled(feed, *[50] * 21)]
    tape.write(np.full(1000, 0.9, dtype=np.float32))
    heard.append(pulled(feed, *[50] * 10))
    samples = np.concatenate(heard)
    assert samples.max() <= 0.9 + 1e-6 and np.abs(np.diff(samples)).max() <= 0.9 * np.pi / (2 * FADE) * 1.01
    assert samples[-1] == np.float32(0.9) and tape.underruns == 1


def test_one_gap_is_one_underrun_however_long(tape: Tape) -> None:
    feed = Feed(tape, 32000, PlayoutOptions(start_samples=0, resume_samples=640))
    tape.write(noise(700))
    pulled(feed, *[64] * 60)
    tape.write(noise(639))
    assert not pulled(feed, *[64] * 20).any()  # too little to go on
    assert tape.underruns == 1
    tape.write(noise(1))
    assert pulled(feed, *[64] * 5).any()
    pulled(feed, *[64] * 60)
    assert tape.underruns == 2


def test_a_feed_that_starts_in_the_middle_fades_in(tape: Tape) -> None:
    tape.write(np.ones(2000, dtype=np.float32))
    tape.mark_played(500)
    heard = pulled(Feed(tape, 32000, AT_ONCE), 640)
    assert 0 < heard[0] < 0.001 and np.diff(heard).max() <= np.pi / (2 * FADE) * 1.01
    assert (heard[FADE:] == 1).all()


def test_fading_out_ends_in_silence_and_is_no_underrun(tape: Tape) -> None:
    tape.write(np.ones(5000, dtype=np.float32))
    feed = Feed(tape, 32000, AT_ONCE)
    before = pulled(feed, 640)
    feed.fade_out()
    after = pulled(feed, 640, 640)
    assert np.abs(np.diff(np.concatenate([before, after]))).max() <= np.pi / (2 * FADE) * 1.01
    assert not after[FADE:].any() and feed.is_quiet and tape.underruns == 0


def test_the_end_of_the_tape_is_no_underrun(tape: Tape) -> None:
    tape.write(sine(1000))
    tape.end()
    feed = Feed(tape, 48000, AT_ONCE)
    pulled(feed, *[480] * 10)
    assert feed.has_ended and tape.underruns == 0


def test_a_rewind_between_reading_and_marking_is_heard_as_the_new_samples() -> None:
    old, new = noise(640), noise(640, seed=1)

    class Racing(Tape):
        """The engine takes back the future at the worst moment."""

        rewinds = 1

        def mark_played(self, position: int) -> None:
            if self.rewinds:
                self.rewinds -= 1
                engine.rewind(160)
                engine.write(new[160:])
            super().mark_played(position)

    with Tape.create(seconds=1) as engine:
        engine.write(old)
        engine.mark_played(160)
        playout = Racing.attach(engine.name)
        feed = Feed(playout, 32000, PlayoutOptions(start_samples=0, fade_ms=0))
        heard = pulled(feed, 160, 160)
        np.testing.assert_array_equal(heard, new[160:480])
        assert engine.played == 480
        with pytest.raises(TapeRangeError):
            engine.rewind(479)
        playout.close()


def test_the_feeder_thread_keeps_the_ring_ready(tape: Tape) -> None:
    samples = noise(20000)
    tape.write(samples)
    feed = Feed(tape, 32000, PlayoutOptions(start_samples=20000))
    feed.expect_blocks_of(256)
    feed.start()
    heard: list[Samples] = []
    while len(heard) < 40:
        out = np.zeros(256, dtype=np.float32)
        lead = len(heard) * 256 + 2 * 256 + 320
        poll(lambda lead=lead: tape.played >= lead, "the feeder has refilled the ring")  # type: ignore[misc]
        feed.fill(out)
        heard.append(out)
    feed.stop()
    assert feed.failure is None
    np.testing.assert_array_equal(np.concatenate(heard), samples[: 40 * 256])


# --- options


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lead": 3}, "playout option 'lead' is unknown, expected one of block, device,"),
        ({"lead_ms": -1}, "playout option 'lead_ms' is -1, expected a number >= 0"),
        ({"fade_ms": "5"}, "playout option 'fade_ms' is '5', expected a number >= 0"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], text: str) -> None:
    with pytest.raises(AudioError, match=text):
        PlayoutOptions.from_dict(options)


# --- process


def test_the_process_plays_and_stops_quickly(tape: Tape) -> None:
    tape.write(noise(100000))
    with Spawned(tape, sink="null") as playout:
        ready = playout.receive()
        assert ready.pop("latency_ms") == 20
        assert ready == {"op": "ready", "sink": "null", "device": "null clock, 32000 Hz", "rate": 32000}
        poll(lambda: tape.played > 1000, "the tape is played")
        begun = time.monotonic()
        playout.stop()
        assert playout.join() == 0
        assert time.monotonic() - begun < 0.3
        assert tape.underruns == 0


def test_ctrl_c_is_for_the_parent_and_sigterm_ends_the_process(tape: Tape) -> None:
    tape.write(noise(100000))
    with Spawned(tape, sink="null") as playout:
        playout.receive()
        assert playout.process.pid is not None
        os.kill(playout.process.pid, signal.SIGINT)
        played = tape.played
        poll(lambda: tape.played > played + 3200, "the music goes on")
        os.kill(playout.process.pid, signal.SIGTERM)
        assert playout.join() == 0


def test_a_broken_connection_ends_the_process(tape: Tape) -> None:
    with Spawned(tape, sink="null") as playout:
        playout.receive()
        playout.conn.close()
        assert playout.join() == 0


def test_the_death_of_the_parent_ends_the_process(tape: Tape) -> None:
    """Everybody who has the parent's standard output is gone when it ends."""
    program = f"""
import sys, time
sys.path[:0] = [{str(Path(__file__).parents[1])!r}]
from rfm_live.engine.tape import Tape
from tests.jackd import Spawned
if __name__ == "__main__":
    tape = Tape.attach({tape.name!r})
    playout = Spawned(tape, sink="null")
    playout.receive()
    print("ready", flush=True)
    while True:
        time.sleep(1)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        assert parent.stdout is not None and parent.stdout.readline() == b"ready\n"
    finally:
        parent.kill()
    parent.communicate(timeout=10)


def test_a_sink_that_cannot_be_opened_is_told_and_the_clock_goes_on(tape: Tape) -> None:
    tape.write(noise(100000))
    with Spawned(tape, sink="wav:/nowhere/at/all.wav") as playout:
        error = playout.receive()
        assert error["op"] == "error" and "/nowhere/at/all.wav" in error["text"]
        ready = playout.receive()
        assert ready["sink"] == "null" and "because cannot write '/nowhere/at/all.wav" in ready["device"]
        poll(lambda: tape.played > 1000, "the tape is played")


def test_wrong_options_are_told_and_the_clock_goes_on(tape: Tape) -> None:
    with playing(tape, sink="loudspeaker") as conn:
        assert "sink is 'loudspeaker', expected auto, soundcard, jack, null or wav:PATH" in told(conn)["text"]
        assert told(conn)["sink"] == "null"


def test_a_disk_that_is_full_is_told_and_the_clock_goes_on(tape: Tape, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / "take.wav.part").symlink_to("/dev/full")
    tape.write(noise(100000))
    with playing(tape, sink=f"wav:{tmp_path / 'take.wav'}", start_samples=0) as conn:
        messages = [told(conn)]
        while messages[-1].get("sink") != "null":
            messages.append(told(conn))
        assert "error" in [message["op"] for message in messages]
        played = tape.played
        poll(lambda: tape.played > played + 1000, "the tape is played")
    assert not (tmp_path / "take.wav").exists()


def test_foreign_messages_do_not_stop_the_sound(tape: Tape) -> None:
    tape.write(noise(100000))
    with playing(tape, sink="null") as conn:
        told(conn)
        for message in (b"", b"\xc1", b"\x93\x01", msgpack.packb({"op": "dance"}), msgpack.packb([])):
            conn.send_bytes(message)
        played = tape.played
        poll(lambda: tape.played > played + 6400, "the music goes on")


def test_the_process_ends_by_itself_when_the_tape_has_been_played(tape: Tape, tmp_path: Path) -> None:
    samples = noise(8003)
    tape.write(samples)
    tape.end()
    path = tmp_path / "take.wav"
    with Spawned(tape, sink=f"wav:{path}") as playout:
        assert playout.receive()["sink"] == "wav"
        assert playout.join() == 0
    heard, rate = soundfile.read(path, dtype="float32")
    assert rate == 32000
    np.testing.assert_array_equal(heard, samples)


def test_the_playout_loads_neither_torch_nor_a_device() -> None:
    program = (
        "import sys, rfm_live.audio.playout, rfm_live.audio.devices;"
        "sys.exit(' '.join({'torch', 'sounddevice', 'jack', 'soundfile', 'asyncio'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert result.stderr == "\n" or result.stderr == "", result.stderr
