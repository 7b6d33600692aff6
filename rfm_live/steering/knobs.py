"""The plan's knobs: names, domains and defaults, as the control table has them. Used by the steering plan.

A knob is a number in an array [C] (per concept) or in a dict (overall); a choice is its place among the options.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np

from rfm_live.errors import ControlError
from rfm_live.steering.bank import PERIODS
from rfm_live.steering.layer_weights import FORMS
from rfm_live.steering.orthogonal import METHODS
from rfm_live.steering.schedules import FADE_SHAPES, SHAPES

MODES = ("add", "blend", "clamp")
ROWS = ("both", "conditional")
BUDGETS = ("eta", "norm")
ALL = "all"
"""The layer form of a concept that goes by the overall one."""


@dataclass(frozen=True)
class Range:
    """Numbers low..high; whole ones where `low` is an int."""

    low: float
    high: float
    default: float

    def check(self, address: str, value: object) -> float:
        """Return the value as a float. Raises ControlError outside the domain."""
        if not isinstance(value, int | float) or not isfinite(value) or not self.low <= value <= self.high:
            raise ControlError(f"{address} is {value!r}, expected {self.low}..{self.high}")
        if isinstance(self.low, int) and value != int(value):
            raise ControlError(f"{address} is {value!r}, expected a whole number, {self.low}..{self.high}")
        return float(value)


@dataclass(frozen=True)
class Choice:
    """One of `options`; the default is the first."""

    options: tuple[str, ...]
    default: float = 0.0

    def check(self, address: str, value: object) -> float:
        """Return the option's place. Raises ControlError for a value that is none."""
        if value not in self.options:
            raise ControlError(f"{address} is {value!r}, expected one of {', '.join(self.options)}")
        return float(self.options.index(str(value)))


def _single(value: float) -> float:
    """The value as the control surfaces carry it, so that telling a default changes no sample."""
    return float(np.float32(value))


_LAYER_FIELDS: dict[str, Range] = {
    "layers_k": Range(1, 64, 8),
    "layers_kappa": Range(0.0625, 1.0, _single(0.95)),
    "layers_w0": Range(0.0, 4.0, 1.0),
}
_SECONDS = Range(0.125, 600.0, 30.0)

CONCEPT_FIELDS: dict[str, Range | Choice] = {
    "eta": Range(-2.0, 2.0, 0.0),
    "on": Range(0, 1, 1),
    "solo": Range(0, 1, 0),
    "gate": Range(0.0, 1.0, 1.0),
    "period": Range(*PERIODS, 1),
    "slew": Range(0.0, 10_000.0, 60.0),
    "mode": Choice(MODES),
    "target": Range(0.0, 1.0, 1.0),
    "rows": Choice(ROWS),
    "layers": Choice((ALL, *FORMS)),
    **_LAYER_FIELDS,
    "schedule": Choice(SHAPES),
    "schedule_seconds": _SECONDS,
}
"""Beside these a concept has `schedule_points`, a text, and `schedule_start`, a trigger."""

RESHAPING = frozenset({"mode", "target", "rows", "layers", *_LAYER_FIELDS, "orthogonal", "budget_of"})
"""Fields that change coefficients, modes, targets or rows other than through eta."""


def overall_fields(concepts: Sequence[str]) -> dict[str, Range | Choice]:
    """The knobs that no single concept owns, for a bank of these concepts."""
    names = Choice(("", *concepts))
    return {
        "strength": Range(0.0, 2.0, 1.0),
        "budget": Range(0.0, 4.0, 4.0),
        "budget_of": Choice(BUDGETS),
        "orthogonal": Choice(METHODS),
        "layers": Choice(FORMS),
        **_LAYER_FIELDS,
        "crossfade/from": names,
        "crossfade/to": names,
        "crossfade/seconds": _SECONDS,
        "crossfade/shape": Choice(FADE_SHAPES),
        "crossfade/on": Range(0, 1, 0),
    }
