"""The arithmetic of the experiments: fronts, crossings, shares of an effect, curves at equal height. numpy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rfm_live.concepts.intervals import RESAMPLES, Interval

Floats = npt.NDArray[np.floating]


def pareto_front(control: Sequence[float], drift: Sequence[float]) -> list[int]:
    """Places of the points that no other beats: as much control with less drift, or more with as little.

    In the order of rising control. Of equal points the first counts.
    """
    order = sorted(range(len(control)), key=lambda place: (-control[place], drift[place], place))
    front: list[int] = []
    for place in order:
        if not front or drift[place] < drift[front[-1]]:
            front.append(place)
    return front[::-1]


def crossing_frame(leaving: Floats, joining: Floats) -> int | None:
    """The frame from which on `joining` [T] lies above `leaving` [T]; None where it never does, or always.

    Of noisy traces, that which leaves the fewest frames on the wrong side; of equal ones the middle one.
    """
    is_above = np.asarray(joining) > np.asarray(leaving)  # [T]
    before = np.concatenate(([0], np.cumsum(is_above)))  # wrong before the frame
    after = np.concatenate((np.cumsum(~is_above[::-1])[::-1], [0]))  # wrong from the frame on
    best = np.flatnonzero(before + after == (before + after).min())
    frame = int(best[(len(best) - 1) // 2])
    return frame if 0 < frame < len(is_above) else None


def smoothed(trace: Floats, width: int) -> npt.NDArray[np.float64]:
    """Running mean of `trace` [T] over half of `width` frames before and behind each, of those that there are."""
    summed = np.concatenate(([0.0], np.cumsum(trace, dtype=np.float64)))
    places = np.arange(len(trace))
    first, last = np.maximum(places - width // 2, 0), np.minimum(places + width // 2 + 1, len(trace))
    return np.asarray((summed[last] - summed[first]) / (last - first), np.float64)


def height_at(x: Sequence[float], y: Sequence[float], at: float) -> float | None:
    """The curve through the points (x, y) at `at`, by straight lines in the order of x; None outside its ends."""
    order = np.argsort(x, kind="stable")
    xs, ys = np.asarray(x, np.float64)[order], np.asarray(y, np.float64)[order]
    return float(np.interp(at, xs, ys)) if len(xs) and xs[0] <= at <= xs[-1] else None


def share_interval(
    together: Sequence[float], single: Sequence[float], level: float = 0.95, seed: int = 0
) -> Interval | None:
    """Which share of its single effect a concept keeps beside others: mean of `together` over mean of `single`.

    Both are changes against the unsteered clips of the same seeds, in one order; clips are drawn together (Efron 1979).
    None where the single effect is none, or in over a tenth of the draws: a share of nothing means nothing.

    Raises:
        ValueError: they differ in number, or there are none.
    """
    pairs = np.asarray([together, single], np.float64)  # raises for unequal lengths
    if not pairs.size:
        raise ValueError("there are 0 values, expected 1 or more")
    places = np.random.default_rng(seed).integers(0, pairs.shape[1], (RESAMPLES, pairs.shape[1]))
    above, below = pairs[:, places].mean(axis=2)
    usable = below > 0.0
    if not pairs[1].mean() > 0.0 or usable.mean() < 0.9:
        return None
    low, high = np.quantile(above[usable] / below[usable], ((1.0 - level) / 2.0, (1.0 + level) / 2.0))
    return Interval(float(pairs[0].mean() / pairs[1].mean()), float(low), float(high))
