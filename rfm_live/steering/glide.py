"""Glides: knob values that move on a line, one step per frame, to where they were last told to go. Frame loop."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Glide:
    """C lines, each from `begin` to `end` over `frames` frames, the first step at frame `start`. All arrays are [C]."""

    begin: Floats
    end: Floats
    start: Floats
    frames: Floats

    @classmethod
    def at_rest(cls, concepts: int) -> "Glide":
        """Lines that stay at 0."""
        zero = np.zeros(concepts)
        return cls(zero, zero, zero, np.ones(concepts))

    @property
    def settles_at(self) -> float:
        """The first frame from which every value is at its end."""
        return float((self.start + self.frames).max(initial=0.0)) - 1.0

    def values(self, frame: int) -> Floats:
        """The values at `frame`: [C]. Exactly `end` once a line is through."""
        share = np.clip((frame - self.start + 1) / self.frames, 0.0, 1.0)  # [C]
        return np.where(share < 1.0, self.begin + share * (self.end - self.begin), self.end)

    def towards(self, targets: Floats, frame: int, frames: Floats) -> "Glide":
        """Leave from here for `targets` [C] where they differ, over `frames` [C]; the others go on as they were."""
        moved = targets != self.end
        if not moved.any():
            return self
        return Glide(
            np.where(moved, self.values(frame - 1), self.begin),
            targets,
            np.where(moved, frame, self.start),
            np.where(moved, frames, self.frames),
        )
