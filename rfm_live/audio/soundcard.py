"""A sound card through PortAudio. Used by the playout process; PortAudio calls back on its own thread.

A Python callback cannot be relied on beside a busy interpreter; it works because this process does nothing else.
"""

import atexit
import os
import threading
from typing import Any

import numpy.typing as npt

from rfm_live.audio.devices import import_sounddevice, list_devices
from rfm_live.audio.feed import Feed
from rfm_live.errors import AudioError

_CLOSING_SECONDS = 1.0


class SoundcardSink:
    """Output device `device` (name, index, or None for the system's default) at the device's own rate."""

    name = "soundcard"
    keeps_own_time = False

    def __init__(self, device: str | int | None = None, block: int = 0) -> None:
        self._sounddevice = import_sounddevice()
        if device is None:
            device = next((card.index for card in list_devices() if card.is_default), None)
        if device is None:
            raise AudioError("there is no sound card with an output")
        try:
            card = self._sounddevice.query_devices(device, "output")
        except (ValueError, self._sounddevice.PortAudioError) as error:
            raise AudioError(f"sound card {device!r} is not there: {error}") from error
        self.rate = int(card["default_samplerate"])
        self.failure: str | None = None
        self.dropouts = 0
        self._card = card
        self._channels = min(2, card["max_output_channels"])
        self._block = block
        self._stream: Any = None
        self._feed: Feed | None = None
        self._is_closing = False

    @property
    def block(self) -> int:
        return self._block

    @property
    def latency_ms(self) -> float:
        return 1000 * float(self._stream.latency) if self._stream is not None else 0.0

    def open(self, feed: Feed) -> None:
        self._feed = feed
        try:
            self._stream = self._sounddevice.OutputStream(
                samplerate=self.rate,
                blocksize=self._block,
                device=self._card["index"],
                channels=self._channels,
                dtype="float32",
                latency="low",
                callback=self._fill,
                finished_callback=self._finished,
            )
            self._stream.start()
        except self._sounddevice.PortAudioError as error:
            raise AudioError(
                f"sound card '{self._card['name']}' cannot be opened at {self.rate} Hz: {error}"
            ) from error

    def close(self) -> None:
        """Close the device; one that does not answer any more is left behind after a second, which AudioError tells."""
        self._is_closing = True
        stream, self._stream = self._stream, None
        if stream is None:
            return
        closing = threading.Thread(target=stream.close, kwargs={"ignore_errors": True}, daemon=True)
        closing.start()
        closing.join(_CLOSING_SECONDS)
        if closing.is_alive():
            atexit.register(os._exit, 0)  # runs before sounddevice's own exit, which would wait for the device for ever
            raise AudioError(f"sound card '{self._card['name']}' does not close")

    def describe(self) -> str:
        return f"{self._card['name']}, {self.rate} Hz, {self._channels} channels"

    def _fill(self, out: npt.NDArray[Any], frames: int, time: Any, status: Any) -> None:
        """`out` is [frames, channels]; the music is mono and goes to every channel."""
        if status.output_underflow:
            self.dropouts += 1
        assert self._feed is not None
        self._feed.fill(out[:, 0])
        out[:, 1:] = out[:, :1]

    def _finished(self) -> None:
        if not self._is_closing:
            self.failure = f"sound card '{self._card['name']}' has stopped"
