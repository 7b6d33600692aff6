"""What the audio tests stand on: a JACK server with a dummy driver, a client that listens, and the playout itself.

No sound hardware is needed. Each server has a name of its own, so that tests may run side by side.
"""

import itertools
import multiprocessing
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt
import pytest

from rfm_live.audio.playout import run_playout
from rfm_live.engine.tape import Tape

_numbers = itertools.count(1)


@contextmanager
def jack_server(rate: int = 48000, period: int = 256) -> Iterator[subprocess.Popen[bytes]]:
    """Run jackd under a name of its own and make it the default of this process and its children.

    End it with `terminate` only: a killed server keeps one of the eight places that libjack has for servers.
    """
    if shutil.which("jackd") is None or shutil.which("jack_wait") is None:
        pytest.skip("jackd and jack_wait are not installed")
    name = f"rfm_test_{os.getpid()}_{next(_numbers)}"
    command = ["jackd", "-r", "-n", name, "-d", "dummy", "-r", str(rate), "-p", str(period), "-C", "2", "-P", "2"]
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryFile() as log:
        patch.setenv("JACK_DEFAULT_SERVER", name)
        patch.setenv("JACK_NO_AUDIO_RESERVATION", "1")
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        waiting = subprocess.Popen(
            ["jack_wait", "-s", name, "-w"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            poll(lambda: waiting.poll() is not None or server.poll() is not None, "jackd answers")
            if server.poll() is not None:
                log.seek(0)
                pytest.fail(f"jackd ended with {server.returncode}: {log.read().decode()}")
            yield server
        finally:
            _end(waiting)
            _end(server)
            for left in Path("/dev/shm").glob(f"jack_*_{name}_*"):  # of clients that did not close
                left.unlink(missing_ok=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Ear:
    """A JACK client with one input port that keeps everything it hears."""

    def __init__(self) -> None:
        from rfm_live.audio.jack_client import import_jack

        self.client: Any = import_jack().Client("ear", no_start_server=True)
        self._port = self.client.inports.register("in")
        self._blocks: list[npt.NDArray[np.float32]] = []
        self.is_freewheeling = threading.Event()
        self.client.set_process_callback(self._listen)
        self.client.set_freewheel_callback(self._set_freewheeling)

    def __enter__(self) -> "Ear":
        self.client.activate()
        return self

    def __exit__(self, *error: object) -> None:
        self.client.close()  # the server goes on freewheeling: switching it back can take it four seconds

    def connect(self, port_name: str) -> None:
        self.client.connect(port_name, self._port)

    def freewheel(self) -> None:
        """Let the server run as fast as its clients can, and wait until it does."""
        self.client.set_freewheel(True)
        assert self.is_freewheeling.wait(10)
        begun = len(self._blocks)
        poll(lambda: len(self._blocks) > begun + 20, "the server freewheels")

    def heard(self) -> npt.NDArray[np.float32]:
        return np.concatenate([np.zeros(0, dtype=np.float32), *self._blocks])

    def _listen(self, frames: int) -> None:
        self._blocks.append(self._port.get_array().copy())

    def _set_freewheeling(self, starting: bool) -> None:
        self.is_freewheeling.set() if starting else self.is_freewheeling.clear()


class Spawned:
    """A playout process as the supervisor has it."""

    def __init__(self, tape: Tape, **options: object) -> None:
        context = multiprocessing.get_context("spawn")
        self.conn, theirs = context.Pipe()
        self.process = context.Process(target=run_playout, args=(tape.name, options, theirs))
        self.process.start()
        theirs.close()

    def receive(self) -> dict[str, Any]:
        return told(self.conn)

    def stop(self) -> None:
        self.conn.send_bytes(msgpack.packb({"op": "stop"}))

    def join(self, seconds: float = 10) -> int | None:
        self.process.join(seconds)
        return self.process.exitcode

    def __enter__(self) -> "Spawned":
        return self

    def __exit__(self, *error: object) -> None:
        self.conn.close()
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.process.close()


def told(conn: Connection) -> dict[str, Any]:
    assert conn.poll(20), "the playout says nothing"
    message = msgpack.unpackb(conn.recv_bytes())
    assert isinstance(message, dict)
    return message


@contextmanager
def playing(tape: Tape, **options: object) -> Iterator[Connection]:
    """The playout on a thread of this process; it must end when told."""
    ours, theirs = multiprocessing.Pipe()
    thread = threading.Thread(target=run_playout, args=(tape.name, options, theirs))
    thread.start()
    try:
        yield ours
    finally:
        ours.send_bytes(msgpack.packb({"op": "stop"}))
        thread.join(10)
        ours.close()
        theirs.close()
    assert not thread.is_alive()


def poll(condition: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    """Wait until `condition` holds; fail when it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"within {seconds} s: {what}"
        time.sleep(0.002)
