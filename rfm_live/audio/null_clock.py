"""No sound, but real time: plays the tape to nobody, so that the engine runs and network listeners are served.

Used by the playout process where there is no sound card, and as the pace-maker of the file sink.
"""

import threading
import time
from collections.abc import Callable

import numpy as np

from rfm_live.audio.feed import Feed

BLOCK = 640  # one frame at 32 kHz, 20 ms
_LONGEST_LAG_SECONDS = 1.0


class BlockClock:
    """Call `tick` once per block of BLOCK samples at `rate`, on a thread of its own.

    Every deadline is counted from the start, so lateness never adds up: a late tick is followed by prompt ones. Only a
    stall longer than a second (the machine slept) moves the start, since nobody wants those seconds in one burst.
    """

    def __init__(self, rate: int, tick: Callable[[], None]) -> None:
        self.failure: str | None = None
        self._period = BLOCK / rate
        self._tick = tick
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="block clock", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the tick it is in. Stopping twice is harmless."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            start = time.monotonic()
            ticks = 0
            while True:
                ahead = start + ticks * self._period - time.monotonic()
                if ahead < -_LONGEST_LAG_SECONDS:
                    start -= ahead
                if self._stopping.wait(max(0.0, ahead)):
                    return
                self._tick()
                ticks += 1
        except Exception as error:  # a thread has nobody to raise to: the playout's loop looks at `failure`
            self.failure = str(error)


class NullSink:
    """A clock at `rate`; `reason` tells why there is no sound."""

    name = "null"
    keeps_own_time = True
    block = BLOCK
    dropouts = 0

    def __init__(self, rate: int, reason: str = "") -> None:
        self.rate = rate
        self._reason = reason
        self._clock: BlockClock | None = None

    @property
    def failure(self) -> str | None:
        return self._clock.failure if self._clock is not None else None

    @property
    def latency_ms(self) -> float:
        return 0.0

    def open(self, feed: Feed) -> None:
        unheard = np.zeros(BLOCK, dtype=np.float32)
        self._clock = BlockClock(self.rate, lambda: feed.pull(unheard))
        self._clock.start()

    def close(self) -> None:
        if self._clock is not None:
            self._clock.stop()

    def describe(self) -> str:
        return f"null clock, {self.rate} Hz" + (f", because {self._reason}" if self._reason else "")
