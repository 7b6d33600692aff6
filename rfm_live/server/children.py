"""The two child processes and the pipes to them. Server process; each pipe has one reading and one writing thread.

Used by the supervisor alone. The entry points below import their half of the program in the child, so that the server
never loads torch. Messages are msgpack maps (see `engine.worker` and `audio.playout`).
"""

import asyncio
import multiprocessing
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import msgpack

Message = dict[str, Any]
_SPAWN = multiprocessing.get_context("spawn")
_STOP_SECONDS = 0.4  # what a child gets to end by itself
_KILL_SECONDS = 0.2


def engine_main(conn: Connection, tape_name: str, options: Mapping[str, Any]) -> None:
    """Entry point of the engine process."""
    from rfm_live.engine.worker import run_worker

    run_worker(conn, tape_name, options)


def playout_main(conn: Connection, tape_name: str, options: Mapping[str, Any]) -> None:
    """Entry point of the playout process."""
    from rfm_live.audio.playout import run_playout

    run_playout(tape_name, options, conn)


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """A process started in here never sees Ctrl-C or the terminal's end, not even while it loads: we tell it to end."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})  # inherited (POSIX exec)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Child:
    """One child process. `heard` gets each of its messages and, once it has ended, `None`, on the event loop."""

    def __init__(
        self,
        name: str,
        main: Callable[[Connection, str, Mapping[str, Any]], None],
        tape_name: str,
        options: Mapping[str, Any],
        heard: Callable[[Message | None], None],
    ) -> None:
        """Start the process; needs a running event loop."""
        self._loop = asyncio.get_running_loop()
        self._heard = heard
        self._conn, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=main, args=(theirs, tape_name, dict(options)), name=f"rfm_live {name}")
        with _signals_held_back():
            self._process.start()
        theirs.close()
        self._ending = threading.Lock()
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name=f"{name} pipe, out", daemon=True)
        self._writer.start()
        threading.Thread(target=self._read, name=f"{name} pipe, in", daemon=True).start()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; the negative number of the signal that ended it."""
        return self._process.exitcode

    def send(self, message: Message) -> None:
        """Hand a message over; never waits, and a child that has gone does not matter."""
        self._outgoing.put(msgpack.packb(message))

    def stop(self) -> None:
        """Ask it to end, and make it end; returns within about half a second. Stopping twice is harmless."""
        self.send({"op": "stop"})
        self._end()

    def kill(self) -> None:
        """End it at once and by force; `heard` gets its `None` as after any end."""
        self._process.kill()

    def _end(self) -> None:
        """Wait for the process, then force it; two threads may come here."""
        with self._ending:
            self._process.join(_STOP_SECONDS)
            if self._process.is_alive():
                self._process.terminate()
                self._process.join(_KILL_SECONDS)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()

    def _read(self) -> None:
        try:
            while True:
                self._tell(msgpack.unpackb(self._conn.recv_bytes()))
        except (EOFError, OSError):  # it has ended, or closed its end of the pipe and is of no use any more
            self._end()
        self._outgoing.put(None)
        self._writer.join()
        self._conn.close()
        self._tell(None)

    def _tell(self, message: Message | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._heard, message)
        except RuntimeError:  # the loop has closed: nobody is interested any more
            return

    def _write(self) -> None:
        while (packed := self._outgoing.get()) is not None:
            try:
                self._conn.send_bytes(packed)
            except OSError:
                return
