"""How directions lie to each other, and how many of them a machine found: reports of concept learning."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.floating]
Array = npt.NDArray[np.float64]


def pairwise_cosines(directions: Numbers) -> Array:
    """Cosines [L, C, C] between the concepts of `directions` [C, L, D] at every block.

    Raises:
        ValueError: a direction has no length.
    """
    lengths = np.linalg.norm(directions.astype(np.float64), axis=-1, keepdims=True)  # [C, L, 1]
    if not (lengths > 0.0).all():
        concept, layer, _ = np.unravel_index(lengths.argmin(), lengths.shape)
        raise ValueError(f"direction {concept} of layer {layer} has length 0, expected a length above 0")
    unit = directions / lengths
    return np.asarray(np.einsum("cld,eld->lce", unit, unit), np.float64)


@dataclass(frozen=True)
class Overlap:
    """The two concepts of one block that a pair of knobs would confuse most."""

    first: int
    second: int
    layer: int
    cosine: float


def closest_pairs(directions: Numbers, count: int) -> list[Overlap]:
    """The `count` pairs of `directions` [C, L, D] with the largest |cosine|, each pair at its worst block."""
    cosines = pairwise_cosines(directions)
    worst = np.abs(cosines).argmax(axis=0)  # [C, C]
    pairs = [
        Overlap(first, second, layer := int(worst[first, second]), float(cosines[layer, first, second]))
        for first, second in combinations(range(len(directions)), 2)
    ]
    return sorted(pairs, key=lambda pair: -abs(pair.cosine))[:count]


@dataclass(frozen=True)
class EigenSpectrum:
    """How an AGOP's trace is shared among its eigenvectors.

    `shares` [R] descend and sum to 1. `participation` = (sum s)^2 / sum s^2 is the effective number of directions: 1
    when the top eigenvector says it all, R when all say the same.
    """

    shares: Array
    participation: float

    def components(self, share: float) -> int:
        """How many top eigenvectors hold `share` 0..1 of the trace."""
        return min(int(np.searchsorted(np.cumsum(self.shares), share - 1e-12)) + 1, len(self.shares))


def eigen_spectrum(eigenvalues: Numbers) -> EigenSpectrum:
    """Spectrum of `eigenvalues` [R], none below 0.

    Raises:
        ValueError: an eigenvalue is negative, or all are 0.
    """
    if not ((eigenvalues >= 0.0).all() and (total := float(eigenvalues.sum())) > 0.0):
        raise ValueError(
            f"eigenvalues span {eigenvalues.min()}..{eigenvalues.max()}, expected 0 or more and one above 0"
        )
    shares = np.sort(eigenvalues.astype(np.float64))[::-1] / total
    return EigenSpectrum(shares, float(1.0 / np.square(shares).sum()))
