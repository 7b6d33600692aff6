"""E1: one direction at a time, over the whole travel of its knob, against other ways to ask for the same concept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rfm_live.concepts.intervals import Interval
from rfm_live.experiments import published
from rfm_live.experiments.conditions import UNSTEERED, Played, turned
from rfm_live.experiments.lessons import SETS, Array
from rfm_live.experiments.measures import FAMILIES
from rfm_live.experiments.plots import Axes, Curve, curves_plot
from rfm_live.experiments.report import Findings, Plot, Table, told
from rfm_live.experiments.setup import FLOOR_SEEDS, Outcome, Setup, outcome, pooled, pooled_drift
from rfm_live.experiments.variants import variant_name, with_directions, with_random
from rfm_live.steering.bank import ConceptBank

ETAS = (*published.ETAS, 1.0, 1.5)
_BELOW = (-1.0, -0.60, -0.15)
"""Turned down only where a concept has another end: tempo, density, brightness."""
_QUICK_ETAS = (0.60, 1.0)
RIVALS = ("rfm", "linear", "means")
_FLOOR = Played(seeds_on=FLOOR_SEEDS)
_UNSTEERED, _OTHER_SEEDS = "unsteered", "unsteered, other seeds"

_WORDS = {"tempo": "fast", "density": "dense", "brightness": "bright", "drums": "with drums"}


def words_for(concept: str) -> str:
    """How a prompt asks for a concept: "in C sharp" for note_c_sharp, "flute" for timbre_flute, "fast" for tempo."""
    kind, _, said = concept.partition("_")
    said = said.replace("_", " ")
    match kind:
        case "note":
            return f"in {said[:1].upper()}{said[1:]}"
        case "chord":
            return f"{said} chords"
        case "mode":
            return f"in {said}"
        case "timbre" | "texture":
            return said
    return _WORDS.get(concept, concept.replace("_", " "))


@dataclass(frozen=True)
class Way:
    """A way to ask for a concept: what is played for it at a knob value, or once where `has_knob` is False."""

    name: str
    played: Callable[[str, float], Played]
    has_knob: bool = True


BANK = Way("bank", lambda concept, eta: Played(turned(concept, eta)))
PAPER = Way(
    "bank, gate 0.3, kappa 0.95",
    lambda concept, eta: Played(turned(concept, eta, gate=0.3, layers="exponential", layers_kappa=0.95)),
)
PROMPT = Way("prompt", lambda concept, eta: Played(words=words_for(concept)), has_knob=False)
PROMPT_AND_BANK = Way("prompt + bank", lambda concept, eta: Played(turned(concept, eta), words=words_for(concept)))


def _variant_way(label: str) -> Way:
    return Way(label, lambda concept, eta: Played(turned(variant_name(label, concept), eta)))


RANDOM = _variant_way("random")


def run(setup: Setup) -> Findings:
    """Play every concept every way, and put the paper's table beside it."""
    bank, rivals = _bank(setup)
    wanted = [UNSTEERED, _FLOOR]
    plans: list[tuple[Way, str, float]] = []
    for concept in setup.concepts:
        for way in _ways(setup, rivals, concept):
            for eta in _etas(setup, concept) if way.has_knob else (0.0,):
                plans.append((way, concept, eta))
                wanted.append(way.played(concept, eta))
    heard = setup.hear(bank, wanted)
    unsteered = heard[UNSTEERED]
    with setup.stages("judging") as report:
        outcomes = []
        for done, (way, concept, eta) in enumerate(plans, 1):
            records = heard[way.played(concept, eta)]
            outcomes.append(outcome(setup, setup.judge(concept), (way.name, eta), records, unsteered))
            report(done, len(plans))
    floors = [
        outcome(setup, setup.judge(concept), (name, 0.0), heard[played], unsteered)
        for concept in setup.concepts
        for name, played in ((_UNSTEERED, UNSTEERED), (_OTHER_SEEDS, _FLOOR))
    ]
    return _findings(setup, outcomes, floors)


def _bank(setup: Setup) -> tuple[ConceptBank, dict[str, set[str]]]:
    """The bank with random twins and rivals, and by rival the concepts that it was learned for."""
    bank, rivals = with_random(setup.bank, setup.concepts), {}
    if setup.lessons is not None:
        for method in RIVALS[-1:] if setup.is_quick else RIVALS:
            vectors: dict[str, Array] = {}
            for kind, concepts in setup.kinds.items():
                if kind in SETS:
                    found = setup.lessons.directions(kind, method)
                    vectors |= {name: found[name] for name in concepts if name in found}
            bank, rivals[method] = with_directions(bank, method, vectors), set(vectors)
    return bank, rivals


def _ways(setup: Setup, rivals: dict[str, set[str]], concept: str) -> list[Way]:
    learned = [_variant_way(method) for method, concepts in rivals.items() if concept in concepts]
    if setup.is_quick:
        return [BANK, *learned, RANDOM, PROMPT]
    return [BANK, PAPER, *learned, RANDOM, PROMPT, PROMPT_AND_BANK]


def _etas(setup: Setup, concept: str) -> Sequence[float]:
    if setup.is_quick:
        return _QUICK_ETAS
    return ETAS if any(concept.startswith(f"{family}_") for family in FAMILIES) else (*_BELOW, *ETAS)


def _findings(setup: Setup, outcomes: Sequence[Outcome], floors: Sequence[Outcome]) -> Findings:
    tables: list[Table] = []
    plots: list[Plot] = []
    conclusions: list[str] = []
    for kind, concepts in setup.kinds.items():
        own = [one for one in outcomes if one.concept in concepts]
        plain = [one for one in floors if one.concept in concepts]
        tables.append(_kind_table(setup, kind, own, plain))
        if (paper := paper_table(kind)) is not None:
            tables.append(paper)
        plots.append(_kind_plot(kind, own, plain))
        conclusions += _conclusions(kind, own, plain)
    conclusions.append(_random_conclusion(outcomes))
    tables.append(_concept_table(outcomes))
    return Findings(
        "e1",
        "E1: one direction at a time",
        "How far does each knob move the music, read by meters that never saw a probe, and what does that cost? Other "
        "ways to the same concept are put beside it: directions learned by other methods on the same clips, a random "
        "direction of the same length, and asking in words.",
        conclusions,
        tables,
        plots,
        {"outcomes": list(outcomes), "unsteered": list(floors)},
    )


def _kind_table(setup: Setup, kind: str, outcomes: Sequence[Outcome], floors: Sequence[Outcome]) -> Table:
    judge = setup.judge(outcomes[0].concept)
    meter = "chroma dominance" if kind == "note" else "chord templates" if kind == "chord" else judge.meter
    external = "" if judge.is_external else "; no external meter hears it, so this is the concept's own probe"
    head = (
        "way",
        "eta",
        "reading",
        "change",
        "named",
        "fd_mel",
        "fd_hidden",
        "mmd_hidden",
        "sounding",
        "prompt heard",
        "clap",
    )
    rows = []
    for way, eta in dict.fromkeys((one.way, one.eta) for one in (*floors, *outcomes)):
        group = [one for one in (*floors, *outcomes) if (one.way, one.eta) == (way, eta)]
        is_itself = way == _UNSTEERED
        cells = [pooled(group, name) for name in ("readings", "changes", "hits")]
        cells += [None if is_itself else pooled_drift(group, name) for name in head[5:8]]
        rows.append([way, f"{eta:g}", *map(told, cells)])
        rows[-1].append(told(sum(one.sounding for one in group) / len(group), 2))
        rows[-1] += [told(pooled(group, name)) for name in ("adherence", "clap")]
    chance = f"; chance of being named is {1 / judge.classes:.3f}" if judge.classes else ""
    note = (
        f"Judged by {meter} ({judge.unit}){external}. Means over {len({one.concept for one in outcomes})} concepts"
        f"{chance}. Change is against unsteered clips of the same seeds."
    )
    return Table(f"{kind}: ours", head, rows, note)


def paper_table(kind: str) -> Table | None:
    """The paper's figures for a kind; None where it has none."""
    if kind not in published.SINGLE:
        return None
    steering = published.SINGLE[kind]
    head = ["paper", *(f"eta {eta:.2f}" for eta in published.ETAS)]
    rows = [["FD", *(f"{value:.3f}" for value in steering.fd)], ["MMD", *(f"{value:.3f}" for value in steering.mmd)]]
    rows.append(["CLAP", *(f"{value:.3f}" for value in steering.clap)])
    if steering.accuracy is not None:
        rows.append([f"probe accuracy (chance {steering.chance:g})", *(f"{value:.3f}" for value in steering.accuracy)])
    dominance = {"note": published.NOTE_DOMINANCE, "chord": published.CHORD_DOMINANCE}.get(kind, {})
    alone = {"note": published.NOTE_DOMINANCE_PROMPT, "chord": published.CHORD_DOMINANCE_PROMPT}
    for name, values in dominance.items():
        rows.append([f"dominance %, {name}", *(f"{value:.1f}" for value in values)])
    if kind in alone:
        rows.append(["dominance %, prompt only", *[f"{alone[kind]:.1f}"] * len(published.ETAS)])
    note = published.NOTE
    if kind == "tempo":
        told_onsets = (
            f"{name}: " + ", ".join(f"{value:.2f}" for value in values) for name, values in published.ONSETS.items()
        )
        etas = ", ".join(f"{eta:.2f}" for eta in published.ONSET_ETAS)
        prompts = ", ".join(f'{value:.2f} "{name}"' for name, value in published.ONSETS_PROMPT.items())
        note += f" Onsets per second at eta {etas}: {'; '.join(told_onsets)}; prompt only: {prompts}."
    return Table(f"{kind}: the paper", head, rows, note)


def _kind_plot(kind: str, outcomes: Sequence[Outcome], floors: Sequence[Outcome]) -> Plot:
    curves = []
    start = pooled([one for one in floors if one.way == _UNSTEERED], "readings")
    assert start is not None
    for way in dict.fromkeys(one.way for one in outcomes):
        bands: dict[float, Interval] = {} if way.startswith("prompt") else {0.0: start}
        for eta in dict.fromkeys(one.eta for one in outcomes if one.way == way):
            found = pooled(_of(outcomes, way, eta), "readings")
            assert found is not None
            bands[eta] = found
        etas = sorted(bands)
        ordered = [bands[eta] for eta in etas]
        style = "s" if way == "prompt" else "o-"
        curves.append(Curve(way, etas, [band.value for band in ordered], ordered, style))
    if kind in ("note", "chord"):
        theirs = published.NOTE_DOMINANCE if kind == "note" else published.CHORD_DOMINANCE
        curves.append(Curve("paper, RFM", published.ETAS, [value / 100 for value in theirs["RFM"]], style="k--"))
    return curves_plot(f"{kind}_control", f"{kind}: what the judge reads", Axes("eta", "reading"), curves)


def _of(outcomes: Sequence[Outcome], way: str, eta: float) -> list[Outcome]:
    return [one for one in outcomes if (one.way, one.eta) == (way, eta)]


def _conclusions(kind: str, outcomes: Sequence[Outcome], floors: Sequence[Outcome]) -> list[str]:
    full = _of(outcomes, BANK.name, 1.0)
    plain, other = _of(floors, _UNSTEERED, 0.0), _of(floors, _OTHER_SEEDS, 0.0)
    lines = [
        f"{kind}: the judge reads {told(pooled(full, 'readings'))} at a full knob and "
        f"{told(pooled(plain, 'readings'))} unsteered; fd_hidden is {told(pooled_drift(full, 'fd_hidden'))}, its floor "
        f"{told(pooled_drift(other, 'fd_hidden'))}"
    ]
    if hits := pooled(full, "hits"):
        lines.append(f"{kind}: named in {told(hits)} of the clips at a full knob")
    low, high = (pooled(_of(outcomes, BANK.name, eta), "readings") for eta in (-1.0, 1.0))
    ratio = high.value / low.value if low is not None and high is not None and low.value else None
    if ratio is not None:
        lines.append(f"{kind}: from -1 to 1 the reading goes from {told(low)} to {told(high)}, {ratio:.2f}-fold")
    heard, before = pooled(full, "adherence"), pooled(plain, "adherence")
    if heard is not None and before is not None:
        lines.append(f"{kind}: classifiers hear what the prompt asks in {told(heard)}, unsteered in {told(before)}")
    return lines + [bar.told(kind) for bar in bars_of(kind, full, plain, ratio)]


@dataclass(frozen=True)
class Bar:
    """What a full knob is expected to do: `found` against `wanted`, at least so much, or at most."""

    what: str
    found: float
    wanted: float
    is_least: bool = True

    def told(self, kind: str) -> str:
        is_reached = self.found >= self.wanted if self.is_least else self.found <= self.wanted
        least = "at least" if self.is_least else "at most"
        reached = "reached" if is_reached else "NOT reached"
        return f"{kind}: {self.what} {self.found:.3f}, expected {least} {self.wanted:g}: {reached}"


def bars_of(kind: str, full: Sequence[Outcome], plain: Sequence[Outcome], ratio: float | None) -> list[Bar]:
    """The bars of a kind, from outcomes at a full knob and unsteered; `ratio` is the reading at 1 over that at -1."""
    values = {name: pooled(full, name) for name in ("readings", "hits", "adherence")}
    before = {name: pooled(plain, name) for name in ("readings", "adherence")}
    bars = []
    if kind in ("note", "chord") and values["readings"] is not None:
        bars.append(Bar("share of frames", values["readings"].value, 0.75 if kind == "note" else 0.5))
    if kind == "note" and before["readings"] is not None:
        bars.append(Bar("share of frames unsteered", before["readings"].value, 0.15, is_least=False))
    if kind in ("mode", "timbre") and values["hits"] is not None:
        bars.append(Bar("share of clips", values["hits"].value, 0.75 if kind == "mode" else 0.7))
    if kind == "tempo" and ratio is not None:
        bars.append(Bar("onset rate at 1 over that at -1", ratio, 1.6))
    if kind == "note" and values["adherence"] is not None and before["adherence"] is not None:
        fall = before["adherence"].value - values["adherence"].value
        bars.append(Bar("fall of what the prompt asks", fall, 0.05, is_least=False))
    return bars


def _random_conclusion(outcomes: Sequence[Outcome]) -> str:
    """Whether a random direction of equal length moves a meter."""
    random = [one for one in outcomes if (one.way, one.eta) == (RANDOM.name, 1.0)]
    moved = [one.concept for one in random if one.change is not None and not one.change.low <= 0.0 <= one.change.high]
    named = f": {', '.join(moved)}" if moved else ""
    return (
        f"a random direction of the same length moves the meter by more than its interval for {len(moved)} of "
        f"{len(random)} concepts (by chance for one in twenty){named}"
    )


def _concept_table(outcomes: Sequence[Outcome]) -> Table:
    rows = [
        [
            *(one.concept, one.way, f"{one.eta:g}"),
            *map(told, (one.reading, one.change, one.hits, one.drift.fd_mel, one.drift.fd_hidden)),
        ]
        for one in outcomes
        if one.eta in (0.0, 1.0)
    ]
    head = ("concept", "way", "eta", "reading", "change", "named", "fd_mel", "fd_hidden")
    return Table("Every concept at a full knob", head, rows)
