"""Recursive feature machines: kernel ridge regression whose metric is learned from its own gradients.

Used by concept learning. The method is that of Radhakrishnan, Beaglehole, Pandit and Belkin (Science 383:1461, 2024) as
MusicRFM (arXiv 2510.19127, section 3) uses it on hidden states. One round, for points x_i [D] with targets y_i [O]:

    K(x, z) = exp(-|x - z|_P^q / L^q)          |v|_P^2 = v' P v,  P = M^(2 alpha),  P = 1 in the first round
    (K(X, X) + lambda 1) w = y                 f(x) = K(x, X) w
    M = mean of g g' over points and outputs   g = gradient of f at a training point; "AGOP"; centred: g - mean g

`bandwidth` is L in units of the median distance of the round, so neither the scale of the activations nor that of M
matters, and the result turns with the points. All of it runs in float64, on the device that is asked for; the kernel
takes N^2 * 8 bytes and each round N^3 / 3 + 4 N^2 D operations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rfm_live.concepts.scores import score

Array = npt.NDArray[np.float64]
Points = npt.NDArray[np.floating]

_COINCIDENT = 8 * torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class RfmSettings:
    """The hyper-parameters of one machine.

    `bandwidth` L > 0 in medians of the distance, `ridge` lambda > 0, kernel exponent q in (0, 2], `power` alpha > 0
    (1/2 takes the AGOP itself as the metric), `centred` gradients, `rounds` of the metric after the first machine.
    """

    bandwidth: float = 1.0
    ridge: float = 1e-3
    exponent: float = 1.0
    power: float = 0.5
    centred: bool = False
    rounds: int = 5

    def __post_init__(self) -> None:
        for name in ("bandwidth", "ridge", "exponent", "power"):
            if not 0.0 < (value := getattr(self, name)) < np.inf:
                raise ValueError(f"{name} is {value}, expected a number above 0")
        if self.exponent > 2.0:
            raise ValueError(f"exponent is {self.exponent}, expected a number up to 2")
        if self.rounds < 0:
            raise ValueError(f"rounds is {self.rounds}, expected 0 or more")


@dataclass(frozen=True)
class KernelMachine:
    """f(x) = sum_i K(x, points_i) weights_i, for `points` [N, D] and `weights` [N, O], with gradients in closed form.

    `metric` is P [D, D], symmetric and not negative, or None for the identity; `bandwidth` is L as a length under P.
    """

    points: Tensor
    weights: Tensor
    metric: Tensor | None
    bandwidth: float
    exponent: float

    def predict(self, x: Tensor) -> Tensor:
        """f at `x` [B, D] -> [B, O]."""
        return kernel(squared_distances(x, self.points, self.metric), self.bandwidth, self.exponent) @ self.weights

    def gradients(self, x: Tensor) -> Iterator[Tensor]:
        """Gradients of f at `x` [B, D], one output after another: O times [B, D].

        grad f(x) = -(q / L^q) sum_i w_i K(x, x_i) |x - x_i|^(q - 2) P (x - x_i); a point that coincides with x_i, where
        the kernel has a cusp, adds nothing.
        """
        q = self.exponent
        squared = squared_distances(x, self.points, self.metric)
        pull = kernel(squared, self.bandwidth, q) * (-q / self.bandwidth**q)
        pull *= torch.where(squared > 0, squared, torch.inf) ** (q / 2 - 1) if q < 2 else 1.0  # [B, N]
        for output in range(self.weights.shape[1]):
            weighted = pull * self.weights[:, output]
            slope = weighted.sum(dim=1, keepdim=True) * x - weighted @ self.points  # [B, D]
            yield slope if self.metric is None else slope @ self.metric

    def agop(self, centred: bool) -> Tensor:
        """Average gradient outer product [D, D] over the machine's own points and outputs."""
        return average_outer_product(self.gradients(self.points), centred)


def squared_distances(x: Tensor, z: Tensor, metric: Tensor | None) -> Tensor:
    """(x - z)' P (x - z) of every pair of `x` [A, D] and `z` [B, D] -> [A, B], exactly 0 where they coincide."""
    centre = z.mean(dim=0)  # distances do not change, cancellation shrinks
    x, z = x - centre, z - centre
    pulled = x if metric is None else x @ metric
    x_length = (pulled * x).sum(dim=1)[:, None]
    z_length = ((z if metric is None else z @ metric) * z).sum(dim=1)[None]
    squared = x_length + z_length - 2.0 * pulled @ z.T
    return torch.where(squared > _COINCIDENT * (x_length + z_length), squared, 0.0)


def kernel(squared: Tensor, bandwidth: float, exponent: float) -> Tensor:
    """Generalised Laplace kernel exp(-(d / L)^q) of squared distances d^2 (arXiv 2510.19127, K_{2,q})."""
    return torch.exp(-((squared / bandwidth**2) ** (exponent / 2)))


def average_outer_product(gradients: Iterator[Tensor], centred: bool) -> Tensor:
    """Mean of g g' over all rows of `gradients`, each [B, D] -> [D, D]; `centred` takes the mean of all rows off first.

    The gradients [1, 0] and [0, 1] give diag(1/2, 1/2), and centred [[1, -1], [-1, 1]] / 4.
    """
    outer, total, count = None, torch.zeros(()), 0
    for rows in gradients:
        product = rows.T @ rows
        outer = product if outer is None else outer + product
        total, count = total.to(rows) + rows.sum(dim=0), count + len(rows)
    if outer is None:
        raise ValueError("there are no gradients, expected at least one")
    mean = total / count
    agop = outer / count - torch.outer(mean, mean) if centred else outer / count
    return (agop + agop.T) / 2


def median_distance(squared: Tensor) -> float:
    """Median distance of all pairs i != j from squared distances [N, N]."""
    apart = ~torch.eye(len(squared), dtype=torch.bool, device=squared.device)
    return float(squared[apart].median().sqrt())


def metric_of(agop: Tensor, power: float) -> Tensor:
    """P = M^(2 alpha), with M scaled to a largest entry of 1 so that no round under- or overflows."""
    scaled = agop / agop.abs().max()
    if power == 0.5:
        return scaled
    values, vectors = torch.linalg.eigh(scaled)
    powers = values.clamp(min=0.0) ** (2.0 * power)
    metric: Tensor = (vectors * powers) @ vectors.T
    return metric


def fit_machine(x: Tensor, y: Tensor, metric: Tensor | None, settings: RfmSettings) -> KernelMachine:
    """Kernel ridge regression of `y` [N, O] on `x` [N, D] under `metric`.

    Raises:
        ValueError: more than half of the pairs coincide under the metric.
    """
    squared = squared_distances(x, x, metric)
    median = median_distance(squared)
    if not median > 0.0:
        raise ValueError("more than half of the pairs of points coincide, expected points that differ")
    bandwidth = settings.bandwidth * median
    gram = kernel(squared, bandwidth, settings.exponent)
    gram.diagonal().add_(settings.ridge)
    weights = torch.cholesky_solve(y, torch.linalg.cholesky(gram))
    return KernelMachine(x, weights, metric, bandwidth, settings.exponent)


def machines(x: Tensor, y: Tensor, settings: RfmSettings) -> Iterator[tuple[KernelMachine, Tensor]]:
    """The machine of every round and its AGOP [D, D], `rounds` + 1 of them for `x` [N, D] and `y` [N, O].

    Ends early when nothing can follow: the gradients vanish, or the learned metric lets most points coincide.

    Raises:
        ValueError: the points coincide before anything is learned.
    """
    metric = None
    for _ in range(settings.rounds + 1):
        try:
            machine = fit_machine(x, y, metric, settings)
        except ValueError:
            if metric is None:
                raise
            return
        agop = machine.agop(settings.centred)
        yield machine, agop
        if not float(agop.abs().max()) > 0.0:
            return
        metric = metric_of(agop, settings.power)


@dataclass(frozen=True)
class RowSpace:
    """Orthonormal `basis` [D, R] of the span of points around `centre` [D]; distances within it are those outside."""

    centre: Tensor
    basis: Tensor

    @classmethod
    def of(cls, x: Tensor) -> RowSpace:
        """The space that the differences of the rows of `x` [N, D] span, R <= min(N - 1, D)."""
        centre = x.mean(dim=0)
        _, lengths, rows = torch.linalg.svd(x - centre, full_matrices=False)
        rank = int((lengths > lengths[0] * max(x.shape) * torch.finfo(x.dtype).eps).sum())
        return cls(centre, rows[:rank].T.contiguous())

    def reduce(self, x: Tensor) -> Tensor:
        """Coordinates [N, R] of `x` [N, D]."""
        return (x - self.centre) @ self.basis


@dataclass(frozen=True)
class RfmFit:
    """The best round of a machine: what it scored on the validation points, and its AGOP's eigenvectors.

    `eigenvalues` [R] descend and `eigenvectors` [D, R] are unit columns in the space of the activations; `scores` has
    one number per round: AUC for labels 0 and 1 (mean over classes), else R2.
    """

    settings: RfmSettings
    scores: tuple[float, ...]
    eigenvalues: Array
    eigenvectors: Array
    machine: KernelMachine
    space: RowSpace | None

    @property
    def best_round(self) -> int:
        return int(np.argmax(self.scores))

    @property
    def score(self) -> float:
        return max(self.scores)

    def predict(self, x: Points) -> Array:
        """f at `x` [B, D] -> [B, O]. Points off the row space are seen by their projection on it."""
        rows = torch.as_tensor(x, dtype=torch.float64, device=self.machine.points.device)
        return self.machine.predict(rows if self.space is None else self.space.reduce(rows)).cpu().numpy()


def fit_rfm(
    x: Points, y: Points, x_validation: Points, y_validation: Points, settings: RfmSettings, device: str = "cpu"
) -> RfmFit:
    """Fit `x` [N, D] to `y` [N, O] and keep the round that scores best on `x_validation` [V, D], `y_validation` [V, O].

    Several classes are O one-hot columns, which share one AGOP; a tempo is one column of numbers. Where N + V <= D the
    work is done in the row space of all points, which leaves every distance, and so the result, as it is.

    Raises:
        ValueError: shapes disagree, a value is not finite, or there is nothing to learn or to score.
    """
    _check(x, y, x_validation, y_validation)
    train, targets, held = (torch.as_tensor(part, dtype=torch.float64, device=device) for part in (x, y, x_validation))
    space = RowSpace.of(torch.cat((train, held))) if len(train) + len(held) <= train.shape[1] else None
    if space is not None:
        train, held = space.reduce(train), space.reduce(held)
    scores: list[float] = []
    best: tuple[KernelMachine, Tensor] | None = None
    for machine, agop in machines(train, targets, settings):
        scores.append(score(machine.predict(held).cpu().numpy(), y_validation))
        if scores[-1] > max(scores[:-1], default=-np.inf):
            best = (machine, agop)
    if best is None:
        raise ValueError(f"no round has a score, found {scores}")
    values, vectors = torch.linalg.eigh(best[1])
    values, vectors = values.flip(0).clamp(min=0.0), vectors.flip(1)
    lifted = vectors if space is None else space.basis @ vectors
    return RfmFit(settings, tuple(scores), values.cpu().numpy(), lifted.cpu().numpy(), best[0], space)


def _check(x: Points, y: Points, x_validation: Points, y_validation: Points) -> None:
    for name, rows, targets in (("training", x, y), ("validation", x_validation, y_validation)):
        if rows.ndim != 2 or targets.ndim != 2 or len(rows) != len(targets) or len(rows) < 2:
            raise ValueError(
                f"{name} points {rows.shape} and targets {targets.shape}, expected [N, D] and [N, O], N > 1"
            )
        if not (np.isfinite(rows).all() and np.isfinite(targets).all()):
            raise ValueError(f"{name} points or targets hold a value that is not finite")
    if x.shape[1] != x_validation.shape[1] or y.shape[1] != y_validation.shape[1]:
        raise ValueError(f"validation has width {x_validation.shape[1]}, expected {x.shape[1]}")


def draw_settings(rng: np.random.Generator, rounds: int) -> RfmSettings:
    """One draw from the ranges of MusicRFM (arXiv 2510.19127, appendix B).

    lambda log-uniform (1e-5, 10), q uniform (0.7, 1.4), centring by a coin. The paper draws L log-uniform (1, 100) in
    raw activation units; here it is log-uniform (0.2, 20) medians, the same two decades around one median distance.
    """
    return RfmSettings(
        bandwidth=float(np.exp(rng.uniform(np.log(0.2), np.log(20.0)))),
        ridge=float(np.exp(rng.uniform(np.log(1e-5), np.log(10.0)))),
        exponent=float(rng.uniform(0.7, 1.4)),
        centred=bool(rng.integers(2)),
        rounds=rounds,
    )


def drawn_settings(seed: int, rounds: int) -> Iterator[RfmSettings]:
    """Draws without end; the n-th depends on the seed and n only, so more draws never change the earlier ones."""
    index = 0
    while True:
        yield draw_settings(np.random.default_rng([seed, index]), rounds)
        index += 1


def search_rfm(
    x: Points,
    y: Points,
    x_validation: Points,
    y_validation: Points,
    *,
    draws: int,
    rounds: int,
    seed: int,
    device: str = "cpu",
) -> RfmFit:
    """The best of `draws` random settings by its validation score; shapes and Raises as `fit_rfm`."""
    if draws < 1:
        raise ValueError(f"draws is {draws}, expected 1 or more")
    best: RfmFit | None = None
    for settings in islice(drawn_settings(seed, rounds), draws):
        fit = fit_rfm(x, y, x_validation, y_validation, settings, device)
        if best is None or fit.score > best.score:
            best = fit
    assert best is not None
    return best


def composite_direction(x: Points, y: Points, eigenvectors: Points) -> Array:
    """Unit direction [D] out of the top k `eigenvectors` [D, k]: sum_j beta_j v_j, beta the least squares of y on x V.

    `x` [N, D], `y` [N]. One eigenvector gives itself, turned towards y.

    Raises:
        ValueError: the labels do not depend on the projections.
    """
    projected = x @ eigenvectors  # [N, k]
    beta, *_ = np.linalg.lstsq(projected - projected.mean(axis=0), y - y.mean(), rcond=None)
    direction = np.asarray(eigenvectors @ beta, np.float64)
    if not (length := float(np.linalg.norm(direction))) > 0.0:
        raise ValueError("the labels do not depend on the projections, expected labels that vary with the points")
    return direction / length
