"""V1: how states are pooled, on scales and progressions, where the order of notes is what matters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rfm_live.concepts.comparison import Cell, Lead, as_table, compare_set
from rfm_live.concepts.directions import POOLINGS
from rfm_live.concepts.intervals import Interval
from rfm_live.errors import StartError
from rfm_live.experiments import published
from rfm_live.experiments.lessons import Lessons
from rfm_live.experiments.plots import Axes, bars_plot
from rfm_live.experiments.report import Findings, Table
from rfm_live.experiments.setup import Setup

SETS = ("scales", "progressions")
METHODS = ("rfm", "linear")
_QUICK_SETS, _QUICK_POOLINGS, _QUICK_METHODS = ("scales",), ("mean", "last"), ("linear",)


@dataclass(frozen=True)
class Plan:
    """Which sets are read with which poolings by which probes."""

    sets: Sequence[str] = SETS
    poolings: Sequence[str] = POOLINGS
    methods: Sequence[str] = METHODS


def run(setup: Setup) -> Findings:
    """Read the sets with every pooling. Raises StartError where nothing may be learned."""
    if setup.lessons is None:
        raise StartError("v1 compares ways of learning, expected --learn")
    plan = Plan(_QUICK_SETS, _QUICK_POOLINGS, _QUICK_METHODS) if setup.is_quick else Plan()
    cells, leads = compared(setup.lessons, plan)
    return findings(cells, leads, plan)


def compared(lessons: Lessons, plan: Plan) -> tuple[list[Cell], list[Lead]]:
    """The cells of all sets, and RFM's leads."""
    cells: list[Cell] = []
    leads: list[Lead] = []
    for name in plan.sets:
        store = lessons.store(name)
        with lessons.stages(f"{name}: comparing") as report:
            for done, pooling in enumerate(plan.poolings, 1):
                more, lead = compare_set(name, store, [pooling], plan.methods)
                cells += more
                leads += [] if lead is None else [lead]
                report(done, len(plan.poolings))
    return cells, leads


def findings(cells: Sequence[Cell], leads: Sequence[Lead], plan: Plan) -> Findings:
    """The tables, beside the paper's."""
    conclusions = []
    for name in plan.sets:
        own = [cell for cell in cells if cell.set_name == name]
        best = max(own, key=lambda cell: cell.score[0])
        mean = max((cell for cell in own if cell.pooling == "mean"), key=lambda cell: cell.score[0])
        conclusions.append(
            f"{name}: best is {best.pooling} pooling by {best.method}, AUC {best.score[0]:.3f} "
            f"({best.score[1]:.3f}..{best.score[2]:.3f}); mean pooling has {mean.score[0]:.3f} by {mean.method}"
        )
    rows = as_table(cells, leads)
    note = "AUC of each class against the rest, and share put into the right class, on instruments that nobody saw."
    plots = []
    for name in plan.sets:
        groups = [
            (method, [Interval(*cell.score) for cell in cells if (cell.set_name, cell.method) == (name, method)])
            for method in plan.methods
        ]
        plots.append(bars_plot(name, f"{name}: AUC by pooling", Axes("pooling", "AUC"), plan.poolings, groups))
    data: dict[str, Any] = {"cells": list(cells), "leads": list(leads)}
    return Findings(
        "v1",
        "V1: poolings on scales and progressions",
        "Mean pooling loses the order of notes, which is what tells scales and progressions apart. Does another "
        "pooling read them better?",
        conclusions,
        [Table("Poolings: ours", rows[0], rows[1:], note), paper_table()],
        plots,
        data,
    )


def paper_table() -> Table:
    """The paper's figures on these sets."""
    rows = [
        [f"RFM, {pooling}", *(f"{by_set[name]:.3f}" for name in SETS)] for pooling, by_set in published.POOLINGS.items()
    ]
    rows.append(["linear probe, mean", *(f"{published.LINEAR_PROBE[name]:.3f}" for name in SETS)])
    note = "Accuracy on random splits, in which an instrument is on both sides; ours holds instruments out."
    return Table("Poolings: the paper", ("probe", *SETS), rows, note)
