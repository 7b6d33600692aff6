"""V4: the eigenvectors behind the first: does a recursive feature machine know more than one direction that steers?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rfm_live.concepts.activations import ActivationStore
from rfm_live.concepts.directions import points_of
from rfm_live.concepts.intervals import Interval, mean_interval
from rfm_live.concepts.learning import LearningSettings
from rfm_live.concepts.probes import RecursiveFeatures
from rfm_live.concepts.splits import Split, split_clips
from rfm_live.concepts.syntheory import concept_set
from rfm_live.concepts.targets import Concept, classes_of, concepts_of
from rfm_live.errors import StartError
from rfm_live.experiments.conditions import UNSTEERED, Heard, Played, turned
from rfm_live.experiments.lessons import SETS, Lessons
from rfm_live.experiments.plots import Axes, bars_plot
from rfm_live.experiments.report import Findings, Table, told
from rfm_live.experiments.setup import Setup, over_seeds
from rfm_live.experiments.variants import variant_name, with_directions, with_random

ETA = 1.0
RANKS, _QUICK_RANKS = 5, 2

Array = npt.NDArray[np.float32]


def run(setup: Setup) -> Findings:
    """Learn the machines, and play every eigenvector both ways. Raises StartError where nothing may be learned."""
    if setup.lessons is None:
        raise StartError("v4 learns eigenvectors, expected --learn")
    ranks = _QUICK_RANKS if setup.is_quick else RANKS
    vectors: dict[str, list[Array]] = {}
    shares: dict[str, list[float]] = {}
    for kind, concepts in setup.kinds.items():
        if kind in SETS:
            found = learned_eigenvectors(setup.lessons, kind, concepts, ranks)
            vectors |= {name: one[0] for name, one in found.items()}
            shares |= {name: one[1] for name, one in found.items()}
    if not vectors:
        raise StartError(f"SynTheory teaches none of {', '.join(setup.concepts)}, expected kinds {', '.join(SETS)}")
    bank, labels = with_random(setup.bank, list(vectors)), [f"eigenvector_{rank + 1}" for rank in range(ranks)]
    for rank, label in enumerate(labels):
        bank = with_directions(bank, label, {name: one[rank] for name, one in vectors.items()})
    labels.append("random")
    heard = setup.hear(
        bank, [UNSTEERED, *(played(label, name, eta) for label in labels for name in vectors for eta in (-ETA, ETA))]
    )
    contrasts = {label: {name: contrast(setup, heard, label, name) for name in vectors} for label in labels}
    return _findings(labels, contrasts, shares)


def learned_eigenvectors(
    lessons: Lessons, kind: str, concepts: Sequence[str], ranks: int
) -> dict[str, tuple[list[Array], list[float]]]:
    """For each concept the first `ranks` eigenvectors [L, D] and their shares of the trace, mean over blocks."""
    store, label = lessons.store(SETS[kind]), concept_set(SETS[kind]).label
    settings = lessons.settings("rfm")
    labels = store.labels(label)
    split = split_clips(store.groups, classes_of(labels), settings.held_share, settings.seed)
    wanted = [concept for concept in concepts_of(labels, kind) if concept.name in concepts]
    found = {}
    with lessons.stages(f"{kind}: learning eigenvectors") as report:
        for done, concept in enumerate(wanted, 1):
            found[concept.name] = _eigenvectors(store, concept, split, settings, ranks)
            report(done, len(wanted))
    return found


def _eigenvectors(
    store: ActivationStore, concept: Concept, split: Split, settings: LearningSettings, ranks: int
) -> tuple[list[Array], list[float]]:
    probe = settings.probe
    assert isinstance(probe, RecursiveFeatures)
    vectors, shares = [], []
    for layer in range(store.layers):
        points = points_of(store, layer, settings.pooling, concept, split, settings.most_points)
        x = points.x.astype(np.float64)
        fit = probe.search(x, points.y)
        top = fit.eigenvectors[:, :ranks]  # [D, ranks]
        agreement = (points.y - points.y.mean()) @ ((x - x.mean(axis=0)) @ top)
        vectors.append((top * np.where(agreement < 0.0, -1.0, 1.0)).T / np.linalg.norm(top, axis=0)[:, None])
        shares.append(fit.eigenvalues[:ranks] / fit.eigenvalues.sum())
    by_rank = np.stack(vectors, axis=1).astype(np.float32)  # [ranks, L, D]
    return list(by_rank), np.mean(shares, axis=0).tolist()


def played(label: str, concept: str, eta: float) -> Played:
    return Played(turned(variant_name(label, concept), eta))


def contrast(setup: Setup, heard: Heard, label: str, concept: str) -> list[float]:
    """How much more of the concept there is with the knob up than with it down, clip by clip."""
    judge = setup.judge(concept)
    up, down = (judge.changes(heard[played(label, concept, eta)], heard[UNSTEERED]) for eta in (ETA, -ETA))
    return [more - less for more, less in zip(up, down, strict=True)]


def _findings(
    labels: Sequence[str], contrasts: dict[str, dict[str, list[float]]], shares: dict[str, list[float]]
) -> Findings:
    pooled = {label: _pooled(list(contrasts[label].values())) for label in labels}
    single = {label: {name: mean_interval(values) for name, values in contrasts[label].items()} for label in labels}
    mean_shares = np.mean(list(shares.values()), axis=0)
    rows = []
    for rank, label in enumerate(labels):
        clear = sum(one.low > 0.0 for one in single[label].values())
        share = f"{mean_shares[rank]:.1%}" if rank < len(mean_shares) else "-"
        rows.append([label.replace("_", " "), share, told(pooled[label]), f"{clear} of {len(contrasts[label])}"])
    lower = [label for label in labels[1:-1] if pooled[label].low > 0.0]
    by_concept = [[name, *(told(single[label][name]) for label in labels)] for name in next(iter(contrasts.values()))]
    return Findings(
        "v4",
        "V4: lower eigenvectors",
        "The paper steers with the top eigenvector of a machine's gradients only. Each of the next ones is pushed "
        "along here, as far as the bank pushes, up and down.",
        [
            f"the first eigenvector holds {mean_shares[0]:.0%} of the trace and moves the meters by "
            f"{told(pooled[labels[0]])}",
            f"of the {len(labels) - 2} behind it, {len(lower)} move them clearly the way of the labels",
        ],
        [
            Table("Eigenvectors", ("direction", "share of the trace", "up less down", "concepts clearly moved"), rows),
            Table("By concept", ("concept", *(label.replace("_", " ") for label in labels)), by_concept),
        ],
        [
            bars_plot(
                "contrast",
                "Up less down, by eigenvector",
                Axes("", "change on the judges' meters"),
                [label.replace("_", " ") for label in labels],
                [("mean over concepts", [pooled[label] for label in labels])],
            )
        ],
        {"eta": ETA, "contrasts": single, "by_clip": contrasts, "shares": shares},
    )


def _pooled(contrasts: Sequence[Sequence[float]]) -> Interval:
    found = over_seeds(contrasts)
    assert found is not None
    return found
