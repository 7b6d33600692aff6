"""The device's end of the playout: copies from the ring, fades over gaps, counts them.

Used by the sinks through `Feed`, on the device's callback thread only. It never waits and never raises.

When the ring runs dry the last sample is held and faded to zero along half a cosine; when samples return they fade in
the same way. Both ramps of one gap add up to at most 1, so a short gap is a cross-fade. The output's slope is bounded
by the signal's own plus pi / (2 * fade) of its peak.
"""

import numpy as np
import numpy.typing as npt

from rfm_live.audio.ring import SampleRing

Samples = npt.NDArray[np.float32]


class Voice:
    """Fill device blocks from `ring`; `fade` is the length of a ramp in samples."""

    def __init__(self, ring: SampleRing, fade: int, fade_in_first: bool) -> None:
        self._ring = ring
        turn = np.pi * np.arange(1, fade + 1) / max(fade, 1)
        self._rise_gain: Samples = (0.5 - 0.5 * np.cos(turn)).astype(np.float32)  # [fade]
        self._fall_gain: Samples = (0.5 + 0.5 * np.cos(turn)).astype(np.float32)  # [fade]
        self._rise_at = 0 if fade_in_first else fade
        self._fall_at = fade
        self._fall_level = np.float32(0.0)
        self._last = np.float32(0.0)
        self._is_silent = True
        self._is_stopping = False
        self.largest_block = 0  # what the device really asks for
        self.enough = 0  # samples in the ring before the sound begins or comes back; set by the feed
        self.gaps = 0  # how often the ring ran dry in the middle of the music
        self.expects_end = False  # set by the feed when the tape has ended: running dry is then no gap

    @property
    def is_quiet(self) -> bool:
        """True when nothing sounds: before the first sample, in a gap or after the end, its fade-out included."""
        return self._is_silent and self._fall_at >= len(self._fall_gain)

    def stop(self) -> None:
        """Fade out from the next block on, for good (any thread)."""
        self._is_stopping = True

    def fill(self, out: Samples) -> None:
        """Write every sample of the block `out` [N]."""
        wanted = len(out)
        if not wanted:
            return
        self.largest_block = max(self.largest_block, wanted)
        count = self._ring.read_into(out) if self._may_read(wanted) else 0
        if count:
            self._is_silent = False
            self._rise(out[:count])
            self._add_fall(out[:count])
            self._last = out[count - 1]
        if count < wanted:
            if not self._is_silent:
                self._begin_fall()
            out[count:] = 0.0
            self._add_fall(out[count:])
            self._last = out[-1]

    def _may_read(self, wanted: int) -> bool:
        if self._is_stopping:
            return False
        return not self._is_silent or self.expects_end or self._ring.fill >= max(wanted, self.enough)

    def _begin_fall(self) -> None:
        self._is_silent = True
        self._fall_level = self._last
        self._fall_at = 0
        self._rise_at = 0
        if not (self.expects_end or self._is_stopping):
            self.gaps += 1

    def _rise(self, part: Samples) -> None:
        gain = self._rise_gain[self._rise_at : self._rise_at + len(part)]
        part[: len(gain)] *= gain
        self._rise_at += len(gain)

    def _add_fall(self, part: Samples) -> None:
        gain = self._fall_gain[self._fall_at : self._fall_at + len(part)]
        part[: len(gain)] += self._fall_level * gain
        self._fall_at += len(gain)
