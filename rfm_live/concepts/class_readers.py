"""Readers: from points to readings of all classes of a set at once, O numbers for a clip. Used by `comparison`.

A reader learns from points x [N, D] and targets y [N, O], one-hot columns or one column of numbers; block and settings
are chosen by the score on a validation part, the mean over folds where there are several, and the chosen reader learns
again from both parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch

from rfm_live.concepts.probes import Probe, line_through
from rfm_live.concepts.rfm import RfmSettings, drawn_settings, fit_rfm, machines
from rfm_live.concepts.scores import score

Array = npt.NDArray[np.float64]
Reader = Callable[[Array], Array]
"""From points [M, D] to readings [M, O]."""


@dataclass(frozen=True)
class Part:
    """Points [N, D] and targets [N, O]."""

    x: Array
    y: Array

    def joined(self, other: Part) -> Part:
        return Part(np.concatenate((self.x, other.x)), np.concatenate((self.y, other.y)))

    def thinned(self, most: int) -> Part:
        """At most `most` of the points, by chance."""
        if len(self.x) <= most:
            return self
        kept = np.random.default_rng(len(self.x)).permutation(len(self.x))[:most]
        return Part(self.x[kept], self.y[kept])


@dataclass(frozen=True)
class Fold:
    """One way to keep a validation part back: both parts of every block."""

    train: Sequence[Part]
    validation: Sequence[Part]

    def whole(self, layer: int) -> Part:
        """Both parts of a block."""
        return self.train[layer].joined(self.validation[layer])


@dataclass(frozen=True)
class Chosen:
    """A reader, the block that it reads, and what it scored on the validation parts."""

    reader: Reader
    layer: int
    validation: float


def one_vs_rest(probe: Probe, part: Part) -> Reader:
    """One direction per output, each with the line from its projection to the target."""
    vectors, lines = [], []
    for column in part.y.T:
        vector = probe.fit(part.x, column)
        vectors.append(vector)
        lines.append(line_through(part.x @ vector, column))
    matrix, (slopes, intercepts) = np.stack(vectors, axis=1), np.asarray(lines).T  # [D, O], [O]
    return lambda x: x @ matrix * slopes + intercepts


def best_linear(probe: Probe, folds: Sequence[Fold]) -> Chosen:
    """`probe` at the block that the validation parts like best."""
    scores = np.mean([_linear_scores(probe, fold) for fold in folds], axis=0)
    layer = int(np.argmax(scores))
    return Chosen(one_vs_rest(probe, folds[0].whole(layer)), layer, float(scores[layer]))


def _linear_scores(probe: Probe, fold: Fold) -> list[float]:
    """What the probe scores at every block."""
    sides = zip(fold.train, fold.validation, strict=True)
    return [score(one_vs_rest(probe, part)(held.x), held.y) for part, held in sides]


@dataclass(frozen=True)
class RfmSearch:
    """How a machine is searched for: the `blocks` that look best with plain settings, and `draws` of settings there.

    `most` points are learned from, for time grows with the cube of them.
    """

    blocks: int = 2
    draws: int = 8
    rounds: int = 3
    most: int = 600
    seed: int = 0
    device: str = "cpu"


def best_rfm(search: RfmSearch, folds: Sequence[Fold]) -> Chosen:
    """A recursive feature machine with O outputs, which share one metric; the search scores on the validation parts."""
    folds = [Fold([part.thinned(search.most) for part in fold.train], fold.validation) for fold in folds]

    def tried(layer: int, settings: RfmSettings) -> tuple[float, int, RfmSettings]:
        """The best mean score of a round over the folds, and with which block and settings."""
        scores = [
            fit_rfm(*_points(fold.train[layer]), *_points(fold.validation[layer]), settings, search.device).scores
            for fold in folds
        ]
        by_round = np.mean([one[: min(map(len, scores))] for one in scores], axis=0)
        best = int(np.argmax(by_round))
        return float(by_round[best]), layer, replace(settings, rounds=best)

    plain = RfmSettings(rounds=search.rounds)
    found = [tried(layer, plain) for layer in range(len(folds[0].train))]
    promising = sorted(range(len(found)), key=lambda layer: -found[layer][0])[: search.blocks]
    for settings in islice(drawn_settings(search.seed, search.rounds), search.draws):
        found += [tried(layer, settings) for layer in promising]
    best, layer, settings = max(found, key=lambda item: item[0])
    whole = folds[0].whole(layer)
    x, y = (torch.as_tensor(values, dtype=torch.float64, device=search.device) for values in _points(whole))
    *_, (machine, _) = machines(x, y, settings)

    def read(points: Array) -> Array:
        rows = torch.as_tensor(points, dtype=torch.float64, device=search.device)
        return machine.predict(rows).cpu().numpy()

    return Chosen(read, layer, best)


def _points(part: Part) -> tuple[Array, Array]:
    return part.x, part.y
