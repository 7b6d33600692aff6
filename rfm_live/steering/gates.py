"""Gates: one draw per concept and frame, by Philox keyed (seed, frame, concept). Engine process, frame loop.

Draws are a function of their counters and no state; they are made for a block of frames at a time, because one call of
the generator costs more than what it draws.
"""

import numpy as np
import numpy.typing as npt
from rfm_kernels.reference import philox_uniform

_GATE_DRAWS = 1 << 62  # keeps the gates' counters apart from sampling's (rfm_live.model.sampling)
_CONCEPT_BITS = 16
_BLOCK = 32  # frames


class GateDraws:
    """The uniforms of all concepts of a bank."""

    def __init__(self, concepts: int) -> None:
        self._concepts = np.arange(concepts)
        self._held: tuple[int, int] | None = None  # seed and number of the block that is at hand
        self._block: npt.NDArray[np.float32] = np.zeros((_BLOCK, concepts), dtype=np.float32)

    def uniforms(self, seed: int, frame: int) -> npt.NDArray[np.float32]:
        """One uniform in [0, 1) per concept: [C]."""
        number, row = divmod(frame, _BLOCK)
        if self._held != (seed, number):
            frames = number * _BLOCK + np.arange(_BLOCK)
            offsets = _GATE_DRAWS + (frames[:, None] << _CONCEPT_BITS) + self._concepts
            self._block = philox_uniform(seed, offsets)
            self._held = (seed, number)
        drawn: npt.NDArray[np.float32] = self._block[row]
        return drawn
