"""E2: which blocks, how strongly and how often: control against drift, and whether a gate beats a smaller knob."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rfm_live.concepts.intervals import Interval, difference_interval
from rfm_live.experiments import published
from rfm_live.experiments.conditions import UNSTEERED, Played, turned
from rfm_live.experiments.curves import height_at, pareto_front
from rfm_live.experiments.plots import Axes, Curve, points_plot
from rfm_live.experiments.report import Findings, Table, told
from rfm_live.experiments.setup import Outcome, Setup, outcome, over_seeds, pooled_change, pooled_drift

ETA = 1.0
"""The knob of every selection: the paper does not state its own."""
GATES = (0.15, 0.30, 0.45, 0.60, 0.75, 0.90)
KAPPAS = (0.92, 0.95, 0.98)
_TOPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_QUICK_GATES = (0.30,)

NAIVE = "uniform, gate 1"


@dataclass(frozen=True)
class Selection:
    """One way to choose blocks, frames or strength: what its `group` is in the picture, and the knob's other fields.

    Every frame is pushed unless a gate is among these: the bank's own gate is not asked here.
    """

    name: str
    group: str
    eta: float = ETA
    fields: tuple[tuple[str, float | str], ...] = ()

    def played(self, concept: str) -> Played:
        return Played(turned(concept, self.eta, **{"gate": 1.0, **dict(self.fields)}))


def selections(layers: int, is_quick: bool = False) -> list[Selection]:
    """All that are played on a decoder of so many blocks."""
    gates = _QUICK_GATES if is_quick else GATES
    found = [Selection(NAIVE, "naive")]
    for kappa in KAPPAS[1:2] if is_quick else KAPPAS:
        fields = (("layers", "exponential"), ("layers_kappa", kappa))
        found.append(Selection(f"exponential, kappa {kappa:.2f}", "exponential", fields=fields))
    found.append(Selection("linear", "linear", fields=(("layers", "linear"),)))
    for k in (top for top in (_TOPS[:1] if is_quick else _TOPS) if top < layers):
        found.append(Selection(f"top {k}", "top k", fields=(("layers", "top_k"), ("layers_k", k))))
    found += [Selection(f"gate {gate:.2f}", "gate", fields=(("gate", gate),)) for gate in gates]
    found += [Selection(f"eta x {gate:.2f}", "smaller eta", eta=ETA * gate) for gate in gates]
    return found


@dataclass(frozen=True)
class Trade:
    """A gate p against the knob times p, which pushes as much on average.

    `control` and `drift` (fd_hidden) are the gate's less the smaller knob's, clip by clip and concept by concept;
    `equal_control` is the drift that the curve of smaller knobs has where it controls as much as the gate (None: it
    never does).
    """

    gate: float
    control: Interval
    drift: Interval
    gate_drift: float
    equal_control: float | None


def run(setup: Setup) -> Findings:
    """Play every selection of every concept."""
    chosen = selections(setup.bank.layers, setup.is_quick)
    plans = [(selection, concept) for selection in chosen for concept in setup.concepts]
    heard = setup.hear(setup.bank, [UNSTEERED, *(selection.played(concept) for selection, concept in plans)])
    found: dict[str, list[Outcome]] = {selection.name: [] for selection in chosen}
    with setup.stages("judging") as report:
        for done, (selection, concept) in enumerate(plans, 1):
            way = selection.name, selection.eta
            records = heard[selection.played(concept)]
            found[selection.name].append(outcome(setup, setup.judge(concept), way, records, heard[UNSTEERED]))
            report(done, len(plans))
    control = [pooled_change(found[selection.name]).value for selection in chosen]
    drift = [pooled_drift(found[selection.name], "fd_hidden").value for selection in chosen]
    front = pareto_front(control, drift)
    trades = _trades(chosen, found)
    table = _table(chosen, found, front)
    groups = []
    for group in dict.fromkeys(selection.group for selection in chosen):
        places = [place for place, selection in enumerate(chosen) if selection.group == group]
        groups.append(Curve(group, [drift[place] for place in places], [control[place] for place in places], style="o"))
    line = Curve("front", [drift[place] for place in front], [control[place] for place in front], style="-")
    axes = Axes("drift from unsteered music (fd_hidden)", "control (mean change on the judges' meters)")
    return Findings(
        "e2",
        "E2: which blocks, and how often",
        f"Every way to choose blocks and frames at eta {ETA:g}: how much control for how much drift? And does a gate "
        "p, which steers some frames fully, beat the knob times p, which steers all of them less?",
        [
            f"on the front, from little to much control: {', '.join(chosen[place].name for place in front)}",
            *_verdict(trades),
        ],
        [table, _trade_table(trades), _paper_table()],
        [points_plot("front", "Control against drift", axes, groups, line)],
        {
            "outcomes": found,
            "front": [chosen[place].name for place in front],
            "gate_against_smaller_eta": trades,
        },
    )


def _trades(chosen: Sequence[Selection], found: dict[str, list[Outcome]]) -> list[Trade]:
    smaller = [one for one in chosen if one.group in ("smaller eta", "naive")]
    control = [pooled_change(found[one.name]).value for one in smaller]
    drift = [pooled_drift(found[one.name], "fd_hidden").value for one in smaller]
    trades = []
    for gated in (one for one in chosen if one.group == "gate"):
        gate = float(dict(gated.fields)["gate"])
        scaled = next(one for one in smaller if one.group == "smaller eta" and one.eta == ETA * gate)
        changes = [[one.clips.changes for one in found[name]] for name in (gated.name, scaled.name)]
        own = pooled_drift(found[gated.name], "fd_hidden").value
        gate_drifts, scaled_drifts = (
            [one.drift.fd_hidden.value for one in found[name]] for name in (gated.name, scaled.name)
        )
        equal = height_at(control, drift, pooled_change(found[gated.name]).value)
        trades.append(Trade(gate, _difference(*changes), difference_interval(gate_drifts, scaled_drifts), own, equal))
    return trades


def _difference(gated: Sequence[Sequence[float | None]], scaled: Sequence[Sequence[float | None]]) -> Interval:
    """The mean difference of changes [C, S] of two ways to steer, and its interval over seeds."""
    pairs = [
        [None if one is None or other is None else one - other for one, other in zip(*rows, strict=True)]
        for rows in zip(gated, scaled, strict=True)
    ]
    found = over_seeds(pairs)
    assert found is not None
    return found


def _verdict(trades: Sequence[Trade]) -> list[str]:
    better = [trade.gate for trade in trades if trade.control.low > 0.0]
    worse = [trade.gate for trade in trades if trade.control.high < 0.0]
    lines = [
        "a gate against the knob times the gate, equal pushes on average: more control at "
        f"{_gates(better)}, less at {_gates(worse)}, no clear difference at the other of {len(trades)} gates"
    ]
    equal = [(trade.gate, trade.gate_drift, trade.equal_control) for trade in trades if trade.equal_control is not None]
    if equal:
        lower = [gate for gate, own, other in equal if own < other]
        lines.append(f"at equal control the gate drifts less at {_gates(lower)}, of {len(equal)} that can be compared")
    return lines


def _gates(gates: Sequence[float]) -> str:
    return ", ".join(f"p = {gate:.2f}" for gate in gates) or "no gate"


def _table(chosen: Sequence[Selection], found: dict[str, list[Outcome]], front: Sequence[int]) -> Table:
    rows = []
    for place, selection in enumerate(chosen):
        group = found[selection.name]
        drifts = [told(pooled_drift(group, name)) for name in ("fd_mel", "fd_hidden", "mmd_hidden")]
        sounding = sum(one.sounding for one in group) / len(group)
        on_front = "yes" if place in front else ""
        rows.append([selection.name, told(pooled_change(group)), *drifts, told(sounding, 2), on_front])
    head = ("selection", "control", "fd_mel", "fd_hidden", "mmd_hidden", "sounding", "on the front")
    return Table(
        f"Selections at eta {ETA:g}: ours", head, rows, "Means over concepts. Control is the change of meters."
    )


def _trade_table(trades: Sequence[Trade]) -> Table:
    rows = [
        [
            f"{trade.gate:.2f}",
            told(trade.control),
            told(trade.drift),
            told(trade.gate_drift),
            told(trade.equal_control),
        ]
        for trade in trades
    ]
    head = ("p", "control: gate - smaller eta", "fd_hidden: gate - smaller eta", "gate's fd_hidden", "at equal control")
    note = "The last column is the fd_hidden of a smaller knob, without gate, that controls as much as the gate does."
    return Table("A gate p against eta times p", head, rows, note)


def _paper_table() -> Table:
    rows = [
        [one.name, f"{one.fd:.3f}", f"{one.mmd:.3f}", f"{one.clap:.3f}", f"{one.accuracy:.3f}"]
        for one in published.SELECTIONS
    ]
    note = "48 blocks, notes; its eta is not stated. Accuracy is that of a probe. It did not test a smaller eta."
    return Table("Selections: the paper", ("selection", "FD", "MMD", "CLAP", "accuracy"), rows, note)
