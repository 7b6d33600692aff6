"""How far one set of music lies from another: Frechet distance and squared MMD of two sets of embeddings.

Used by the evaluation of steering. The embeddings have names of their own (`embeddings`), and so have the distances:
`fd_mel` or `mmd_hidden`, never FAD, which is the name for one embedding that we do not have.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.floating]
Array = npt.NDArray[np.float64]


def frechet_distance(reference: Rows, rows: Rows) -> float:
    """Squared Frechet distance of the normal distributions with the moments of `reference` [M, D] and `rows` [N, D].

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))  (Dowson and Landau 1982), the root's trace taken as that of the
    symmetric (R C2 R)^(1/2) with R = C1^(1/2). It is biased upwards by about D over the number of rows: compare sets of
    equal size, of many more rows than D.

    Raises:
        ValueError: a set has fewer than 2 rows, the widths differ, or a value is not finite.
    """
    first, second = _checked(reference, rows)
    gap = first.mean(axis=0) - second.mean(axis=0)
    one, other = np.atleast_2d(np.cov(first.T)), np.atleast_2d(np.cov(second.T))  # [D, D]
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ other @ root), 0.0)).sum()
    return float(gap @ gap + np.trace(one) + np.trace(other) - 2.0 * shared)


def median_distance(reference: Rows) -> float:
    """The median of all distances between two rows of `reference` [M, D]: the bandwidth of `squared_mmd`.

    Raises:
        ValueError: as `frechet_distance`, and when more than half of the pairs are equal.
    """
    rows, _ = _checked(reference, reference)
    bandwidth = float(np.median(np.sqrt(_pairs(rows))))
    if not bandwidth > 0.0:
        raise ValueError(f"the median distance of {len(reference)} rows is {bandwidth}, expected above 0")
    return bandwidth


def squared_mmd(reference: Rows, rows: Rows, bandwidth: float | None = None) -> float:
    """Unbiased squared maximum mean discrepancy of `reference` [M, D] and `rows` [N, D]; below 0 when they are alike.

    mean k(x, x') + mean k(y, y') - 2 mean k(x, y) over unequal pairs, with k = exp(-|x - y|^2 / (2 bandwidth^2))
    (Gretton et al. 2012, lemma 6). `bandwidth` None takes the reference's `median_distance`, so that sets that are
    compared with one reference are measured alike.

    Raises:
        ValueError: as `frechet_distance` and `median_distance`.
    """
    first, second = _checked(reference, rows)
    scale = -0.5 / (median_distance(first) if bandwidth is None else bandwidth) ** 2
    within = [float(np.exp(scale * _pairs(each)).mean()) for each in (first, second)]
    return sum(within) - 2.0 * float(np.exp(scale * _squared_distances(first, second)).mean())


def _squared_distances(first: Array, second: Array) -> Array:
    """Squared distances [M, N] between the rows of two sets."""
    centre = first.mean(axis=0)  # small distances would drown in the squares of large values
    first, second = first - centre, second - centre
    squares = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1)
    return np.asarray(np.maximum(squares - 2.0 * first @ second.T, 0.0))


def _pairs(rows: Array) -> Array:
    """Squared distances [N (N - 1) / 2] between the rows of one set."""
    return np.asarray(_squared_distances(rows, rows)[np.triu_indices(len(rows), 1)])


def _checked(reference: Rows, rows: Rows) -> tuple[Array, Array]:
    for name, each in (("reference", reference), ("rows", rows)):
        if each.ndim != 2 or len(each) < 2:
            raise ValueError(f"{name} has the shape {list(each.shape)}, expected 2 rows or more of one width")
        if not np.isfinite(each).all():
            raise ValueError(f"{name} holds a value that is not finite")
    if reference.shape[1] != rows.shape[1]:
        raise ValueError(f"rows are {rows.shape[1]} wide, the reference is {reference.shape[1]}")
    return reference.astype(np.float64), rows.astype(np.float64)
