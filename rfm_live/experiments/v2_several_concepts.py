"""V2: pairs and triples of concepts: which share of its own effect does each keep, and what does it cost?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from rfm_live.concepts.intervals import Interval, difference_interval, mean_interval
from rfm_live.errors import StartError
from rfm_live.experiments import published
from rfm_live.experiments.conditions import UNSTEERED, Heard, Played, Settings, turned
from rfm_live.experiments.curves import share_interval
from rfm_live.experiments.drift import drift
from rfm_live.experiments.measures import Judge, chroma_share_judge, kind_of
from rfm_live.experiments.plots import Axes, bars_plot
from rfm_live.experiments.report import Findings, Table, told
from rfm_live.experiments.setup import Setup

ETA = 1.0
_GATE = 0.3
_MOST_OF_A_SORT = 6
WAYS: dict[str, Settings] = {
    "plain": (),
    "budget 1 of the length": (("/budget_of", "norm"), ("/budget", 1.0)),
    "budget 1.4 of the length": (("/budget_of", "norm"), ("/budget", 1.4)),
    "gram_schmidt": (("/orthogonal", "gram_schmidt"),),
    "least_squares": (("/orthogonal", "least_squares"),),
    "dual": (("/orthogonal", "dual"),),
}
GATED = "gate 0.3"
_QUICK_WAYS = ("plain", "dual")
KEPT, MOST_DRIFT = 0.8, 1.5
"""The bars: each keeps so much of its single effect, and the drift is at most so many times the larger single one."""


@dataclass(frozen=True)
class Kept:
    """What one concept keeps of its single effect in company: `share`, None where alone it has none."""

    concept: str
    meter: str
    single: Interval
    together: Interval
    share: Interval | None


@dataclass(frozen=True)
class Company:
    """Several concepts at once, one way. `times_single` is fd_hidden over the largest of the concepts alone."""

    way: str
    concepts: tuple[str, ...]
    kept: tuple[Kept, ...]
    fd_mel: Interval
    fd_hidden: Interval
    times_single: float


def run(setup: Setup) -> Findings:
    """Play concepts alone and together, each way."""
    groups = companies(setup)
    ways = [way for way in (*WAYS, GATED) if not setup.is_quick or way in _QUICK_WAYS]
    wanted = [UNSTEERED]
    wanted += [together(way, (concept,)) for group in groups for concept in group for way in ("plain", GATED)]
    wanted += [together(way, group) for group in groups for way in ways]
    heard = setup.hear(setup.bank, wanted)
    with setup.stages("judging") as report:
        found = []
        for done, group in enumerate(groups, 1):
            found += [_company(setup, heard, way, group) for way in ways]
            report(done, len(groups))
    return _findings(found, ways)


def companies(setup: Setup) -> list[tuple[str, ...]]:
    """Pairs of one kind, pairs and triples of different kinds, evenly taken.

    Raises:
        StartError: there are fewer than two concepts.
    """
    if len(setup.concepts) < 2:
        raise StartError(f"concepts are {', '.join(setup.concepts)}, expected two or more to play together")
    pairs = list(combinations(setup.concepts, 2))
    triples = [three for three in combinations(setup.concepts, 3) if len(set(map(kind_of, three))) == 3]
    alike = [pair for pair in pairs if kind_of(pair[0]) == kind_of(pair[1])]
    unlike = [pair for pair in pairs if kind_of(pair[0]) != kind_of(pair[1])]
    if setup.is_quick:
        return [(unlike or alike)[0]]
    triples = triples or list(combinations(setup.concepts, 3))
    return [*_evenly(alike), *_evenly(unlike), *_evenly(triples)]


def _evenly(groups: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    count = min(len(groups), _MOST_OF_A_SORT)
    return [groups[place * len(groups) // count] for place in range(count)]


def together(way: str, concepts: Sequence[str]) -> Played:
    """All `concepts` at ETA, steered the way that is named."""
    fields = {"gate": _GATE} if way == GATED else {}
    knobs = tuple(setting for concept in concepts for setting in turned(concept, ETA, **fields))
    return Played((*WAYS.get(way, ()), *knobs))


def judges_of(setup: Setup, group: Sequence[str]) -> list[tuple[str, Judge]]:
    """Who hears each of a group: notes among notes by dominance and chroma share, for a frame has one winner only."""
    notes = [concept for concept in group if setup.judge(concept).meter.startswith("dominance")]
    found = []
    for concept in group:
        found.append((concept, setup.judge(concept)))
        if concept in notes and len(notes) > 1:
            found.append((concept, chroma_share_judge(concept)))
    return found


def _company(setup: Setup, heard: Heard, way: str, group: tuple[str, ...]) -> Company:
    records, unsteered = heard[together(way, group)], heard[UNSTEERED]
    single_way = GATED if way == GATED else "plain"
    kept = []
    for concept, judge in judges_of(setup, group):
        alone = judge.changes(heard[together(single_way, (concept,))], unsteered)
        beside = judge.changes(records, unsteered)
        zeros = [0.0] * len(alone)
        kept.append(
            Kept(
                concept,
                judge.meter,
                difference_interval(alone, zeros),
                difference_interval(beside, zeros),
                share_interval(beside, alone),
            )
        )
    own = drift(records, unsteered)
    singles = [drift(heard[together(single_way, (one,))], unsteered, resamples=2).fd_hidden.value for one in group]
    times = own.fd_hidden.value / max(max(singles), 1e-9)
    return Company(way, group, tuple(kept), own.fd_mel, own.fd_hidden, times)


def _told_shares(companies: Sequence[Company]) -> tuple[int, int]:
    """Of all shares that mean something, how many reach the bar. Notes among notes count by chroma share."""
    shares = []
    for company in companies:
        by_share = {kept.concept for kept in company.kept if kept.meter == "chroma share"}
        shares += [
            kept.share.value
            for kept in company.kept
            if kept.share is not None and (kept.concept not in by_share or kept.meter == "chroma share")
        ]
    return sum(share >= KEPT for share in shares), len(shares)


def _findings(found: Sequence[Company], ways: Sequence[str]) -> Findings:
    conclusions = []
    for way in ways:
        own = [one for one in found if one.way == way]
        reached, count = _told_shares(own)
        within = sum(one.times_single <= MOST_DRIFT for one in own)
        conclusions.append(
            f"{way}: {reached} of {count} effects keep {KEPT:.0%} or more of what they are alone; in {within} of "
            f"{len(own)} groups the drift is at most {MOST_DRIFT:g} times the larger single one"
        )
    rows = []
    for company in found:
        for number, kept in enumerate(company.kept):
            first = [" + ".join(company.concepts), company.way] if not number else ["", ""]
            costs = [told(company.fd_mel), told(company.fd_hidden), f"{company.times_single:.2f}"] if not number else []
            cells = [kept.concept, kept.meter, told(kept.single), told(kept.together), told(kept.share, 2)]
            rows.append([*first, *cells, *(costs or ["", "", ""])])
    head = (
        "together",
        "way",
        "concept",
        "judged by",
        "alone",
        "together",
        "share kept",
        "fd_mel",
        "fd_hidden",
        "x single",
    )
    pairs = [one for one in found if one.way == ways[0]]
    labels = [" + ".join(one.concepts) for one in pairs]
    groups: list[tuple[str, list[Interval]]] = []
    for way in ways:
        by_group = {one.concepts: one for one in found if one.way == way}
        bars = [by_group[one.concepts].fd_hidden for one in pairs]
        groups.append((way, bars))
    return Findings(
        "v2",
        "V2: several concepts at once",
        "Two or three full knobs together: which share of its single effect does each keep, and how far does the music "
        "drift? The published collapse of pairs may be due to a gate that its release leaves out.",
        conclusions,
        [Table("Together: ours", head, rows, "A dash: alone the concept has no clear effect."), _paper_table()],
        [bars_plot("drift", "Drift of concepts together", Axes("", "fd_hidden"), labels, groups)],
        {"eta": ETA, "companies": list(found), "mean_fd_hidden": {way: _mean_drift(found, way) for way in ways}},
    )


def _mean_drift(found: Sequence[Company], way: str) -> Interval | None:
    values = [one.fd_hidden.value for one in found if one.way == way]
    return mean_interval(values) if values else None


def _paper_table() -> Table:
    head = ("concept, in pairs", "eta", "FD", "MMD", "CLAP", "accuracy")
    rows = [
        [kind, f"{eta:g}", *(f"{values[place]:.3f}" for values in figures)]
        for kind, figures in published.PAIRS.items()
        for place, eta in enumerate(published.PAIR_ETAS)
    ]
    return Table("Pairs: the paper", head, rows, "The public release leaves the gate out here; p is not stated.")
