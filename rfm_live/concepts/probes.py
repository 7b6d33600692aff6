"""Probes: ways to a direction from labelled activations, all read and scored alike. Used by concept learning.

A probe turns points x [N, D] and labels y [N] into a vector [D]; `learn_direction` makes it a unit vector whose sign
agrees with the labels, calibrates its projection p = q . x to a reading of the label, slope * p + intercept, and scores
that reading on points held out. Agreement with the labels says nothing yet about what pushing along q does: the causal
check of the sign is made on generated audio.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rfm_live.concepts.rfm import RfmFit, composite_direction, search_rfm
from rfm_live.concepts.scores import is_binary, score

Array = npt.NDArray[np.float64]


class Probe(Protocol):
    """A way to a direction."""

    def fit(self, x: Array, y: Array) -> Array:
        """A vector [D], of any length and sign, from points [N, D] and labels [N], which are 0 and 1 or any numbers.

        Raises:
            ValueError: the probe cannot learn from such labels.
        """
        ...


@dataclass(frozen=True)
class ProbeDirection:
    """A direction with what a projection on it means.

    `vector` [D] has unit length. `slope` >= 0 and `intercept` turn a projection into a reading of the label. `mean` and
    `spread` (standard deviation) describe the training projections: of label 0 and label 1 for 0/1 labels, else of all
    points. `score` is AUC for 0/1 labels and R2 for others, of the reading on the points held out.
    """

    vector: Array
    slope: float
    intercept: float
    mean: Array
    spread: Array
    score: float

    def read(self, x: npt.NDArray[np.floating]) -> Array:
        """Readings [N] of points [N, D], on the scale of the labels."""
        return np.asarray(self.slope * (x @ self.vector) + self.intercept, np.float64)


def learn_direction(
    probe: Probe,
    x: npt.NDArray[np.floating],
    y: npt.NDArray[np.floating],
    x_held: npt.NDArray[np.floating],
    y_held: npt.NDArray[np.floating],
) -> ProbeDirection:
    """Direction of `probe` for `x` [N, D] and `y` [N], scored on `x_held` [M, D] and `y_held` [M]; in float64.

    Raises:
        ValueError: a value is not finite, the labels of a part do not vary, or the probe finds no direction.
    """
    points, labels, held, held_labels = (np.asarray(part, np.float64) for part in (x, y, x_held, y_held))
    for name, values in (("points", points), ("labels", labels), ("held-out points", held)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name} hold a value that is not finite")
    if not labels.std() > 0.0:
        raise ValueError(f"all {len(labels)} labels are {labels[0]:g}, expected labels that vary")
    found = probe.fit(points, labels)
    if not (length := float(np.linalg.norm(found))) > 0.0:
        raise ValueError(f"{type(probe).__name__} finds no direction, expected points that vary with the labels")
    vector = found / length
    projections = points @ vector
    slope, intercept = line_through(projections, labels)
    if slope < 0.0:
        vector, slope, projections = -vector, -slope, -projections
    groups = [projections[labels == label] for label in (0.0, 1.0)] if is_binary(labels) else [projections]
    mean, spread = np.array([group.mean() for group in groups]), np.array([group.std() for group in groups])
    readings = slope * (held @ vector) + intercept
    return ProbeDirection(vector, slope, intercept, mean, spread, score(readings[:, None], held_labels[:, None]))


def line_through(projections: Array, labels: Array) -> tuple[float, float]:
    """Slope and intercept of the least-squares line from `projections` [N] to `labels` [N]; flat where none varies."""
    around = projections - projections.mean()
    power = float(around @ around)
    slope = float(around @ labels) / power if power > 0.0 else 0.0
    return slope, float(labels.mean() - slope * projections.mean())


def _two_classes(probe: object, y: Array) -> npt.NDArray[np.bool_]:
    if not is_binary(y) or y.all() or not y.any():
        raise ValueError(f"{type(probe).__name__} has labels {np.unique(y)[:3]}, expected 0 and 1")
    return np.asarray(y == 1.0)


@dataclass(frozen=True)
class DifferenceOfMeans:
    """Mean of label 1 minus mean of label 0; for numbers the covariance of label and point, which is the same line."""

    def fit(self, x: Array, y: Array) -> Array:
        return np.asarray((y - y.mean()) @ (x - x.mean(axis=0)) / len(y))


@dataclass(frozen=True)
class LeastSquares:
    """Regression on the labels with an intercept; where N <= D the solution of least length."""

    def fit(self, x: Array, y: Array) -> Array:
        solution, *_ = np.linalg.lstsq(x - x.mean(axis=0), y - y.mean(), rcond=None)
        return np.asarray(solution)


@dataclass(frozen=True)
class SphericalLeastSquares:
    """Regression of -1 and +1 on rows scaled to unit length, without an intercept: the probe of arXiv 2506.10225.

    Solved exactly instead of by 250 epochs of Adam.
    """

    def fit(self, x: Array, y: Array) -> Array:
        signs = np.where(_two_classes(self, y), 1.0, -1.0)
        solution, *_ = np.linalg.lstsq(x / np.linalg.norm(x, axis=1, keepdims=True), signs, rcond=None)
        return np.asarray(solution)


@dataclass(frozen=True)
class Ridge:
    """Regression on the labels with penalty `strength` * mean variance of a coordinate * N * |w|^2 and an intercept.

    The penalty is relative, so it means the same for every block, whatever its scale. Solved in the smaller of the
    spaces of points and of coordinates.
    """

    strength: float = 0.1

    def fit(self, x: Array, y: Array) -> Array:
        around, labels = x - x.mean(axis=0), y - y.mean()
        penalty = self.strength * float(np.square(around).mean()) * len(x)
        if len(x) <= x.shape[1]:
            return np.asarray(around.T @ np.linalg.solve(around @ around.T + penalty * np.eye(len(x)), labels))
        return np.asarray(np.linalg.solve(around.T @ around + penalty * np.eye(x.shape[1]), around.T @ labels))


@dataclass(frozen=True)
class Logistic:
    """Logistic regression of scikit-learn on standardised coordinates; `inverse_penalty` is its C."""

    inverse_penalty: float = 1.0

    def fit(self, x: Array, y: Array) -> Array:
        from sklearn.linear_model import LogisticRegression

        _two_classes(self, y)
        spread = x.std(axis=0)
        scale = np.where(spread > 0.0, spread, 1.0)
        model = LogisticRegression(C=self.inverse_penalty, max_iter=2000)
        model.fit((x - x.mean(axis=0)) / scale, y.astype(np.int64))
        return np.asarray(model.coef_[0], np.float64) / scale


@dataclass(frozen=True)
class RandomDirection:
    """A direction that knows nothing of the labels: the control of every experiment."""

    seed: int = 0

    def fit(self, x: Array, y: Array) -> Array:
        return np.asarray(np.random.default_rng(self.seed).standard_normal(x.shape[1]))


@dataclass(frozen=True)
class RecursiveFeatures:
    """The top eigenvector of a recursive feature machine's AGOP, or the composite of the top `components`.

    The best of `draws` settings with `rounds` rounds each, by the score on a random share `validation` of the points,
    which the machine does not learn from. Labels other than 0 and 1 are standardised first.
    """

    draws: int = 10
    rounds: int = 5
    components: int = 1
    validation: float = 0.2
    seed: int = 0
    device: str = "cpu"

    def fit(self, x: Array, y: Array) -> Array:
        targets = _standardised(y)
        return composite_direction(x, targets, self.search(x, y).eigenvectors[:, : self.components])

    def search(self, x: Array, y: Array) -> RfmFit:
        """The best machine, with the eigenvectors and eigenvalues of its AGOP. Raises as `fit` does."""
        targets = _standardised(y)
        is_validation = self._validation(targets)
        return search_rfm(
            x[~is_validation],
            targets[~is_validation, None],
            x[is_validation],
            targets[is_validation, None],
            draws=self.draws,
            rounds=self.rounds,
            seed=self.seed,
            device=self.device,
        )

    def _validation(self, y: Array) -> npt.NDArray[np.bool_]:
        """Which points [N] are for validation: the same share of each class, at least one and never all."""
        rng = np.random.default_rng([self.seed, len(y)])
        chosen = np.zeros(len(y), np.bool_)
        groups = [y == 0.0, y == 1.0] if is_binary(y) else [np.ones(len(y), np.bool_)]
        for group in groups:
            members = rng.permutation(np.flatnonzero(group))
            if len(members) < 2:
                raise ValueError(f"a class has {len(members)} points, expected at least 2 to learn and to validate")
            count = min(max(round(self.validation * len(members)), 1), len(members) - 1)
            chosen[members[:count]] = True
        return chosen


def _standardised(y: Array) -> Array:
    """0 and 1 as they are, other numbers with mean 0 and spread 1."""
    return y if is_binary(y) else (y - y.mean()) / y.std()
