"""Directions from labelled activations: difference of class means, with each block's held-out score.

Used by concept learning. Formula: q[m, l] is the unit vector along mean(class m) - mean(all other classes) at block l.
Recursive feature machines will give directions of the same shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rfm_live.concepts.scores import auc

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Directions:
    """C concepts, L blocks, D width: unit vectors, distance of the class means, held-out AUC, spread of the
    projections.
    """

    vectors: Array
    """[C, L, D], unit length."""
    distance: Array
    """[C, L], length of the difference of means, in hidden units."""
    scores: Array
    """[C, L], area under the ROC curve on the held-out clips, 0..1."""
    mean: Array
    """[C, L], mean projection of the class's own training clips."""
    spread: Array
    """[C, L], standard deviation of the projection over all training clips."""


def difference_of_means(
    train: Array, labels: npt.NDArray[np.int64], held_out: Array, held_labels: npt.NDArray[np.int64]
) -> Directions:
    """Directions of the classes 0..C-1 from `train` [N, L, D] with `labels` [N], scored on `held_out` [M, L, D].

    Raises:
        ValueError: a class has no clip in one of the two sets.
    """
    classes = int(labels.max()) + 1
    parts = []
    for index in range(classes):
        own, other = train[labels == index], train[labels != index]
        own_held, other_held = held_out[held_labels == index], held_out[held_labels != index]
        if not (len(own) and len(other) and len(own_held) and len(other_held)):
            raise ValueError(f"class {index} has no clip, expected at least one in both sets")
        difference = own.mean(axis=0) - other.mean(axis=0)  # [L, D]
        distance = np.linalg.norm(difference, axis=1)  # [L]
        vector = difference / np.maximum(distance, 1e-12)[:, None]
        projected = np.einsum("nld,ld->nl", train, vector)
        scores = auc(np.einsum("nld,ld->nl", own_held, vector), np.einsum("nld,ld->nl", other_held, vector))
        parts.append((vector, distance, scores, projected[labels == index].mean(axis=0), projected.std(axis=0)))
    columns = [np.stack(column).astype(np.float32) for column in zip(*parts, strict=True)]
    return Directions(*columns)
