"""Streaming sample-rate conversion from the tape's rate to the device's. Used by the feed, on the feeder's thread."""

import numpy as np
import numpy.typing as npt
import soxr

Samples = npt.NDArray[np.float32]

_NO_SAMPLES: Samples = np.zeros(0, dtype=np.float32)


class Resampler:
    """Mono float32 from `in_rate` to `out_rate` by soxr HQ; equal rates hand the samples through untouched.

    Any chunking gives the samples of one offline `soxr.resample`. soxr works in blocks: from 32 to 48 kHz its output
    comes in bursts of 15 ms and at most 18 ms of input wait inside (26 and 29 ms at 44.1 kHz).
    """

    def __init__(self, in_rate: int, out_rate: int) -> None:
        self.in_rate = in_rate
        self.out_rate = out_rate
        self._stream = None if in_rate == out_rate else soxr.ResampleStream(in_rate, out_rate, 1, dtype="float32")

    def push(self, samples: Samples) -> Samples:
        """Take samples [N] at `in_rate`, return what is finished [M] at `out_rate`; M may be 0."""
        if self._stream is None:
            return samples
        finished: Samples = self._stream.resample_chunk(samples)
        return finished

    def flush(self) -> Samples:
        """Return the rest [M] after the last push. The resampler is spent afterwards."""
        if self._stream is None:
            return _NO_SAMPLES
        rest: Samples = self._stream.resample_chunk(_NO_SAMPLES, last=True)
        return rest

    def longest_wait(self) -> int:
        """Most input samples that can be inside before the first output leaves; measured on a fresh stream."""
        probe = Resampler(self.in_rate, self.out_rate)
        pushed = 0
        step = np.zeros(32, dtype=np.float32)
        while self._stream is not None:
            pushed += len(step)
            if len(probe.push(step)):
                break
        return pushed
