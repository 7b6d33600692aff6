"""Audio for listeners: cuts what the playout has played into messages of 20 ms. Sans-IO; reads history only.

Who uses it: the web surface asks `due()` every few milliseconds, on the event loop.
"""

from rfm_live.control import wire
from rfm_live.control.wire import Audio
from rfm_live.server.hub import AudioSource

_LATEST_SECONDS = 1.0


class AudioFeed:
    """The position up to which listeners have been sent `source`. It starts at the present and never goes back."""

    def __init__(self, source: AudioSource, sample_rate: int) -> None:
        self._source = source
        self._block = sample_rate // 50
        self._latest = int(_LATEST_SECONDS * sample_rate)
        self._position: int | None = None

    def pause(self) -> None:
        """Nobody listens; the next `due()` starts at the present."""
        self._position = None

    def due(self) -> list[bytes]:
        """Encoded messages of all whole blocks played since the last call.

        After a standstill of a second, or with a new stream, the feed jumps to the present; listeners see the jump in
        the positions.
        """
        played = self._source.played
        if self._position is None or not played - self._latest <= self._position <= played:
            self._position = played
        messages: list[bytes] = []
        while played - self._position >= self._block:
            try:
                samples = self._source.read(self._position, self._block)
            except IndexError:  # overwritten while the event loop was held up
                self._position = played
                break
            messages.append(wire.encode(Audio(self._position, samples.astype("<f4", copy=False).tobytes())))
            self._position += self._block
        return messages
