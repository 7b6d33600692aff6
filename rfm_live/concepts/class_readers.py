"""Readers: from points to readings of all classes of a set at once, O numbers for a clip. Used by `comparison`.

A reader learns from points x [N, D] and targets y [N, O], one-hot columns or one column of numbers; block and settings
are chosen by the score on a validation part, and the chosen reader learns again from both parts.
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
class Chosen:
    """A reader, the block that it reads, and what it scored on the validation part."""

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


def best_linear(probe: Probe, train: Sequence[Part], validation: Sequence[Part]) -> Chosen:
    """`probe` at the block that the validation parts, one per block like the training parts, like best."""
    scores = [score(one_vs_rest(probe, part)(held.x), held.y) for part, held in zip(train, validation, strict=True)]
    layer = int(np.argmax(scores))
    return Chosen(one_vs_rest(probe, train[layer].joined(validation[layer])), layer, scores[layer])


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


def best_rfm(search: RfmSearch, train: Sequence[Part], validation: Sequence[Part]) -> Chosen:
    """A recursive feature machine with O outputs, which share one metric; the search scores on the validation parts."""
    train = [part.thinned(search.most) for part in train]

    def fitted(layer: int, settings: RfmSettings) -> tuple[float, int, RfmSettings]:
        part, held = train[layer], validation[layer]
        fit = fit_rfm(part.x, part.y, held.x, held.y, settings, search.device)
        return fit.score, layer, replace(settings, rounds=fit.best_round)

    plain = RfmSettings(rounds=search.rounds)
    tried = [fitted(layer, plain) for layer in range(len(train))]
    promising = sorted(range(len(train)), key=lambda layer: -tried[layer][0])[: search.blocks]
    for settings in islice(drawn_settings(search.seed, search.rounds), search.draws):
        tried += [fitted(layer, settings) for layer in promising]
    best, layer, settings = max(tried, key=lambda item: item[0])
    whole = train[layer].joined(validation[layer])
    x, y = (torch.as_tensor(values, dtype=torch.float64, device=search.device) for values in (whole.x, whole.y))
    *_, (machine, _) = machines(x, y, settings)

    def read(points: Array) -> Array:
        rows = torch.as_tensor(points, dtype=torch.float64, device=search.device)
        return machine.predict(rows).cpu().numpy()

    return Chosen(read, layer, best)
