"""How far steered music has drifted from unsteered music of the same prompts and seeds. Used by the experiments.

`fd_mel` and `fd_hidden` are Frechet distances, `mmd_hidden` is the squared MMD, each between second-long rows of the
named embedding. They are biased upwards where clips are few: read them beside the floor, which is the distance between
two unsteered sets of as many clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from rfm_live.concepts.distances import frechet_distance, median_distance, squared_mmd
from rfm_live.concepts.embeddings import stacked
from rfm_live.concepts.intervals import Interval, distance_interval
from rfm_live.experiments.conditions import Record

Rows = npt.NDArray[np.floating]
RESAMPLES = 100


@dataclass(frozen=True)
class Drift:
    """Distances to unsteered music with 95 % intervals over clips."""

    fd_mel: Interval
    fd_hidden: Interval
    mmd_hidden: Interval


def drift(records: Sequence[Record], unsteered: Sequence[Record], resamples: int = RESAMPLES) -> Drift:
    """The drift of clips from unsteered ones; both with two rows of a second or more."""
    found = {}
    for name, embedding in (("fd_mel", "mel"), ("fd_hidden", "hidden"), ("mmd_hidden", "hidden")):
        (rows, groups), (reference, _) = (
            stacked([record[embedding] for record in part]) for part in (records, unsteered)
        )
        rows, reference = shared_space(rows, reference)
        distance = frechet_distance
        if name == "mmd_hidden":
            distance = partial(squared_mmd, bandwidth=median_distance(reference))
        found[name] = distance_interval(distance, reference, rows, groups, resamples=resamples)
    return Drift(**found)


def shared_space(first: Rows, second: Rows) -> tuple[Rows, Rows]:
    """Rows [M, D] and [N, D] in coordinates of the space that they span, at most M + N: all distances stay as they are.

    Moments of wide embeddings are costly, and all but M + N of their dimensions are empty.
    """
    both = np.concatenate((first, second)).astype(np.float64)
    centre = both.mean(axis=0)
    if both.shape[1] <= len(both):
        return both[: len(first)] - centre, both[len(first) :] - centre
    axes, _ = np.linalg.qr((both - centre).T)  # [D, M + N]
    turned = (both - centre) @ axes
    return turned[: len(first)], turned[len(first) :]
