"""From the hidden states of a clip to points that a probe can learn from: mean, last, segments, learned attention.

Used by concept learning. States are float [T, D], one row per 20 ms frame. A direction learned on any of these points
lives in the space of a single frame's state, so it can be added there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

States = npt.NDArray[np.floating]
Array = npt.NDArray[np.float64]


def pool_mean(states: States) -> Array:
    """Mean [D] over all frames of `states` [T, D]."""
    return np.asarray(states.mean(axis=0, dtype=np.float64))


def pool_last(states: States) -> Array:
    """The last frame [D] of `states` [T, D]."""
    return np.asarray(states[-1], np.float64)


def pool_segments(states: States, segments: int) -> Array:
    """Means [S, D] of `segments` parts of `states` [T, D] in order, whose lengths differ by at most one frame.

    Each part is a point of its own with its clip's label: more points from few clips.

    Raises:
        ValueError: there are more segments than frames, or none.
    """
    if not 1 <= segments <= len(states):
        raise ValueError(f"segments is {segments}, expected 1..{len(states)}")
    return np.stack([pool_mean(part) for part in np.array_split(states, segments)])


@dataclass(frozen=True)
class AttentionPooling:
    """Mean over frames weighted by softmax_t(query . (h_t - centre) / scale): frames that tell the concept count more.

    `query`, `centre` and `scale` are [D]. A query of zeros is `pool_mean`.
    """

    query: Array
    centre: Array
    scale: Array

    def weights(self, states: States) -> Array:
        """Weights [T] of the frames of `states` [T, D]; they sum to 1."""
        logits = ((states - self.centre) / self.scale) @ self.query
        raised = np.exp(logits - logits.max())
        return np.asarray(raised / raised.sum(), np.float64)

    def pool(self, states: States) -> Array:
        """Point [D] of `states` [T, D]."""
        return self.weights(states) @ states


@dataclass(frozen=True)
class AttentionTraining:
    """How the query is learned: Adam steps over all clips at once, with a penalty on query and probe alike.

    `penalty` is that on the squared length of both, the query in units of 1 / sqrt(D).
    """

    steps: int = 200
    rate: float = 0.05
    penalty: float = 1e-3


def learn_attention(states: States, y: npt.NDArray[np.floating], training: AttentionTraining) -> AttentionPooling:
    """Query that a linear probe of the pooled point likes best, for clips `states` [N, T, D] with labels `y`.

    Labels are [N], or [N, O] for O things that share one query. The probe w and the query u minimise the mean square
    error of w . pooled + b for the standardised labels, and start at zero query, that is at the mean; nothing is
    random. The probe is dropped: any probe may learn on the points.

    Raises:
        ValueError: the labels do not vary.
    """
    y = y.reshape(len(y), -1)
    if not (y.std(axis=0) > 0.0).all():
        column = int(y.std(axis=0).argmin())
        raise ValueError(f"all {len(y)} labels are {y[0, column]:g}, expected labels that vary")
    centre, scale = states.mean(axis=(0, 1), dtype=np.float64), states.std(axis=(0, 1), dtype=np.float64)
    scale = np.where(scale > 0.0, scale, 1.0)
    frames = torch.as_tensor((states - centre) / scale, dtype=torch.float32)  # [N, T, D]
    labels = torch.as_tensor((y - y.mean(axis=0)) / y.std(axis=0), dtype=torch.float32)  # [N, O]
    width = frames.shape[2]
    query, bias = torch.zeros(width, requires_grad=True), torch.zeros(y.shape[1], requires_grad=True)
    start = frames.mean(dim=1).T @ labels / len(labels)  # [D, O]: differences of means, so that the query has a slope
    probe = start.clone().requires_grad_(True)
    adam = torch.optim.Adam([query, probe, bias], lr=training.rate)
    for _ in range(training.steps):
        adam.zero_grad()
        error = torch.nn.functional.mse_loss(_attend(frames, query) @ probe + bias, labels)
        loss = error + training.penalty * (query.square().sum() + probe.square().sum())
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
    return AttentionPooling(query.detach().double().numpy() / np.sqrt(width), centre, scale)


def _attend(frames: Tensor, query: Tensor) -> Tensor:
    """Pooled points [N, D] of `frames` [N, T, D] under `query` [D] in units of 1 / sqrt(D)."""
    weights = torch.softmax(frames @ query / frames.shape[2] ** 0.5, dim=1)  # [N, T]
    return torch.einsum("nt,ntd->nd", weights, frames)
