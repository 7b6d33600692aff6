"""Stand-ins for the engine and the playout process: they start at once, and die, refuse or hang when told to.

Used by the supervisor's tests, for what the real processes do not do on demand. What an engine does is its prompt's
first words. Imported in the child, so nothing heavy here.
"""

import os
import signal
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

import msgpack


def engine(conn: Connection, tape_name: str, options: Mapping[str, Any]) -> None:
    """Answers "ready" and then tells every setting it gets as an error; ends on "stop"."""
    what = options["prompt"]
    if what == "die at once":
        os._exit(3)
    if what == "refuse":
        _send(conn, {"op": "error", "text": "this checkpoint is no good"})
        raise SystemExit(2)
    if what == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _send(conn, {"op": "error", "text": "hanging"})
        time.sleep(60)
    _send(conn, _READY)
    if what == "die when ready":
        os._exit(4)
    _send(conn, {"op": "status", "frame": 0, "step_ms": 1.0, "step_p95_ms": 1.0, "written": 0})
    while True:
        message = msgpack.unpackb(conn.recv_bytes())
        if message["op"] == "stop":
            return
        _send(conn, {"op": "error", "text": f"{message['address']} {message['value']}"})


def playout(conn: Connection, tape_name: str, options: Mapping[str, Any]) -> None:
    """Cannot open any sink but the null clock, never opens "soundcard" number 7, and ends on "stop"."""
    if options["device"] == 7:
        time.sleep(60)
    if options["sink"] != "null":
        _send(conn, {"op": "error", "text": f"{options['sink']} cannot be opened"})
    _send(conn, {"op": "ready", "sink": "null", "device": "nothing", "rate": 32_000, "latency_ms": 0.0})
    while msgpack.unpackb(conn.recv_bytes())["op"] != "stop":
        pass


_READY = {
    "op": "ready",
    "concepts": ["note_c", "note_d"],
    "gates": [1.0, 1.0],
    "periods": [1, 1],
    "device": "cpu",
    "defaults": {"/temperature": 1.0, "/top_k": 250, "/guidance": 3.0},
    "real_time_factor": 2.0,
}


def _send(conn: Connection, message: Mapping[str, Any]) -> None:
    conn.send_bytes(msgpack.packb(message))
