"""The whole instrument, started as its users start it, with foreign programs at both ends."""

import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile

from rfm_live.concepts.meters import strongest_pitch_class
from tests.jackd import jack_server, poll
from tests.oscpeer import ask, need
from tests.performance import Performance, command, environment, playing


def record(folder: Path, name: str, seconds: float) -> np.ndarray:
    """Let the program jack_capture record our first port; -> samples at 48 kHz."""
    path = folder / name
    listen = ["jack_capture", "-d", str(seconds), "-c", "1", "--port", "rfm_live:out_1", str(path)]
    subprocess.run(listen, check=True, capture_output=True, timeout=seconds + 30, stdin=subprocess.DEVNULL)
    samples, rate = soundfile.read(path, dtype="float32")
    assert rate == 48_000
    return np.asarray(samples)


def shares_of(samples_48k: np.ndarray) -> np.ndarray:
    """The share of the sounding 20 ms frames in which each pitch class is the strongest [12], by librosa's chroma."""
    import soxr

    strongest = strongest_pitch_class(soxr.resample(samples_48k, 48_000, 32_000).astype(np.float32))
    return np.bincount(strongest[strongest >= 0], minlength=12) / max(1, np.count_nonzero(strongest >= 0))


def send(performance: Performance, *message: str) -> None:
    """Send one message with liblo's oscsend."""
    subprocess.run(["oscsend", "localhost", str(performance.osc_port), *message], check=True, timeout=10)


@pytest.mark.jack
@pytest.mark.osc_peer
def test_a_knob_turned_with_oscsend_is_heard_on_jack(tmp_path: Path) -> None:
    """Six notes in turn, each after a clean start and heard from 1 s behind its knob: it is the strongest in far more
    frames than while the others are up.

    In the mean of the six by .70 to .84, in three runs; the same recordings told as one another's give 0, with a
    standard deviation of .17.
    """
    need("oscsend", "jack_capture")
    wanted = {"note_f": 5, "note_a": 9, "note_d": 2, "note_a_sharp": 10, "note_g": 7, "note_g_sharp": 8}
    heard = []
    with jack_server(48_000), playing(tmp_path, "--sink", "jack", "--seed", "3") as performance:
        plain = record(tmp_path, "plain.wav", 3)
        for name in wanted:
            send(performance, f"/concept/{name}/eta", "f", "1.0")
            time.sleep(1.0)  # the promise: within a second
            heard.append(shares_of(record(tmp_path, f"{name}.wav", 6)))
            send(performance, "/panic")  # what was heard of this note is forgotten
        assert performance.process.poll() is None
    assert np.abs(plain).max() > 0.02, "the unsteered music is silent"
    shares = np.stack(heard)[:, list(wanted.values())]  # [recording, wanted note]
    own, other = np.diag(shares).mean(), shares[~np.eye(len(shares), dtype=bool)].mean()
    assert own - other > 0.4, shares.round(2)


def test_ctrl_c_ends_a_performance_within_a_second_and_leaves_nothing(tmp_path: Path) -> None:
    def end_one() -> float:
        with playing(tmp_path, "--sink", "null") as performance:
            children = psutil.Process(performance.process.pid).children(recursive=True)
            tapes = _shared_memory_of(_engine_of(performance))
            took = performance.end(signal.SIGINT)
            assert performance.process.returncode == 0
            assert "Traceback" not in performance.printed
        psutil.wait_procs(children, timeout=2)
        assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
        assert not [tape for tape in tapes if tape.exists()]
        return took

    assert _best_of_three(end_one, 1.0) < 1.0


def test_ctrl_c_while_it_loads_ends_it_without_a_traceback(tmp_path: Path) -> None:
    """As a terminal does it: the signal goes to every process of the group."""
    with playing(tmp_path, "--sink", "null", wait=False) as performance:
        main = psutil.Process(performance.process.pid)
        poll(lambda: len(main.children()) >= 3, "engine, playout and resource tracker have been started")
        for process in (*main.children(), main):
            process.send_signal(signal.SIGINT)
        assert performance.process.wait(10) == 0, performance.printed
        assert "Traceback" not in performance.printed


def test_the_engine_is_started_again_with_every_knob_as_it_was(tmp_path: Path) -> None:
    """Heard in the file that the playout writes: what the second engine plays is as quiet as the first was told to."""
    path = tmp_path / "heard.wav"
    with playing(tmp_path, "--sink", f"wav:{path}") as performance:
        port = performance.osc_port
        poll(lambda: int(ask(port, "/status/frame")) > 100, "two seconds as loud as the music is")
        ask(port, "/concept/note_d/eta", 0.75)
        ask(port, "/gain", -40.0)
        frame = int(ask(port, "/status/frame"))
        poll(lambda: int(ask(port, "/status/frame")) > frame + 50, "a second of quiet")
        _engine_of(performance).kill()
        poll(lambda: "started again" in performance.printed, "the crash is told")
        poll(lambda: 50 < int(ask(port, "/status/frame")) < frame, "the new engine has made a second", 60)
        assert ask(port, "/concept/note_d/eta") == 0.75
        assert ask(port, "/gain") == -40.0
        performance.end()
    samples, rate = soundfile.read(path, dtype="float32")
    loud, quiet = np.abs(samples[:rate]).max(), np.abs(samples[-rate // 2 :]).max()
    assert 0.0 < quiet < 0.05 * loud, f"peak {loud:.3f} before, {quiet:.3f} from the second engine"


def test_broken_and_wrong_packets_never_disturb_the_sound(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    with playing(tmp_path, "--sink", "null", "--buffer", "1000") as performance:  # so that only we can run it dry
        port = performance.osc_port
        before = ask(port, "/status/underruns")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(20):
                for _ in range(25):
                    sender.sendto(generator.bytes(int(generator.integers(0, 200))), ("127.0.0.1", port))
                ask(port, "/status/frame")  # all of them have been read: none was lost in the socket's buffer
        ask(port, "/concept/note_c/eta", 0.5)
        assert ask(port, "/concept/note_c/eta") == 0.5
        frame = int(ask(port, "/status/frame"))
        poll(lambda: int(ask(port, "/status/frame")) > frame + 25, "the music goes on")
        assert ask(port, "/status/underruns") == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--checkpoint", "nowhere"), "config.json"),
        (("--bank", "nowhere.safetensors"), "does not exist"),
        (("--buffer", "5"), "expected 60..10000"),
        (("--osc-port", "TAKEN"), "in use"),
        (("--compute", "tpu"), "expected cpu, cuda, cuda:N or mps"),
        (("--sink", "speaker"), "expected auto, soundcard, jack, null or wav:PATH"),
        (("--sink", "wav:no/where.wav"), "cannot write"),
    ],
)
def test_a_start_that_cannot_be_ends_with_one_line_and_code_2(
    tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("127.0.0.1", 0))
        taken = str(holder.getsockname()[1])
        given = [taken if argument == "TAKEN" else argument for argument in arguments]
        ports = () if "TAKEN" in arguments else ("--osc-port", "0")
        result = subprocess.run(
            command("play", "--sink", "null", "--reply-port", "0", "--port", "0", *ports, *given),
            capture_output=True, text=True, env=environment(), timeout=60, cwd=tmp_path,
        )  # fmt: skip
    assert result.returncode == 2, result.stderr
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_the_first_sound_comes_within_five_seconds(tmp_path: Path) -> None:
    """From the command to the playout taking samples off the tape: the buffer is full and being played."""

    def start_one() -> float:
        began = time.monotonic()
        with playing(tmp_path, "--sink", "null") as performance:
            poll(lambda: _is_playing_on(performance.osc_port), "the buffer is full", 60)
            return time.monotonic() - began

    assert _best_of_three(start_one, 5.0) < 5.0


def _best_of_three(measure: Callable[[], float], bar: float) -> float:
    """Seconds of the best of up to three attempts: a shared machine only ever adds to what the program needs."""
    best = measure()
    for _ in range(2):
        if best < bar:
            break
        best = min(best, measure())
    return best


def _engine_of(performance: Performance) -> psutil.Process:
    """The largest of our own children: it has torch loaded. (Its child, the text process, may be larger still.)"""
    return max(psutil.Process(performance.process.pid).children(), key=lambda child: child.memory_info().rss)


def _shared_memory_of(process: psutil.Process) -> list[Path]:
    """The tape's file, where the system shows one (Linux)."""
    if not hasattr(process, "memory_maps"):
        return []
    return [Path(area.path) for area in process.memory_maps() if area.path.startswith("/dev/shm/psm_")]


def _is_playing_on(port: int) -> bool:
    """Whether the tape holds more than the playout needs to begin (100 ms)."""
    buffer_ms = ask(port, "/status/buffer_ms")
    return isinstance(buffer_ms, float) and buffer_ms > 100.0
