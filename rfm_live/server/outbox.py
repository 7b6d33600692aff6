"""What one WebSocket client is still to be sent. It is bounded, whatever the client does.

Who uses it: the web surface puts in, the client's sending task takes out, both on the event loop.
"""

import asyncio
from collections import deque
from collections.abc import Mapping

from rfm_live.control import wire
from rfm_live.control.table import Value
from rfm_live.control.wire import Problem, Status, ValueIs

MAX_AUDIO_MESSAGES = 25  # half a second
MAX_ANSWERS = 64


class Outbox:
    """Values wait once per address, measurements once; the oldest audio and answers make room and are counted."""

    def __init__(self) -> None:
        self.dropped_audio = 0
        self.dropped_answers = 0
        self._answers: deque[bytes] = deque()
        self._values: dict[str, Value] = {}
        self._status: dict[str, Value] = {}
        self._audio: deque[bytes] = deque()
        self._filled = asyncio.Event()

    def put_answer(self, message: bytes) -> None:
        """A message that goes first and in order: the hello, an error."""
        if len(self._answers) == MAX_ANSWERS:
            self._answers.popleft()
            self.dropped_answers += 1
        self._answers.append(message)
        self._filled.set()

    def put_problem(self, text: str) -> None:
        """Tell the client that a message was not taken."""
        self.put_answer(wire.encode(Problem(text)))

    def put_value(self, address: str, value: Value) -> None:
        """The newest value of an address replaces one that still waits."""
        self._values[address] = value
        self._filled.set()

    def put_status(self, values: Mapping[str, Value]) -> None:
        """The newest measurements replace those that still wait."""
        self._status.update(values)
        self._filled.set()

    def put_audio(self, message: bytes) -> None:
        """Audio that waits too long is of no use: the oldest goes."""
        if len(self._audio) == MAX_AUDIO_MESSAGES:
            self._audio.popleft()
            self.dropped_audio += 1
        self._audio.append(message)
        self._filled.set()

    def take(self) -> bytes | None:
        """The next message: answers, then values, then measurements, then audio; None when nothing waits."""
        if self._answers:
            return self._answers.popleft()
        if self._values:
            address = next(iter(self._values))
            return wire.encode(ValueIs(address, self._values.pop(address)))
        if self._status:
            status, self._status = self._status, {}
            return wire.encode(Status(status))
        return self._audio.popleft() if self._audio else None

    async def next(self) -> bytes:
        """Wait for the next message."""
        while (message := self.take()) is None:
            self._filled.clear()
            await self._filled.wait()
        return message
