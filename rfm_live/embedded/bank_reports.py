"""What stands beside a bank that ships: a report in Markdown, with the bars of its set and whether they were reached.

Used by `banks`. Every figure is of held-out seeds, with its 95 % interval over seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rfm_live.concepts.intervals import Interval, mean_interval
from rfm_live.embedded.bank_listening import KNOBS, SETTLE_SECONDS, Curve, Pair, is_rising
from rfm_live.experiments import plots
from rfm_live.experiments.report import Plot, told
from rfm_live.experiments.setup import over_seeds
from rfm_live.experiments.v2_several_concepts import KEPT, MOST_DRIFT
from rfm_live.steering.bank import ConceptBank

LEAST_KEPT = -0.05
"""How much less may be heard at knob 1 of what the prompt asks."""
_MOST_BANDS = 4
_HEAD = "| concept | push | judged by | 0 | {knobs} | random 1 | heard most at 1 | change at 1 | fd_hidden |"


@dataclass(frozen=True)
class Bar:
    """One figure of a set, and what it should be: at least `least`, or at most `most`."""

    what: str
    found: Interval
    least: float | None = None
    most: float | None = None

    @property
    def is_reached(self) -> bool:
        high_enough = self.least is None or self.found.value >= self.least
        return high_enough and (self.most is None or self.found.value <= self.most)

    def __str__(self) -> str:
        wanted = f"at least {self.least:g}" if self.least is not None else f"at most {self.most:g}"
        return f"{'reached' if self.is_reached else 'not reached'}: {self.what} {told(self.found)}, wanted {wanted}"


def bars(name: str, curves: Sequence[Curve]) -> list[Bar]:
    """The bars of one set of curves: those of its concepts and that of the prompt."""
    return [*concept_bars(name, curves), *prompt_bars(curves)]


def concept_bars(name: str, curves: Sequence[Curve]) -> list[Bar]:
    """What a set of curves should do with its concepts."""
    reading = over_seeds([curve.by_knob[1.0].clips.readings for curve in curves])
    hits = over_seeds([curve.by_knob[1.0].clips.hits for curve in curves])
    found: list[Bar] = []
    if name == "notes" and reading is not None:
        plain = Interval(
            *(float(np.mean([getattr(one.unsteered, end) for one in curves])) for end in ("value", "low", "high"))
        )
        found = [Bar("share of frames that the note dominates at 1", reading, least=0.75)]
        found += [Bar("the same unsteered, mean of the notes' intervals", plain, most=0.15)]
    elif name == "chords" and reading is not None:
        found = [Bar("share of sounding frames with a triad of the quality at 1", reading, least=0.5)]
    elif name == "mode":
        found = [Bar(f"share of clips in {one.concept[5:]} at 1", _share(one), least=0.75) for one in curves]
    elif name == "tempo":
        found = [Bar("onset rate at 1 over that at -1", _ratio(curves[0]), least=1.6)]
    elif name in ("timbres", "drums", "textures") and hits is not None:
        found = [Bar("share of clips named by the classifier where the prompt said another", hits, least=0.7)]
    return found


def prompt_bars(curves: Sequence[Curve]) -> list[Bar]:
    """What a set of curves should leave of the prompt; nothing where prompts ask for nothing else."""
    kept = over_seeds([curve.adherence_changes[1.0] for curve in curves])
    before = over_seeds([curve.adherence for curve in curves])
    if kept is None or before is None:
        return []
    what = f"change at 1 of what is heard of the prompt's instrument and drums, unsteered {told(before)}"
    return [Bar(what, kept, least=LEAST_KEPT)]


def reasons(name: str, bank: ConceptBank, curves: Sequence[Curve]) -> list[str]:
    """Why a set does not reach its bars, as far as what was heard and learned tells; nothing where it reaches them."""
    lines = []
    if any(bar.least is not None and not bar.is_reached for bar in concept_bars(name, curves)):
        best = [float(scores.max()) for scores in bank.scores]
        areas = ", ".join(f"{one} {score:.2f}" for one, score in zip(bank.names, best, strict=True))
        lines.append(
            "how well the best block tells turns with the concept from others, as the area under the curve (.5 is not "
            f"at all): {areas}; what the composer's own turns read stands in `embedded_reference.md`"
        )
    if not all(bar.is_reached for bar in prompt_bars(curves)):
        rows = {knob: (reading, kept) for knob, reading, kept in _costs(curves) if 0.0 < knob and reading and kept}
        cheap = [knob for knob, (_, kept) in rows.items() if kept.value >= LEAST_KEPT]
        told_cheap = [f"{knob:g} ({rows[knob][0].value:.3f} of the concept)" for knob in cheap]
        lines.append(
            "more of the concept costs more of the prompt (below); the prompt keeps to its bar at "
            f"{', '.join(told_cheap) or 'no value that was heard'}"
        )
    return lines


def _costs(curves: Sequence[Curve]) -> list[tuple[float, Interval | None, Interval | None]]:
    """Of every knob value: the mean reading of a set, and how much more of the prompt is heard than unsteered."""
    return [
        (
            knob,
            over_seeds([curve.by_knob[knob].clips.readings for curve in curves]),
            over_seeds([curve.adherence_changes[knob] for curve in curves]),
        )
        for knob in KNOBS
    ]


def _share(curve: Curve) -> Interval:
    """The share of clips at knob 1 in which the concept is what is heard."""
    return mean_interval([hit for hit in curve.by_knob[1.0].clips.hits if hit is not None])


def _ratio(curve: Curve, resamples: int = 2000) -> Interval:
    """The mean reading at 1 over that at -1; seeds are drawn that were played at both."""
    pairs = [
        (up, down)
        for up, down in zip(curve.by_knob[1.0].clips.readings, curve.by_knob[-1.0].clips.readings, strict=False)
        if up is not None and down is not None
    ]
    table = np.asarray(pairs, np.float64)  # [S, 2]
    drawn = table[np.random.default_rng(0).integers(0, len(table), (resamples, len(table)))].mean(axis=1)  # [R, 2]
    low, high = np.quantile(drawn[:, 0] / np.maximum(drawn[:, 1], 1e-9), (0.025, 0.975))
    up, down = table.mean(axis=0)
    return Interval(float(up / max(down, 1e-9)), float(low), float(high))


def report(name: str, bank: ConceptBank, curves: Sequence[Curve], command: str) -> str:
    """The whole report of one set."""
    clips = len(curves[0].by_knob[1.0].clips.readings), len(curves[0].by_knob[0.5].clips.readings)
    lines = [
        f"# The bank `embedded_{name}`",
        "",
        f"Made by `{command}` for the checkpoint with sha256 {bank.checkpoint_sha256[:12]}.",
        f"Learned by: {bank.cards[0].method}. From {bank.cards[0].origin}, {bank.cards[0].licence}.",
        f"Knob 1 pushes so many times as far as was learned as `push` says{_gated(bank)}, the most that is worth what "
        f"it costs of the prompt on calibration seeds. Heard on held-out seeds: {clips[0]} pieces at 1 "
        f"and of the random control, {clips[1]} at the other values. Each goes on from bars that nobody steered, under "
        "a prompt that names instrument, drums, tempo, density and texture, and is judged from "
        f"{SETTLE_SECONDS:g} s after the knob has turned. In brackets 95 % intervals over seeds.",
        "",
        *(f"- {bar}" for bar in bars(name, curves)),
        *(f"- {line}" for line in (*_cannot(curves), *reasons(name, bank, curves))),
        "",
        "## Effect",
        "",
        *_effects(bank, curves),
        "",
        f"![What the knobs do](embedded_{name}.png)",
        "",
        "## What it costs",
        "",
        "The mean of the knobs, and how much more is heard than unsteered of the instrument and drums that the prompt "
        "asks for.",
        "",
        "| knob | reading | prompt |",
        "| --- | --- | --- |",
        *(f"| {knob:g} | {told(reading)} | {told(kept)} |" for knob, reading, kept in _costs(curves)),
        "",
        "## How well each block tells the concept apart",
        "",
        "Area under the curve on turns that were held out.",
        "",
        *_scores(bank),
    ]
    return "\n".join(lines) + "\n"


def _gated(bank: ConceptBank) -> str:
    """In which share of the frames the knobs of a set push, where that is not all."""
    gate = float(bank.gate[0])
    return f", in {gate:.0%} of the frames, drawn one by one" if gate < 1.0 else ""


def picture(name: str, curves: Sequence[Curve]) -> Plot:
    """What every knob of a set does, with its bands if they are few, a random push as long as at 1, and, where shares
    are read, how much is heard of what the prompt asks.
    """
    lines = []
    for curve in curves:
        heard = {0.0: curve.unsteered} | {knob: one.reading for knob, one in curve.by_knob.items() if one.reading}
        knobs = sorted(heard)
        bands = [heard[knob] for knob in knobs]
        shown = bands if len(curves) <= _MOST_BANDS else None
        lines.append(plots.Curve(curve.concept, knobs, [band.value for band in bands], shown))
    randoms = [curve.random.reading.value for curve in curves if curve.random.reading is not None]
    lines.append(plots.Curve("random push", [1.0] * len(randoms), randoms, style="kx"))
    judges = dict.fromkeys(f"{curve.judge.meter}, {curve.judge.unit}" for curve in curves)
    before = over_seeds([curve.adherence for curve in curves])
    if before is not None and all(curve.judge.unit.startswith("share") for curve in curves):
        kept = {0.0: before.value} | {knob: before.value + more.value for knob, _, more in _costs(curves) if more}
        lines.append(
            plots.Curve("prompt's family, drums", sorted(kept), [kept[knob] for knob in sorted(kept)], None, "k--")
        )
    axes = plots.Axes("knob", "share of clips or frames" if len(judges) > 1 else next(iter(judges)))
    return plots.curves_plot(f"embedded_{name}", f"The bank embedded_{name} on held-out seeds", axes, lines)


def _effects(bank: ConceptBank, curves: Sequence[Curve]) -> list[str]:
    knobs = " | ".join(f"{knob:g}" for knob in KNOBS)
    rows = [_HEAD.format(knobs=knobs), "| " + " | ".join(["---"] * (len(KNOBS) + 8)) + " |"]
    for curve, unit in zip(curves, bank.unit, strict=True):
        full = curve.by_knob[1.0]
        cells = [curve.concept, f"{unit:g}", f"{curve.judge.meter}, {curve.judge.unit}", told(curve.unsteered)]
        cells += [told(curve.by_knob[knob].reading) for knob in KNOBS]
        cells += [told(curve.random.reading), told(full.hits), told(curve.change), told(full.drift.fd_hidden)]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def _cannot(curves: Sequence[Curve]) -> list[str]:
    """What the knobs cannot do, in words."""
    silent = [one.concept for one in curves if one.change.low <= 0.0]
    bent = [one.concept for one in curves if not is_rising(one)]
    moved = [one.concept for one in curves if not one.random_change.low <= 0.0 <= one.random_change.high]
    like_random = [one.concept for one in curves if _beyond_random(one).low <= 0.0]
    lines = []
    if silent:
        lines.append(f"no clear effect at 1: {', '.join(silent)}")
    if bent:
        lines.append(f"more knob is not always more effect from -1 to 1: {', '.join(bent)}")
    lines.append(
        f"a random push of equal length moves the meter beyond its interval for: {', '.join(moved)}"
        if moved
        else "a random push of equal length moves no meter beyond its interval"
    )
    lines.append(
        f"at 1 not clearly more of the concept than with the random push: {', '.join(like_random)}"
        if like_random
        else "at 1 every knob gives clearly more of its concept than the random push"
    )
    return lines


def _beyond_random(curve: Curve) -> Interval:
    """How much more of its concept a knob at 1 gives than the random push does, clip by clip."""
    both = zip(curve.by_knob[1.0].clips.changes, curve.random.clips.changes, strict=True)
    found = over_seeds([[None if one is None or other is None else one - other for one, other in both]])
    assert found is not None  # there are two seeds or more, and meters answer for every clip
    return found


def _scores(bank: ConceptBank) -> list[str]:
    rows = ["| concept | " + " | ".join(f"block {layer}" for layer in range(bank.layers)) + " |"]
    rows.append("| " + " | ".join(["---"] * (bank.layers + 1)) + " |")
    for name, scores in zip(bank.names, bank.scores, strict=True):
        rows.append(f"| {name} | " + " | ".join(f"{score:.2f}" for score in scores) + " |")
    return rows


def pair_report(pairs: Sequence[Pair], sha256: str, command: str) -> str:
    """What pairs of knobs do together, with their bars."""
    shares = [share.value for pair in pairs for share in pair.kept if share is not None]
    kept, within = sum(share >= KEPT for share in shares), sum(pair.times_drift <= MOST_DRIFT for pair in pairs)
    lines = [
        "# Two knobs of the embedded banks at once",
        "",
        f"Made by `{command}` for the checkpoint with sha256 {sha256[:12]}. A share is that of the concept's single "
        "effect, behind it stands the share that is kept where the other knob is turned only halfway; a dash where a "
        "knob alone has no clear effect. Drift is fd_hidden over the larger single one. In brackets 95 % intervals "
        "over seeds.",
        "",
        f"- {kept} of {len(shares)} effects keep {KEPT:.0%} or more of what they are alone",
        f"- in {within} of {len(pairs)} pairs the drift is at most {MOST_DRIFT:g} times the larger single one",
        "",
        "| pair | first keeps | other at half | second keeps | other at half | drift |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for pair in pairs:
        both = " + ".join(f"{name} {eta:g}" for name, eta in pair.knobs)
        shown = " | ".join(told(share, 2) for two in zip(pair.kept, pair.half, strict=True) for share in two)
        lines.append(f"| {both} | {shown} | {pair.times_drift:.2f} |")
    return "\n".join(lines) + "\n"
