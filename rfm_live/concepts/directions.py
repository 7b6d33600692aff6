"""One direction per block for a concept, from stored activations, scored on groups that were held out.

Used by concept learning. What a direction is added to is a frame's hidden state, so every pooling gives points in that
space: means, last frames, means of segments (each a point of its own), or means weighted by learned attention.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from rfm_live.concepts.activations import ActivationStore
from rfm_live.concepts.pooling import AttentionTraining, learn_attention
from rfm_live.concepts.probes import Probe, learn_direction
from rfm_live.concepts.splits import Mask, Split
from rfm_live.concepts.targets import Concept

Array = npt.NDArray[np.float32]

POOLINGS = ("mean", "last", "segments", "attention")


@dataclass(frozen=True)
class ConceptDirections:
    """One concept at L blocks of width D.

    `vectors` [L, D] have unit length. `distance` [L] is how far the mean of the clips with the concept lies from that
    of the others, in hidden units. `scores` [L] are AUC or R2 on the held-out clips, 0..1 (below 0 counts as 0).
    `mean` and `spread` [L] describe the training projections of the clips with the concept, `other_mean` and
    `other_spread` those of the clips without.
    """

    vectors: Array
    distance: Array
    scores: Array
    mean: Array
    spread: Array
    other_mean: Array
    other_spread: Array

    def flipped(self) -> ConceptDirections:
        """The same lines, walked the other way."""
        return replace(self, vectors=-self.vectors, mean=-self.mean, other_mean=-self.other_mean)


@dataclass(frozen=True)
class Points:
    """What a probe sees of one block: points `x` [P, D] with targets `y` [P], and `held` [M, D], one per clip.

    `is_with` [P] tells the points of clips that have the concept.
    """

    x: Array
    y: npt.NDArray[np.float64]
    is_with: Mask
    held: Array


def points_of(
    store: ActivationStore, layer: int, pooling: str, concept: Concept, split: Split, most: int | None = None
) -> Points:
    """The points of `pooling` at block `layer`, of the clips that `split` lets learn from.

    `most` bounds them, for probes whose time grows with their cube: every point with the concept that fits into half of
    it, and others by chance.
    """
    x, held, repeats = _pooled(store, layer, pooling, concept, split)
    y, is_with = (np.repeat(values[split.is_train], repeats) for values in (concept.targets, concept.is_with))
    kept = _kept(is_with.astype(np.bool_), most)
    return Points(x[kept], y[kept].astype(np.float64), is_with[kept].astype(np.bool_), held)


def _pooled(
    store: ActivationStore, layer: int, pooling: str, concept: Concept, split: Split
) -> tuple[Array, Array, int]:
    """Training points, held-out points, and how many training points there are to a clip."""
    if pooling in ("mean", "last"):
        rows = store.layer(pooling, layer)  # [N, D]
        return rows[split.is_train], rows[split.is_held], 1
    parts = store.layer("segments", layer)  # [N, S, D]
    train, held = parts[split.is_train], parts[split.is_held]
    if pooling == "segments":
        return train.reshape(-1, train.shape[2]), held.mean(axis=1), train.shape[1]
    attention = learn_attention(train, concept.targets[split.is_train], AttentionTraining())
    first, second = (np.stack([attention.pool(clip) for clip in side]).astype(np.float32) for side in (train, held))
    return first, second, 1


def learn_concept(
    store: ActivationStore, concept: Concept, probe: Probe, pooling: str, split: Split, most: int | None = None
) -> ConceptDirections:
    """Directions of `concept` at every block from its `points_of`, scored on the clips that are held out.

    Raises:
        ValueError: the probe cannot learn from these labels, or a value is not finite.
    """
    layers = []
    for layer in range(store.layers):
        points = points_of(store, layer, pooling, concept, split, most)
        found = learn_direction(probe, points.x, points.y, points.held, concept.targets[split.is_held])
        projections = points.x @ found.vector
        own, other = projections[points.is_with], projections[~points.is_with]
        apart = np.linalg.norm(points.x[points.is_with].mean(axis=0) - points.x[~points.is_with].mean(axis=0))
        score = max(found.score, 0.0)
        layers.append((found.vector, apart, score, own.mean(), own.std(), other.mean(), other.std()))
    return ConceptDirections(*(np.stack(column).astype(np.float32) for column in zip(*layers, strict=True)))


def _kept(is_with: Mask, most: int | None) -> Mask:
    """Which of P points to learn from [P]: at most `most`, at least half of them with the concept where there are."""
    if most is None or len(is_with) <= most:
        return np.ones(len(is_with), np.bool_)
    rng = np.random.default_rng(len(is_with))
    kept = np.zeros(len(is_with), np.bool_)
    own, other = rng.permutation(np.flatnonzero(is_with)), rng.permutation(np.flatnonzero(~is_with))
    own = own[: max(most // 2, most - len(other))]
    kept[own], kept[other[: most - len(own)]] = True, True
    return kept
