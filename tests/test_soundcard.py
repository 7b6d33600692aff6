"""Real devices without hardware: our JACK client, and PortAudio's JACK host API, on jackd with a dummy driver."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
import soxr

from rfm_live.audio.sinks import choose_sink
from rfm_live.engine.tape import Tape
from rfm_live.errors import AudioError
from tests.jackd import Ear, Spawned, jack_server, playing, poll, told

pytestmark = pytest.mark.jack


def noise(count: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(5).uniform(-1, 1, count).astype(np.float32)


@pytest.fixture
def tape() -> Iterator[Tape]:
    with Tape.create(seconds=5) as made:
        yield made


def heard_in_freewheel(tape: Tape, samples: np.ndarray) -> np.ndarray:
    """What a foreign JACK client hears from the playout process, from the first sample on."""
    with Spawned(tape, sink="jack", device="none") as playout, Ear() as ear:
        assert playout.receive()["sink"] == "jack"
        ear.connect("rfm_live:out_1")
        ear.freewheel()
        tape.write(samples)
        tape.end()
        assert playout.join(20) == 0
    heard = ear.heard()
    assert tape.underruns == 0
    return heard[np.flatnonzero(heard)[0] :]


@pytest.mark.parametrize("rate", [32000, 44100, 48000])
def test_a_jack_client_hears_the_tape_bit_for_bit(tape: Tape, rate: int) -> None:
    samples = noise(3 * 32000 + 17)
    with jack_server(rate):
        heard = heard_in_freewheel(tape, samples)
    expected = samples if rate == 32000 else soxr.resample(samples, 32000, rate)
    np.testing.assert_array_equal(heard[: len(expected)], expected)
    fade = rate // 200
    assert not heard[len(expected) + fade :].any()
    assert np.abs(np.diff(heard[len(expected) - 1 :])).max() <= np.pi / (2 * fade) * 1.01


def test_the_jack_client_connects_itself_as_told() -> None:
    with jack_server(32000), Tape.create(seconds=1) as tape:
        for device, connections in ((None, ["system:playback_1"]), ("ear:", ["ear:in"]), ("none", [])):
            with Ear() as ear, playing(tape, sink="jack", device=device) as conn:
                ready = told(conn)
                assert ready["device"] == "JACK client rfm_live, 32000 Hz, blocks of 256"
                assert ready["latency_ms"] == pytest.approx(1000 * (256 + 2 * 256 + 320) / 32000)
                assert [port.name for port in ear.client.get_all_connections("rfm_live:out_1")] == connections
        with playing(tape, sink="jack", device="trumpet") as conn:
            assert told(conn)["text"] == "JACK has no audio input whose name starts with 'trumpet'"
            assert told(conn)["sink"] == "null"


def test_a_jack_server_that_dies_is_told_and_the_clock_goes_on(tape: Tape) -> None:
    tape.write(noise(150000))
    with jack_server(32000) as server, Spawned(tape, sink="jack") as playout:
        assert playout.receive()["sink"] == "jack"
        poll(lambda: tape.played > 3200, "the tape is played")
        server.terminate()
        error, ready = playout.receive(), playout.receive()
        assert error["op"] == "error" and "JACK server has gone" in error["text"]
        assert ready["sink"] == "null"
        played = tape.played
        poll(lambda: tape.played > played + 1000, "the music goes on")
        playout.stop()
        assert playout.join() == 0


@pytest.mark.parametrize("rate", [32000, 48000])
def test_the_sound_card_plays_the_tape(tape: Tape, rate: int) -> None:
    """A ramp whose every value names its place; a block may be lost where the machine is busy, never bent.

    Through PortAudio's JACK host API. It looks for servers when it is loaded, so in a process of its own.
    """
    place = 2.0**-17
    samples = (np.arange(1, 100001) * place).astype(np.float32)  # exact in float32
    expected = soxr.resample(samples, 32000, rate) if rate != 32000 else samples
    with jack_server(rate), Spawned(tape, sink="auto", start_samples=100000) as playout, Ear() as ear:
        ready = playout.receive()
        assert (ready["sink"], ready["rate"]) == ("soundcard", rate)
        assert f"{rate} Hz, 2 channels" in ready["device"]
        ear.connect("PortAudio:out_1")
        tape.write(samples)
        poll(lambda: tape.played > 48000, "a second and a half is played")
        playout.stop()
        assert playout.join() == 0
    heard = ear.heard()
    heard = heard[np.flatnonzero(heard)[0] :][:rate]
    at = np.searchsorted(expected, heard)
    is_exact = expected[np.minimum(at, len(expected) - 1)] == heard
    assert is_exact.mean() > 0.9
    assert (np.diff(at[is_exact]) == 1).mean() > 0.9


def test_a_sound_card_that_dies_in_silence_is_told_and_the_clock_goes_on(tape: Tape) -> None:
    """PortAudio never hears of it, and would wait for ever to close the device."""
    tape.write(noise(150000))
    with jack_server(48000) as server, Spawned(tape, sink="soundcard") as playout:
        assert playout.receive()["sink"] == "soundcard"
        poll(lambda: tape.played > 3200, "the tape is played")
        server.terminate()
        texts = [playout.receive()["text"], playout.receive()["text"]]
        assert texts[0] == "system, 48000 Hz, 2 channels: has stopped taking samples"
        assert texts[1] == "sound card 'system' does not close"
        assert playout.receive()["sink"] == "null"
        played = tape.played
        poll(lambda: tape.played > played + 1000, "the music goes on")
        playout.stop()
        assert playout.join() == 0


def test_a_sound_card_that_is_not_there_is_told(tape: Tape) -> None:
    with jack_server(32000), Spawned(tape, sink="soundcard", device="Stradivari") as playout:
        assert (
            "sound card 'Stradivari' is not there: No output device matching 'Stradivari'" in playout.receive()["text"]
        )
        assert playout.receive()["sink"] == "null"


def test_auto_takes_the_clock_where_there_is_no_sound_card(tape: Tape, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JACK_DEFAULT_SERVER", "rfm_test_nobody")
    with Spawned(tape, sink="auto") as playout:
        ready = playout.receive()
        if ready["sink"] == "soundcard":
            pytest.skip("this machine has a sound card")
        assert ready["device"] == "null clock, 32000 Hz, because there is no sound card with an output"


def test_the_jack_library_writes_nothing_to_the_terminal(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JACK_DEFAULT_SERVER", "rfm_test_nobody")
    with pytest.raises(AudioError, match="no JACK server answers, start one first"):
        choose_sink("jack")
    assert capfd.readouterr().err == ""
