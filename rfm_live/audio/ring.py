"""A float32 ring between two threads of the playout process: the feeder writes, the device callback reads.

Threading contract: exactly one thread writes and exactly one reads. Each side advances its own counter after it has
copied, so the other never sees samples that are missing. A read gives what is there and never waits; a write that does
not fit is a fault of the writer, which asks `space` first. Neither allocates more than a view.
"""

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]


class SampleRing:
    """A ring of `capacity` samples; single producer, single consumer."""

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a ring of {capacity} samples holds none, expected >= 1")
        self._samples: Samples = np.zeros(capacity, dtype=np.float32)  # [capacity]
        self._written = 0
        self._read = 0

    @property
    def fill(self) -> int:
        """Samples written and not read yet."""
        return self._written - self._read

    @property
    def space(self) -> int:
        """Samples that may be written."""
        return len(self._samples) - self.fill

    def write(self, samples: Samples) -> None:
        """Append samples [N] (the producer's thread). Raises ValueError when they do not fit."""
        count = len(samples)
        if count > self.space:
            raise ValueError(f"{count} samples do not fit into the ring's space of {self.space}")
        at = self._written % len(self._samples)
        first = min(count, len(self._samples) - at)
        self._samples[at : at + first] = samples[:first]
        self._samples[: count - first] = samples[first:]
        self._written += count

    def read_into(self, out: Samples) -> int:
        """Fill the head of `out` [N] with what is there and return how many (the consumer's thread)."""
        count = min(len(out), self.fill)
        at = self._read % len(self._samples)
        first = min(count, len(self._samples) - at)
        out[:first] = self._samples[at : at + first]
        out[first:count] = self._samples[: count - first]
        self._read += count
        return count
