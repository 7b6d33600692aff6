"""What one frame is steered with: the plan makes it, the token stream plays it and remembers it. numpy only.

S = sum_c s_c * q_c is the plain case, `mode` None: a push at the block outputs of every row. Modes, sites and rows per
concept are the exceptions, and cost more. `rfm_kernels.plain.add_inject_norm` is the specification of the modes.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rfm_kernels.reference import Mode, Site

__all__ = ["Coefficients", "FrameSteering", "Mode", "Site"]

Coefficients = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FrameSteering:
    """How every concept acts at one frame. The arrays belong to the frame: whoever made them must not change them.

    `coefficients` fp32 [C, L], the strength s of concept and layer: everything left of the direction. `mode` int32 [C],
    values of `Mode` (None: all add). `target` fp32 [C, L], the projection <h, q> that `Mode.CLAMP` aims at (None: 0).
    `site` int32 [C], values of `Site` (None: all at the block output). `is_text_only` bool [C]: under guidance the
    concept acts on the row with text and not on the row without (None: on both). Raises ValueError for a wrong shape.
    """

    coefficients: Coefficients
    mode: npt.NDArray[np.int32] | None = None
    target: npt.NDArray[np.float32] | None = None
    site: npt.NDArray[np.int32] | None = None
    is_text_only: npt.NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        shape = self.coefficients.shape
        if len(shape) != 2:
            raise ValueError(f"coefficients are {shape}, expected [C, L]")
        expected = {"mode": shape[:1], "target": shape, "site": shape[:1], "is_text_only": shape[:1]}
        for name, wanted in expected.items():
            given = getattr(self, name)
            if given is not None and given.shape != wanted:
                raise ValueError(f"{name} is {given.shape}, expected {wanted}")

    @property
    def is_plain(self) -> bool:
        """Whether every concept is a push at the block output of every row."""
        exceptions = (self.mode, self.site, self.is_text_only)  # Mode.ADD, Site.BLOCK_OUTPUT and False are 0
        return not any(given is not None and given.any() for given in exceptions)
