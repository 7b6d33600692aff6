"""Bootstrap intervals: how sure a figure is that was measured on so many clips. Used by the evaluation of steering."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.floating]
RESAMPLES = 5000


@dataclass(frozen=True)
class Interval:
    """A figure and the ends of its interval."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the distance of the ends."""
        return (self.high - self.low) / 2.0

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean_interval(values: Sequence[float], level: float = 0.95, seed: int = 0) -> Interval:
    """Mean of `values`, one per clip, and its percentile interval (Efron 1979): the same for the same seed.

    Raises:
        ValueError: there are no values, or `level` lies outside 0..1.
    """
    data = np.asarray(values, np.float64)
    if not data.size:
        raise ValueError("there are 0 values, expected 1 or more")
    draws = np.random.default_rng(seed).choice(data, (RESAMPLES, len(data))).mean(axis=1)
    low, high = np.quantile(draws, _tails(level))
    return Interval(float(data.mean()), float(low), float(high))


def difference_interval(
    values: Sequence[float], others: Sequence[float], level: float = 0.95, seed: int = 0
) -> Interval:
    """Mean of `values` less that of `others`, clip by clip: both were played with the same seeds, in the same order.

    Raises:
        ValueError: they differ in number, or there are none.
    """
    if len(values) != len(others):
        raise ValueError(f"{len(values)} values stand against {len(others)}, expected as many")
    return mean_interval(np.subtract(values, others).tolist(), level, seed)


def distance_interval(
    distance: Callable[[Rows, Rows], float],
    reference: Rows,
    rows: Rows,
    groups: npt.NDArray[np.integer] | None = None,
    level: float = 0.95,
    resamples: int = 200,
    seed: int = 0,
) -> Interval:
    """The `distance` of `rows` [N, D] to `reference` [M, D], and its interval over clips.

    `groups` [N] names the clip of every row; whole clips are drawn, for the rows of one clip are alike. A set drawn
    with repetition lies farther from the reference than the set itself, so the interval is moved back by the mean
    excess.
    """
    rng = np.random.default_rng(seed)
    groups = np.arange(len(rows)) if groups is None else groups
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    value, draws = distance(reference, rows), []
    for _ in range(resamples):
        drawn = np.concatenate([members[place] for place in rng.integers(0, len(members), len(members))])
        draws.append(distance(reference, rows[drawn]))
    low, high = np.quantile(draws, _tails(level)) - np.mean(draws) + value
    return Interval(value, float(low), float(high))


def _tails(level: float) -> tuple[float, float]:
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level}, expected between 0 and 1")
    return (1.0 - level) / 2.0, (1.0 + level) / 2.0
