"""The playout process: plays the tape on a sink and survives what happens to the sink. Loads no torch.

The supervisor spawns it with `run_playout` as target. Only this process has the device clock; the tape's play head
tells everybody else how far it is. The main thread waits for messages, the sink's thread takes samples, the feeder's
brings them.

Messages are msgpack maps over a `multiprocessing` connection. In: {"op": "stop"}. Out, once per sink:
{"op": "ready", "sink", "device", "rate", "latency_ms"}; and {"op": "error", "text"} when a sink fails, followed by the
"ready" of the null clock that goes on in its place, so that network listeners keep their stream.

It ends on "stop", on SIGTERM, when the connection breaks, when the parent dies, or when the tape has ended and was
played to its end.
"""

import gc
import logging
import multiprocessing
import signal
import threading
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection, wait
from typing import Any

import msgpack

from rfm_live.audio.feed import Feed
from rfm_live.audio.null_clock import NullSink
from rfm_live.audio.options import PlayoutOptions
from rfm_live.audio.sinks import Sink, choose_sink
from rfm_live.engine.tape import Tape
from rfm_live.errors import AudioError

_log = logging.getLogger(__name__)
_LOOK_SECONDS = 0.05  # how often the sink's state is looked at
_DEAD_SECONDS = 3.0  # a device that has not asked for samples for so long is dead; some take two seconds to begin
_FADE_OUT_SECONDS = 0.1  # how long a stop may wait for the fade-out


def run_playout(tape_name: str, options: Mapping[str, Any], conn: Connection) -> None:
    """Play the tape until told to stop; `options` are those of `PlayoutOptions` (target of the spawned process)."""
    stopping = threading.Event()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal: the parent decides
        signal.signal(signal.SIGTERM, lambda number, frame: stopping.set())
    gc.collect()
    gc.freeze()
    with Tape.attach(tape_name) as tape:
        playout = _Playout(tape, conn)
        try:
            try:
                playout.begin(options)
                while not (stopping.is_set() or playout.has_ended or _is_told_to_stop(conn)):
                    playout.look_after_sink()
            finally:
                playout.end()
        except (BrokenPipeError, ConnectionResetError):
            _log.info("the supervisor has gone")


class _Playout:
    """A sink and its feed, and the change from a failed sink to the null clock."""

    def __init__(self, tape: Tape, conn: Connection) -> None:
        self._tape = tape
        self._conn = conn
        self._options = PlayoutOptions()
        self._sink: Sink | None = None
        self._feed: Feed | None = None

    @property
    def has_ended(self) -> bool:
        return self._feed is not None and self._feed.has_ended

    def begin(self, options: Mapping[str, Any]) -> None:
        """Open the sink that `options` ask for, or the null clock when that cannot be."""
        try:
            self._options = PlayoutOptions.from_dict(options)
            asked = self._options
            self._open(choose_sink(asked.sink, asked.device, asked.block, self._tape.sample_rate))
        except AudioError as error:
            self._fall_back(str(error))

    def look_after_sink(self) -> None:
        """Take the null clock when the sink has failed."""
        assert self._sink is not None and self._feed is not None
        failure = self._sink.failure or self._feed.failure
        if failure is None and not self._sink.keeps_own_time and self._feed.seconds_since_asked > _DEAD_SECONDS:
            failure = f"{self._sink.describe()}: has stopped taking samples"
        if failure is not None:
            self._fall_back(failure)

    def end(self) -> None:
        """Fade out, if anything sounds, and close the sink."""
        if self._feed is not None and self._sink is not None and self._sink.failure is None:
            self._feed.fade_out()
            deadline = time.monotonic() + _FADE_OUT_SECONDS
            while not self._feed.is_quiet and time.monotonic() < deadline:
                time.sleep(0.002)
        self._close()

    def _open(self, sink: Sink) -> None:
        self._sink = sink
        self._feed = Feed(self._tape, sink.rate, self._options)
        self._feed.expect_blocks_of(sink.block)
        sink.open(self._feed)
        if not sink.keeps_own_time:
            self._feed.start()
        latency_ms = sink.latency_ms + self._feed.latency_ms
        self._send(op="ready", sink=sink.name, device=sink.describe(), rate=sink.rate, latency_ms=latency_ms)

    def _close(self) -> None:
        if self._sink is not None:
            try:
                self._sink.close()
            except AudioError as error:
                self._send(op="error", text=str(error))
            if self._sink.dropouts:
                _log.info("%s: %d dropouts", self._sink.describe(), self._sink.dropouts)
        if self._feed is not None:
            self._feed.stop()
        self._sink = self._feed = None

    def _fall_back(self, reason: str) -> None:
        self._send(op="error", text=reason)
        self._close()
        self._open(NullSink(self._tape.sample_rate, reason))

    def _send(self, **message: object) -> None:
        self._conn.send_bytes(msgpack.packb(message))


def _is_told_to_stop(conn: Connection) -> bool:
    """Wait a moment for "stop", a broken connection or the parent's death. Other messages are not for us."""
    parent = multiprocessing.parent_process()
    ends: list[Any] = [conn] if parent is None else [conn, parent.sentinel]
    ready = wait(ends, timeout=_LOOK_SECONDS)
    if parent is not None and parent.sentinel in ready:
        return True
    if conn not in ready:
        return False
    try:
        message = msgpack.unpackb(conn.recv_bytes())
    except (EOFError, OSError):  # the other end has gone, and with it whoever could tell us anything
        return True
    except ValueError as error:
        _log.warning("a message that is no msgpack: %s", error)
        return False
    return isinstance(message, dict) and message.get("op") == "stop"
