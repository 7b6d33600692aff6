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
from rfm_live.concepts.targets import Concept

Array = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

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
    """What a probe sees of one block: `train` [P, D], the training `clip` that each is of [P], and `held` [M, D]."""

    train: Array
    clip: npt.NDArray[np.int64]
    held: Array


def points_of(store: ActivationStore, layer: int, pooling: str, concept: Concept, is_held: Mask) -> Points:
    """The points of `pooling` at block `layer`; clips held out are one point each, whatever the pooling."""
    each = np.arange(int((~is_held).sum()))
    if pooling in ("mean", "last"):
        rows = store.layer(pooling, layer)  # [N, D]
        return Points(rows[~is_held], each, rows[is_held])
    parts = store.layer("segments", layer)  # [N, S, D]
    train, held = parts[~is_held], parts[is_held]
    if pooling == "segments":
        return Points(train.reshape(-1, train.shape[2]), np.repeat(each, train.shape[1]), held.mean(axis=1))
    attention = learn_attention(train, concept.targets[~is_held], AttentionTraining())
    pooled = [np.stack([attention.pool(clip) for clip in side]).astype(np.float32) for side in (train, held)]
    return Points(pooled[0], each, pooled[1])


def learn_concept(
    store: ActivationStore, concept: Concept, probe: Probe, pooling: str, is_held: Mask, most_points: int | None = None
) -> ConceptDirections:
    """Directions of `concept` at every block, from the clips that `is_held` [N] does not keep back.

    `most_points` bounds what the probe learns from, for probes whose time grows with its cube: every point with the
    concept that fits into half of it, and others by chance.

    Raises:
        ValueError: the probe cannot learn from these labels, or a value is not finite.
    """
    layers = []
    for layer in range(store.layers):
        points = points_of(store, layer, pooling, concept, is_held)
        targets = concept.targets[~is_held][points.clip]
        is_with = concept.is_with[~is_held][points.clip]
        kept = _kept(is_with, most_points)
        held_targets = concept.targets[is_held]
        found = learn_direction(probe, points.train[kept], targets[kept], points.held, held_targets)
        projections = points.train @ found.vector
        own, other = projections[is_with], projections[~is_with]
        apart = np.linalg.norm(points.train[is_with].mean(axis=0) - points.train[~is_with].mean(axis=0))
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
