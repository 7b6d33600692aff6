"""The soft limiter at the end of the engine's frame loop: EnCodec's output peaks near 2, a sound device's domain is ±1.

Engine process, numpy only. The gain follows the peak of short blocks, falls at once and rises slowly; what a falling
gain still lets through is rounded off by a soft knee. No look-ahead, so no latency. Blocks are cut by sample position,
so any chunking into whole blocks gives the same samples, bit for bit.
"""

from math import exp

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]

BLOCK = 32  # samples; a divisor of every frame
KNEE = 0.8  # below it nothing is bent; the gain aims here
CEILING = 0.99
_RELEASE_SECONDS = 0.3


class Limiter:
    """Keeps |samples| below CEILING. Its only state is the gain that the last block ended with."""

    def __init__(self, sample_rate: int) -> None:
        self.gain = 1.0
        self._recovery = 1.0 - exp(-BLOCK / (_RELEASE_SECONDS * sample_rate))
        self._ramp: Samples = np.linspace(1 / BLOCK, 1.0, BLOCK, dtype=np.float32)  # [BLOCK]

    def process(self, samples: Samples) -> Samples:
        """Limit samples [N], N a multiple of BLOCK -> [N]."""
        if len(samples) % BLOCK:
            raise ValueError(f"{len(samples)} samples are not whole blocks of {BLOCK}")
        blocks = samples.reshape(-1, BLOCK)
        ends = np.empty(len(blocks) + 1, dtype=np.float32)  # the gain at every block's borders
        ends[0] = gain = self.gain
        for block, peak in enumerate(np.abs(blocks).max(axis=1).tolist(), start=1):
            allowed = KNEE / peak if peak > KNEE else 1.0
            gain = allowed if allowed < gain else min(allowed, gain + (1.0 - gain) * self._recovery)
            ends[block] = gain
        self.gain = gain
        gains: Samples = ends[:-1, None] + (ends[1:] - ends[:-1])[:, None] * self._ramp  # [blocks, BLOCK]
        turned_down: Samples = (blocks * gains).reshape(-1)
        return _soft_knee(turned_down)


def _soft_knee(samples: Samples) -> Samples:
    """Bend what exceeds the knee, slope 1 there: y = knee + span * tanh((x - knee) / span), span = ceiling - knee."""
    level = np.abs(samples)
    if level.max(initial=0.0) <= KNEE:
        return samples
    span = np.float32(CEILING - KNEE)
    bent = np.float32(KNEE) + span * np.tanh((level - np.float32(KNEE)) / span)
    limited: Samples = np.where(level > KNEE, np.copysign(bent, samples), samples)
    return limited
