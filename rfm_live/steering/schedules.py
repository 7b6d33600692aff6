"""Schedules: which share of its knob a concept gets, by the time since the schedule began. Engine process, frame loop.

The curves are MusicRFM's (Zhao et al. 2025), stretched from its window of 1500 frames to any span of n frames:

linear_up    clip(t / n, 0, 1)                 exponential  0.998^(1500 t / n), 0.05 at its end
linear_down  1 - clip(t / n, 0, 1)             logistic     1 / (1 + exp(-(t - n / 2) / (2 n / 15)))
sine         (1 + sin(2 pi t / n)) / 2         breakpoints  lines between points, held before the first and after
"""

import math
import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

from rfm_live.errors import ControlError

FRAME_RATE_HZ = 50

_POINT = r"[0-9]{1,3}(\.[0-9]{1,6})?:(0(\.[0-9]{1,6})?|1(\.0{1,6})?)"
POINTS_PATTERN = rf"({_POINT}( {_POINT})*)?"
"""What a text of points looks like: "0:0 2.5:1 8:0.25", seconds below 1000 and shares 0..1."""

_FALL = 1500 * math.log(0.998)


@dataclass(frozen=True)
class Points:
    """Breakpoints in the order of their times: `frames` [P] from the begin of the schedule, `shares` [P] 0..1."""

    frames: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()

    def share(self, frame: float) -> float:
        """Value of the line at `frame`; 1 without points. At two points of one time the later in the text counts."""
        after = bisect_right(self.frames, frame)
        if after == 0:
            return self.shares[0] if self.shares else 1.0
        if after == len(self.frames):
            return self.shares[-1]
        begin, end = self.frames[after - 1 : after + 1]
        first, last = self.shares[after - 1 : after + 1]
        return first + (last - first) * (frame - begin) / (end - begin)


def read_points(address: str, value: object) -> Points:
    """Read "SECONDS:SHARE SECONDS:SHARE ..."; an empty text has no points. Raises ControlError for anything else."""
    if not isinstance(value, str) or not re.fullmatch(POINTS_PATTERN, value):
        shown = repr(value)[:60]
        raise ControlError(f"{address} is {shown}, expected points such as '0:0 2.5:1', seconds 0..999, shares 0..1")
    pairs = [(float(seconds), float(share)) for seconds, share in (point.split(":") for point in value.split())]
    pairs.sort(key=lambda pair: pair[0])  # stable: what is later in the text stays later at equal times
    return Points(tuple(seconds * FRAME_RATE_HZ for seconds, _ in pairs), tuple(share for _, share in pairs))


def span_frames(seconds: float) -> int:
    """The length of a schedule in whole frames, at least one."""
    return max(round(seconds * FRAME_RATE_HZ), 1)


@dataclass(frozen=True)
class Schedule:
    """A curve over a part of its span, 0 at its begin and 1 at its end."""

    curve: Callable[[float], float]
    span: float

    @classmethod
    def of(cls, shape: str, span: int, points: Points) -> "Schedule":
        """The curve named `shape`, one of SHAPES, over `span` frames; breakpoints have frames of their own."""
        return cls(points.share, 1) if shape == "breakpoints" else cls(_CURVES[shape], span)

    @classmethod
    def of_fade(cls, shape: str, span: int) -> "Schedule":
        """The share of the concept that a cross-fade leads to; the other gets the rest to 1. `shape` of FADE_SHAPES."""
        return cls(_FADES[shape], span)

    def share(self, frame: float) -> float:
        """phi(t), `frame` frames after the begin: 0..1."""
        return self.curve(frame / self.span)


def _rise(part: float) -> float:
    return part if part < 1.0 else 1.0


def _logistic(part: float) -> float:
    return 1.0 / (1.0 + math.exp(-(part - 0.5) * 7.5)) if part < 50.0 else 1.0


_CURVES: dict[str, Callable[[float], float]] = {
    "constant": lambda part: 1.0,
    "linear_up": _rise,
    "linear_down": lambda part: 1.0 - _rise(part),
    "exponential": lambda part: math.exp(_FALL * part),
    "logistic": _logistic,
    "sine": lambda part: 0.5 * (1.0 + math.sin(2.0 * math.pi * part)),
}
_FADES: dict[str, Callable[[float], float]] = {
    "linear": _rise,
    "logistic": _logistic,
    "exponential": lambda part: 1.0 - math.exp(_FALL * part),
    "cosine": lambda part: 0.5 * (1.0 - math.cos(math.pi * _rise(part))),
}
SHAPES = (*_CURVES, "breakpoints")
FADE_SHAPES = tuple(_FADES)
