"""The engine process, as the supervisor runs it: spawned, spoken to over its pipe, and ended in every way."""

import dataclasses
import json
import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from rfm_live.engine.defaults import default_settings
from rfm_live.engine.player import Engine
from rfm_live.engine.prompts import Prompts
from rfm_live.engine.tape import Tape
from rfm_live.engine.threads import choose, thread_counts
from rfm_live.engine.worker import _Encoded, _PromptThread, run_worker
from rfm_live.model.checkpoint import MusicGen
from rfm_live.steering.bank import save_bank
from tests.test_bank import some_bank

SPAWN = multiprocessing.get_context("spawn")
DEADLINE_SECONDS = 60.0
BUFFER_MS = 200
HOP = 640


class Worker:
    """One spawned engine and our end of its pipe."""

    def __init__(self, tape: Tape, options: dict[str, Any]) -> None:
        self.tape = tape
        self.conn, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=run_worker, args=(theirs, tape.name, options))
        self.process.start()
        theirs.close()

    def send(self, message: object) -> None:
        self.conn.send_bytes(message if isinstance(message, bytes) else msgpack.packb(message))

    def set(self, address: str, value: object) -> None:
        self.send({"op": "set", "address": address, "value": value})

    def wait_for(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next message that is wanted; an error that is not wanted fails the test."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while self.conn.poll(max(0.0, deadline - time.monotonic())):
            message: dict[str, Any] = msgpack.unpackb(self.conn.recv_bytes())
            if wanted(message):
                return message
            assert message["op"] != "error", message
        raise AssertionError("the worker did not answer in time")

    def wait_written(self, samples: int) -> None:
        self.wait_for(lambda message: message["op"] == "status" and message["written"] >= samples)


def is_op(op: str) -> Callable[[dict[str, Any]], bool]:
    return lambda message: message["op"] == op


@pytest.fixture
def tape() -> Iterator[Tape]:
    with Tape.create(seconds=2) as made:
        yield made


@pytest.fixture
def options(tiny_model: MusicGen, tmp_path: Path) -> dict[str, Any]:
    decoder = tiny_model.decoder.config
    bank = dataclasses.replace(
        some_bank(2, decoder.layers, decoder.width), checkpoint_sha256=tiny_model.sha256, gate=np.ones(2, np.float32)
    )
    save_bank(bank, tmp_path / "bank.safetensors")
    return {
        "checkpoint": str(tiny_model.path),
        "bank": str(tmp_path / "bank.safetensors"),
        "buffer_ms": BUFFER_MS,
        "seed": 3,
    }


@pytest.fixture
def start(tape: Tape) -> Iterator[Callable[[dict[str, Any]], Worker]]:
    started: list[Worker] = []

    def begin(options: dict[str, Any]) -> Worker:
        started.append(Worker(tape, options))
        return started[-1]

    yield begin
    for worker in started:
        worker.conn.close()
        worker.process.join(DEADLINE_SECONDS)
        assert not worker.process.is_alive()
        worker.process.close()


def test_a_worker_that_tries_threads_tells_what_it_found_and_begins_at_the_first_frame(
    tape: Tape, options: dict[str, Any], start: Callable[[dict[str, Any]], Worker]
) -> None:
    worker = start({**options, "threads": None, "precision": "int8"})
    ready = worker.wait_for(is_op("ready"))
    trial = {int(threads): ms for threads, ms in ready["thread_trial"].items()}
    assert list(trial) == thread_counts()[: len(trial)] and min(trial.values()) > 0
    assert ready["threads"] == choose(trial) and ready["precision"] == "int8"
    worker.wait_written(BUFFER_MS * 32)
    assert worker.wait_for(is_op("status"))["frame"] * HOP == tape.written


def test_a_worker_tells_how_its_checkpoint_wishes_to_be_played(
    tiny_model: MusicGen, options: dict[str, Any], start: Callable[[dict[str, Any]], Worker], tmp_path: Path
) -> None:
    assert tiny_model.path is not None
    folder = shutil.copytree(tiny_model.path, tmp_path / "wishing")
    wishes = {"temperature": 0.8, "top_k": 40, "top_p": 0.5, "guidance_scale": 1.5}
    (folder / "generation_config.json").write_text(json.dumps(wishes))
    defaults = start({**options, "checkpoint": str(folder), "bank": None}).wait_for(is_op("ready"))["defaults"]
    told = {"/temperature": 0.8, "/top_k": 40, "/top_p": 0.5, "/guidance": 1.5}
    assert {address: defaults[address] for address in told} == told


def test_a_worker_lives_from_ready_to_stop(
    tiny_model: MusicGen, tape: Tape, options: dict[str, Any], start: Callable[[dict[str, Any]], Worker]
) -> None:
    worker = start(options)
    ready = worker.wait_for(lambda message: message["op"] == "ready")
    assert (ready["concepts"], ready["gates"], ready["layers"]) == (["note_a", "note_b"], [1.0, 1.0], 3)
    assert ready["checkpoint"] == tiny_model.path.name
    assert ready["defaults"]["/window"] == 512 / 50  # all the positions of the tiny checkpoint
    assert ready["load_seconds"] > 0
    assert ready["real_time_factor"] > 0
    assert (ready["threads"], ready["thread_trial"], ready["precision"]) == (1, {}, "fp32")

    # The tape fills to the buffer and no further, and nobody plays yet.
    buffer = BUFFER_MS * 32
    worker.wait_written(buffer)
    for _ in range(3):
        status = worker.wait_for(is_op("status"))
        assert status["written"] == tape.written == buffer
        assert status["frame"] * HOP == buffer
        assert 0 < status["step_ms"] <= status["step_p95_ms"]

    # It is the music that the same engine plays in one process, from its first frame.
    settings = default_settings(tiny_model.path, tiny_model.config, seed=3)
    twin = Engine(tiny_model, settings=settings)
    np.testing.assert_array_equal(tape.read(0, buffer), twin.render([], BUFFER_MS / 1000))

    # Bad messages are answered one by one, and stop nothing.
    for message, says in (
        ({"op": "dance"}, "dance"),
        ({"op": "set", "address": "/gain"}, "/gain"),
        ({"op": "set", "address": "/nothing", "value": 1}, "/nothing"),
        ({"op": "set", "address": "/concept/note_a/eta", "value": 9}, "/concept/note_a/eta"),
        ({"op": "set", "address": "/prompt", "value": 5}, "/prompt"),
        (b"\xc1", "not msgpack"),
        (b"", "not msgpack"),
        ([1, 2], r"[1, 2]"),
    ):
        worker.send(message)
        assert says in worker.wait_for(is_op("error"))["text"]

    # A knob changes what comes after what is written already.
    worker.set("/concept/note_a/eta", 2.0)
    worker.set("/gain", -60)
    worker.wait_for(is_op("status"))
    tape.mark_played(buffer)
    worker.wait_written(2 * buffer)
    turned = tape.read(buffer + HOP, buffer - HOP)
    assert np.abs(turned).max() < 0.002 < np.abs(tape.read(0, buffer)).max()

    # A prompt is encoded beside the frame loop; the tape goes on filling meanwhile.
    worker.set("/prompt", "calm piano")
    worker.set("/prompt", "dark drums")
    worker.set("/gain", 0)
    for mark in range(2, 5):
        tape.mark_played(mark * buffer)
        worker.wait_written((mark + 1) * buffer)

    started = time.monotonic()
    worker.send({"op": "stop"})
    worker.process.join(DEADLINE_SECONDS)
    assert worker.process.exitcode == 0
    assert time.monotonic() - started < 1.0


@pytest.mark.parametrize("end", ["pipe", "tape", "terminate"])
def test_a_worker_ends_with_its_pipe_its_tape_or_a_signal(
    tape: Tape, options: dict[str, Any], start: Callable[[dict[str, Any]], Worker], end: str
) -> None:
    worker = start(options)
    worker.wait_for(is_op("ready"))
    if end == "pipe":
        worker.conn.close()
    elif end == "tape":
        tape.end()
    else:
        worker.process.terminate()
    worker.process.join(DEADLINE_SECONDS)
    assert worker.process.exitcode == 0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"checkpoint": "/nowhere"}, "/nowhere"),
        ({"bank": "/nowhere/bank.safetensors"}, "/nowhere/bank.safetensors"),
        ({"buffer_ms": 1}, "'buffer_ms' is 1"),
        ({"colour": "blue"}, "'colour' is unknown"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_a_start_that_cannot_be_is_told_in_one_line(
    tape: Tape, options: dict[str, Any], wrong: dict[str, Any], says: str
) -> None:
    ours, theirs = multiprocessing.Pipe()
    with pytest.raises(SystemExit) as ended:
        run_here(theirs, tape.name, {**options, **wrong})
    assert ended.value.code == 2
    message = msgpack.unpackb(ours.recv_bytes())
    assert message["op"] == "error"
    assert says in message["text"]
    ours.close()
    theirs.close()


def run_here(conn: Connection, tape_name: str, options: dict[str, Any]) -> None:
    """The worker's target in a thread's clothes: without its signal handlers, which are the test run's."""
    import signal

    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        run_worker(conn, tape_name, options)
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def test_a_tape_of_another_rate_is_refused(options: dict[str, Any]) -> None:
    ours, theirs = multiprocessing.Pipe()
    with Tape.create(seconds=1, sample_rate=44_100) as tape, pytest.raises(SystemExit):
        run_here(theirs, tape.name, options)
    assert "44100 Hz, the checkpoint at 32000 Hz" in msgpack.unpackb(ours.recv_bytes())["text"]
    ours.close()
    theirs.close()


def test_a_prompt_reaches_the_music_while_it_plays(
    tiny_model: MusicGen, tape: Tape, options: dict[str, Any], start: Callable[[dict[str, Any]], Worker]
) -> None:
    worker = start({**options, "bank": None})
    worker.wait_for(is_op("ready"))
    worker.set("/prompt", "calm piano")
    twin = Engine(tiny_model, settings=default_settings(tiny_model.path, tiny_model.config, seed=3))
    buffer = BUFFER_MS * 32
    deadline = time.monotonic() + DEADLINE_SECONDS
    position = 0
    while time.monotonic() < deadline:
        worker.wait_written(position + buffer)
        if not np.array_equal(tape.read(position, buffer), twin.render([], BUFFER_MS / 1000)):
            break
        position += buffer
        tape.mark_played(position)
    else:
        raise AssertionError("the prompt never changed the music")


def test_only_the_last_prompt_counts(tiny_model: MusicGen) -> None:
    prompts = Prompts(tiny_model)
    thread = _PromptThread(prompts)
    for text in ("calm", "bright", "dark drums"):
        thread.request(text)
    encoded = last_finished(thread)
    expected = prompts.states("dark drums")
    assert encoded.text == "dark drums"
    assert encoded.states is not None
    assert expected is not None
    assert encoded.states[0].equal(expected[0])
    thread.request("calm")
    thread.forget_request()
    thread.request("bright")
    assert last_finished(thread).text == "bright"


def test_a_prompt_that_cannot_be_encoded_is_told_and_the_next_one_works(tiny_model: MusicGen) -> None:
    thread = _PromptThread(Prompts(tiny_model))
    thread.request("\ud800")  # half a surrogate pair
    assert last_finished(thread).error
    thread.request("calm")
    assert last_finished(thread).states is not None


def last_finished(thread: _PromptThread) -> _Encoded:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        if done := thread.finished():
            assert len(done) == 1
            return done[0]
    raise AssertionError("no prompt was encoded in time")
