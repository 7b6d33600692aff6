"""The hub: where messages of all surfaces meet the board, the engine and each other. Event loop of the server process.

Who uses it: every surface brings its messages here and is told what others changed; the supervisor brings the
engine's measurements. Nothing here waits.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rfm_live.control.board import Change, ControlBoard
from rfm_live.control.table import Refused, Value

FRAME_MS = 20.0


class Surface(Protocol):
    """Something that performers look at. Every call returns at once."""

    def changed(self, changes: Sequence[Change]) -> None:
        """Values that changed; show each to everyone but its source."""

    def measured(self, values: Mapping[str, Value]) -> None:
        """Fresh measurements, about 20 times a second."""

    def troubled(self, text: str) -> None:
        """Something went wrong that is no answer to a message: show it to everyone."""


class AudioSource(Protocol):
    """What the server needs of the tape: counts of samples since the start of the stream, and their reading."""

    @property
    def written(self) -> int: ...

    @property
    def played(self) -> int: ...

    @property
    def underruns(self) -> int: ...

    def read(self, start: int, count: int) -> npt.NDArray[np.float32]:
        """Samples [count]. Raises IndexError when they are not there."""
        ...


class Hub:
    """One board, one engine, any number of surfaces. `send_to_engine(address, value)` must neither wait nor raise."""

    def __init__(
        self,
        board: ControlBoard,
        send_to_engine: Callable[[str, object], None],
        tape: AudioSource | None = None,
        sample_rate: int = 32000,
    ) -> None:
        self.board = board
        self.tape = tape
        self.sample_rate = sample_rate
        self._send_to_engine = send_to_engine
        self._surfaces: list[Surface] = []

    def register(self, surface: Surface) -> None:
        """Tell `surface` from here on what changes."""
        self._surfaces.append(surface)

    def unregister(self, surface: Surface) -> None:
        """Tell `surface` nothing more; one that is not registered is no mistake."""
        if surface in self._surfaces:
            self._surfaces.remove(surface)

    def handle(self, address: str, args: Sequence[object], source: str) -> dict[str, Value]:
        """Take one message and return the values that `source` is to be answered.

        That is one value for a question, the full state for /sync, and nothing else. Raises Refused, already counted.
        """
        if not args and address in self.board.table and self.board.table.lookup(address).kind != "trigger":
            return {address: self.board.value(address)}
        changes = self.board.apply(address, args, source)
        if address == "/sync":
            return self.board.full_state() if changes else {}
        for change in changes:
            self._send_to_engine(change.address, change.value)
        # A trigger has no value to show, and a surface that echoes what it is told would pull it again.
        shown = [change for change in changes if self.board.table.lookup(change.address).kind != "trigger"]
        if shown:
            for surface in self._surfaces:
                surface.changed(shown)
        return {}

    def count_refusal(self, refusal: Refused) -> None:
        """Count a message that could not even be read."""
        self.board.count_refusal(refusal)

    def count_accepted(self) -> None:
        """Count a good message that is of no concern to the board, such as a token."""
        self.board.accepted += 1

    def engine_status(self, status: Mapping[str, object]) -> None:
        """Store a status of the engine, complete it from the tape, and tell every surface.

        Known keys are the last words of the /status addresses; other keys and values that are no numbers are left out.
        """
        measured: dict[str, float] = {}
        for name, value in status.items():
            if f"/status/{name}" in self.board.table and isinstance(value, (int, float)) and math.isfinite(value):
                measured[f"/status/{name}"] = value
        step_ms = measured.get("/status/step_ms", 0)
        if step_ms > 0:
            measured.setdefault("/status/real_time_factor", FRAME_MS / step_ms)
        if self.tape is not None:
            ahead = self.tape.written - self.tape.played
            measured["/status/buffer_ms"] = 1000.0 * ahead / self.sample_rate
            measured["/status/underruns"] = self.tape.underruns
        stored = self.board.report(measured)
        for surface in self._surfaces:
            surface.measured(stored)

    def tell_trouble(self, text: str) -> None:
        """Tell every surface that something went wrong beside the messages: a prompt, a process, a device."""
        for surface in self._surfaces:
            surface.troubled(text)

    def replay(self) -> None:
        """Tell a fresh engine every setting."""
        for address, value in self.board.settings().items():
            self._send_to_engine(address, value)
