"""The steering plan: from knobs to the coefficients of one frame. Engine process, frame loop; numpy only.

S[l] = sum_c strength * eta_c(t) * g_c(t) * unit_c * w[c, l] * q[c, l]   (MusicRFM's rule for several directions; its
gate drawn once per concept and frame and shared by all layers, not per layer as in the public release).

The plan gives everything left of the direction q as coefficients [C, L]. Gates are counter-based draws keyed by (seed,
concept, frame), so only the glides are state.
"""

from dataclasses import dataclass, replace
from math import isfinite

import numpy as np
import numpy.typing as npt
from rfm_kernels.reference import philox_uniform

from rfm_live.errors import ControlError
from rfm_live.steering.bank import PERIODS, ConceptBank

FRAME_MS = 20.0
CONCEPT_FIELDS = {
    "eta": (-2.0, 2.0),
    "on": (0, 1),
    "solo": (0, 1),
    "gate": (0.0, 1.0),
    "period": PERIODS,
    "slew": (0.0, 10_000.0),
}
OVERALL_FIELDS = {"strength": (0.0, 2.0), "budget": (0.0, 4.0)}
DEFAULT_SLEW_MS = 60.0

_GATE_DRAWS = 1 << 62  # keeps the gates' counters apart from sampling's (rfm_live.model.sampling)
_CONCEPT_BITS = 16

Floats = npt.NDArray[np.float64]
Coefficients = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PlanState:
    """Everything a plan remembers; `knobs` holds one array [C] per field of CONCEPT_FIELDS."""

    seed: int
    strength: float
    budget: float
    knobs: dict[str, Floats]
    glide_from: Floats
    glide_to: Floats
    glide_start: Floats
    glide_frames: Floats


class SteeringPlan:
    """The knobs of one bank and their glides. Settings take effect at the next frame that is asked for."""

    _seed: int
    _overall: dict[str, float]
    _knobs: dict[str, Floats]
    _glide_from: Floats
    _glide_to: Floats
    _glide_start: Floats
    _glide_frames: Floats

    def __init__(self, bank: ConceptBank, seed: int = 0) -> None:
        self._index = {name: index for index, name in enumerate(bank.names)}
        self._reach = (bank.unit[:, None] * bank.layer_weights).astype(np.float64)  # [C, L]
        concepts = len(bank.names)
        zero = np.zeros(concepts)
        knobs = {
            "eta": zero,
            "on": np.ones(concepts),
            "solo": zero,
            "gate": bank.gate.astype(np.float64),
            "period": bank.period.astype(np.float64),
            "slew": np.full(concepts, DEFAULT_SLEW_MS),
        }
        self.restore_state(PlanState(seed, 1.0, 4.0, knobs, zero, zero, zero, np.ones(concepts)))

    def set(self, name: str, field: str, value: float) -> None:
        """Turn one knob of concept `name`: eta -2..2, on and solo 0 or 1, gate 0..1, period 1..500 frames, slew in ms.

        Raises ControlError for an unknown concept or field and a value outside the field's range.
        """
        if name not in self._index:
            raise ControlError(f"concept {name!r} is not in the bank")
        if field not in CONCEPT_FIELDS:
            raise ControlError(f"concept field {field!r} is unknown, expected one of {', '.join(CONCEPT_FIELDS)}")
        _check(f"/concept/{name}/{field}", value, *CONCEPT_FIELDS[field])
        self._knobs[field][self._index[name]] = value

    def set_overall(self, field: str, value: float) -> None:
        """Set `strength` 0..2 or `budget` 0..4. Raises ControlError for anything else."""
        if field not in OVERALL_FIELDS:
            raise ControlError(f"overall field {field!r} is unknown, expected one of {', '.join(OVERALL_FIELDS)}")
        _check(f"/{field}", value, *OVERALL_FIELDS[field])
        self._overall[field] = float(value)

    def set_seed(self, seed: int) -> None:
        """Draw the gates by another seed."""
        self._seed = seed

    def release(self) -> None:
        """Set every eta to 0 without a glide."""
        for array in (self._knobs["eta"], self._glide_from, self._glide_to):
            array[:] = 0.0

    def coefficients(self, frame: int) -> Coefficients | None:
        """Weigh every direction at `frame`: [C, L], or None when nothing is steered. Frames must not go backwards."""
        eta = self._glide(frame)  # [C]
        if not eta.any():
            return None
        eta = eta * self._overall["strength"]
        if (total := np.abs(eta).sum()) > self._overall["budget"]:
            eta = eta * (self._overall["budget"] / total)
        eta = np.where(self._is_open(frame, eta), eta, 0.0)
        if not eta.any():
            return None
        weighed: Coefficients = (eta[:, None] * self._reach).astype(np.float32)
        return weighed

    def _glide(self, frame: int) -> Floats:
        """Move every audible eta one frame on its line from the last target to the next: [C]."""
        knobs = self._knobs
        heard = knobs["solo"] if knobs["solo"].any() else 1.0
        targets = knobs["eta"] * knobs["on"] * heard  # [C]
        moved = targets != self._glide_to
        if moved.any():
            reached = self._line(frame - 1)
            self._glide_from = np.where(moved, reached, self._glide_from)
            self._glide_start = np.where(moved, frame, self._glide_start)
            frames = np.maximum(np.ceil(knobs["slew"] / FRAME_MS), 1.0)
            self._glide_frames = np.where(moved, frames, self._glide_frames)
            self._glide_to = targets
        return self._line(frame)

    def _line(self, frame: int) -> Floats:
        share = np.clip((frame - self._glide_start + 1) / self._glide_frames, 0.0, 1.0)  # [C]
        return np.where(share < 1.0, self._glide_from + share * (self._glide_to - self._glide_from), self._glide_to)

    def _is_open(self, frame: int, eta: Floats) -> npt.NDArray[np.bool_]:
        """Say which concepts act at `frame`: [C]. A period above 1 replaces the draw; a gate of 0 is always closed."""
        gate, period = self._knobs["gate"], self._knobs["period"]
        is_open: npt.NDArray[np.bool_] = (gate > 0.0) & (frame % period == 0)
        drawn = np.flatnonzero(is_open & (gate < 1.0) & (period == 1.0) & (eta != 0.0))
        if len(drawn):
            offsets = _GATE_DRAWS + (frame << _CONCEPT_BITS) + drawn
            is_open[drawn] = philox_uniform(self._seed, offsets) < gate[drawn]
        return is_open

    def copy_state(self) -> PlanState:
        """Return a copy that later turns of knobs do not change."""
        return _copied(
            PlanState(
                self._seed,
                self._overall["strength"],
                self._overall["budget"],
                self._knobs,
                self._glide_from,
                self._glide_to,
                self._glide_start,
                self._glide_frames,
            )
        )

    def restore_state(self, state: PlanState) -> None:
        """Take over a copied state; the copy stays usable."""
        state = _copied(state)
        self._seed = state.seed
        self._overall = {"strength": state.strength, "budget": state.budget}
        self._knobs = state.knobs
        self._glide_from, self._glide_to = state.glide_from, state.glide_to
        self._glide_start, self._glide_frames = state.glide_start, state.glide_frames


def _copied(state: PlanState) -> PlanState:
    return replace(
        state,
        knobs={field: values.copy() for field, values in state.knobs.items()},
        glide_from=state.glide_from.copy(),
        glide_to=state.glide_to.copy(),
        glide_start=state.glide_start.copy(),
        glide_frames=state.glide_frames.copy(),
    )


def _check(address: str, value: float, low: float, high: float) -> None:
    if not isinstance(value, int | float) or not isfinite(value) or not low <= value <= high:
        raise ControlError(f"{address} is {value!r}, expected {low}..{high}")
    if isinstance(low, int) and value != int(value):
        raise ControlError(f"{address} is {value!r}, expected a whole number")
