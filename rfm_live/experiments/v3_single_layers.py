"""V3: each block alone, and all blocks but one: where does a direction act, and is that where its probe reads best?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rfm_live.experiments.conditions import UNSTEERED, Played, turned
from rfm_live.experiments.plots import Axes, bars_plot
from rfm_live.experiments.report import Findings, Table, told
from rfm_live.experiments.setup import Outcome, Setup, outcome, pooled_change, pooled_drift
from rfm_live.experiments.variants import variant_name, with_blocks

ETA = 1.0
_ALL = "all blocks"


@dataclass(frozen=True)
class Blocks:
    """Which blocks push: `layer` alone, or all but it; `label` names the variants of the bank."""

    label: str
    layer: int
    is_alone: bool

    def kept(self, layers: int) -> npt.NDArray[np.bool_]:
        is_it = np.arange(layers) == self.layer
        return np.asarray(is_it if self.is_alone else ~is_it)

    @property
    def told(self) -> str:
        return f"block {self.layer} alone" if self.is_alone else f"without block {self.layer}"


def run(setup: Setup) -> Findings:
    """Play every block alone and left out."""
    layers = setup.bank.layers
    looked_at = range(1) if setup.is_quick else range(layers)
    variants = [
        Blocks(f"{'only' if is_alone else 'without'}_{layer}", layer, is_alone)
        for is_alone in (True, False)
        for layer in looked_at
    ]
    bank = setup.bank
    for variant in variants:
        bank = with_blocks(bank, variant.label, setup.concepts, variant.kept(layers))
    plans = [(_ALL, concept, Played(turned(concept, ETA))) for concept in setup.concepts]
    for variant in variants:
        for concept in setup.concepts:
            plans.append((variant.told, concept, Played(turned(variant_name(variant.label, concept), ETA))))
    heard = setup.hear(bank, [UNSTEERED, *(played for _, _, played in plans)])
    found: dict[str, list[Outcome]] = {}
    with setup.stages("judging") as report:
        for done, (told_as, concept, played) in enumerate(plans, 1):
            judged = outcome(setup, setup.judge(concept), (told_as, ETA), heard[played], heard[UNSTEERED])
            found.setdefault(told_as, []).append(judged)
            report(done, len(plans))
    return _findings(setup, variants, found)


def _findings(setup: Setup, variants: Sequence[Blocks], found: dict[str, list[Outcome]]) -> Findings:
    places = [setup.bank.names.index(name) for name in setup.concepts]
    scores = setup.bank.scores[places].mean(axis=0)  # [L]
    alone = [variant for variant in variants if variant.is_alone]
    best = max(alone, key=lambda variant: pooled_change(found[variant.told]).value)
    needed = min(
        (variant for variant in variants if not variant.is_alone),
        key=lambda variant: pooled_change(found[variant.told]).value,
    )
    rows = []
    for name, group in found.items():
        layer = next((variant.layer for variant in variants if variant.told == name), None)
        drifts = [told(pooled_drift(group, one)) for one in ("fd_mel", "fd_hidden")]
        rows.append([name, told(pooled_change(group)), *drifts, "" if layer is None else f"{scores[layer]:.3f}"])
    labels = [str(variant.layer) for variant in alone]
    groups = [
        (title, [pooled_change(found[variant.told]) for variant in variants if variant.is_alone == is_alone])
        for title, is_alone in (("alone", True), ("left out", False))
    ]
    return Findings(
        "v3",
        "V3: block by block",
        f"The push of one block alone, and of all but that one, at eta {ETA:g}, each block as long as in the bank.",
        [
            f"all blocks change the reading by {told(pooled_change(found[_ALL]))}; the strongest alone is block "
            f"{best.layer}, by {told(pooled_change(found[best.told]))}",
            f"the block that is missed most is {needed.layer}: without it {told(pooled_change(found[needed.told]))} "
            f"is left; the probes read best at block {int(scores.argmax())}",
        ],
        [Table("Blocks", ("blocks", "change", "fd_mel", "fd_hidden", "probe's score"), rows, "Means over concepts.")],
        [bars_plot("blocks", "Change by block", Axes("block", "change on the judges' meters"), labels, groups)],
        {"outcomes": found, "scores": scores.round(4).tolist()},
    )
