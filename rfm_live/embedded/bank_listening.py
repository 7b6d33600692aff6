"""Listening to a set of knobs: how far 1.0 must push, which way, and what knobs do on held-out seeds. Used by `banks`.

Prompts go round the composer's instruments with and without drums, so a knob is always turned against what was asked
for. The judges are the experiments': meters and classifiers that never saw a hidden state. Whatever was played is kept,
so an interrupted run goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rfm_live.concepts.calibration import FULL, STILL_MUSIC, standard_error, with_signs
from rfm_live.concepts.intervals import Interval
from rfm_live.concepts.sound_classifiers import SoundClassifiers
from rfm_live.embedded.composer import Style
from rfm_live.embedded.heard_lessons import FRAMES
from rfm_live.embedded.music_meters import asked_pieces, full_caption
from rfm_live.embedded.style_classifiers import spoken_style
from rfm_live.experiments.conditions import UNSTEERED, Clips, Played, Prompt, Record, turned
from rfm_live.experiments.curves import share_interval
from rfm_live.experiments.drift import drift
from rfm_live.experiments.lessons import Stages
from rfm_live.experiments.measures import Judge, adherence
from rfm_live.experiments.setup import Outcome, Setup, outcome, over_seeds
from rfm_live.experiments.variants import variant_name, with_random
from rfm_live.model.checkpoint import MusicGen
from rfm_live.steering.bank import ConceptBank
from rfm_live.steering.concept_card import Effect

UNITS = (1.0, 1.5, 2.0, 2.5, 3.0)
"""Lengths of a push that are tried, in those that were learned."""
KNOBS = (-1.0, 0.5, 0.75, 1.0, 1.5)
"""What a knob is turned to."""
SETTLE_SECONDS = 2.0
"""From the turning of a knob until it is judged: the longest time for which the composer holds a note."""
_TOP = UNITS[-1] / 2.0  # knob 2 of a trial is the longest push
_CALIBRATION_SEED, _HELD_OUT_SEED, _STYLES_SEED = 100, 5000, 11
RANDOM = "random"
Turned = tuple[str, float]
"""A concept and where its knob is turned to."""


@dataclass(frozen=True)
class Listening:
    """How much is listened to: `seeds` pieces at knob 1 and of a random push, `few` at other values and for the unit.

    `heard_seconds` of each are judged; `lessons` corpus pieces teach the classifiers.
    """

    seeds: int = 8
    few: int = 4
    heard_seconds: float = 4.0
    lessons: int = 1500


@dataclass(frozen=True)
class Curve:
    """One concept: its reading unsteered, its outcomes at every knob value, and at a random push as long as that of 1.

    `change` is that of knob 1, above 0 for more of the concept. Per clip, `adherence` tells how much of what its prompt
    asks is heard unsteered, and `adherence_changes` by knob how much more is heard there.
    """

    concept: str
    judge: Judge
    unsteered: Interval
    by_knob: Mapping[float, Outcome]
    random: Outcome
    random_change: Interval
    change: Interval
    adherence: Sequence[float | None]
    adherence_changes: Mapping[float, Sequence[float | None]]


@dataclass(frozen=True)
class Pair:
    """Two knobs at once: the share of its single effect that each keeps, with the other at full and at `half`, and
    fd_hidden at full over the larger single's. None where a knob alone has no clear effect.
    """

    knobs: tuple[Turned, Turned]
    kept: tuple[Interval | None, ...]
    half: tuple[Interval | None, ...]
    times_drift: float


def prompts(count: int, seed: int) -> tuple[Prompt, ...]:
    """Captions of `count` held-out styles, and what they ask of each attribute that the classifiers hear."""
    styles = [item.style for item in asked_pieces(count, FRAMES, seed)]
    return tuple(Prompt(full_caption(style), spoken(style)) for style in styles)


def spoken(style: Style) -> dict[str, str]:
    """What captions say of a style and the classifiers of banks listen for."""
    asked = spoken_style(style)
    return {"family": asked["family"], "drums": asked["drums"], "texture": style.texture}


class Listener:
    """One checkpoint, heard with any bank: calibration seeds for the units, held-out seeds for the curves."""

    def __init__(
        self, model: MusicGen, classifiers: SoundClassifiers, listening: Listening, cache: Path, stages: Stages
    ) -> None:
        self._model, self._classifiers, self._listening = model, classifiers, listening
        self._cache, self._stages = cache, stages

    def setup(self, bank: ConceptBank, concepts: Sequence[str], count: int, first_seed: int) -> Setup:
        """What the experiments' instruments need to play `concepts` of `bank` with `count` seeds."""
        seeds = range(first_seed, first_seed + count)
        asked = prompts(count, _STYLES_SEED + first_seed)
        clips = Clips(asked, seeds, self._listening.heard_seconds, settle_seconds=SETTLE_SECONDS)
        names = tuple(concepts)
        return Setup(self._model, bank, names, clips, self._cache, classifiers=self._classifiers, stages=self._stages)

    def calibrated(self, bank: ConceptBank) -> ConceptBank:
        """The bank with the unit of each of its concepts, and the sign of those with an opposite, by calibration seeds.

        The unit is the smallest at which nearly most is won of the concept, less what is lost of the prompt
        (`best_units`). The sign is turned where knob 1 gives clearly less of the concept than -1.
        """
        trial = replace(bank, unit=np.full(len(bank.names), _TOP, np.float32))
        setup = self.setup(trial, bank.names, self._listening.few, _CALIBRATION_SEED)
        pushes = {
            (name, way, unit): _pushed(name, way, unit) for name in bank.names for way in _ways(name) for unit in UNITS
        }
        heard = setup.hear(trial, [UNSTEERED, *pushes.values()])
        plain, worths, alives, signs = heard[UNSTEERED], [], [], []
        for name in bank.names:
            judge, ways = setup.judge(name), _ways(name)
            won = {
                (way, unit): np.asarray(judge.changes(heard[pushes[name, way, unit]], plain))
                for way in ways
                for unit in UNITS
            }
            gains = [np.mean([way * won[way, unit] for way in ways], axis=0) for unit in UNITS]
            before = _adhering(setup, judge, plain)
            lost = [
                max(before - np.mean([_adhering(setup, judge, heard[pushes[name, way, unit]]) for way in ways]), 0.0)
                for unit in UNITS
            ]
            alive = [
                min(_sounding(heard[pushes[name, way, unit]]) for way in ways) >= STILL_MUSIC * _sounding(plain)
                for unit in UNITS
            ]
            is_turned = len(ways) == 2 and is_inverted(np.mean(gains, axis=0))
            sign = -1.0 if is_turned else 1.0
            worths.append(sign * np.mean(gains, axis=1) - lost)
            alives.append(alive)
            signs.append(sign)
        units = best_units(np.asarray(worths), np.asarray(alives))
        return replace(with_signs(bank, np.asarray(signs, np.float32)), unit=np.asarray(units, np.float32))

    def curves(self, bank: ConceptBank) -> list[Curve]:
        """What every knob of a calibrated bank does on held-out seeds."""
        listening = self._listening
        many = self.setup(with_random(bank, bank.names), bank.names, listening.seeds, _HELD_OUT_SEED)
        few = replace(many, clips=replace(many.clips, seeds=tuple(many.clips.seeds)[: listening.few]))
        full = {name: Played(turned(name, 1.0)) for name in bank.names}
        randoms = {name: Played(turned(variant_name(RANDOM, name), 1.0)) for name in bank.names}
        others = {(name, knob): Played(turned(name, knob)) for name in bank.names for knob in KNOBS if knob != 1.0}
        heard = many.hear(many.bank, [UNSTEERED, *full.values(), *randoms.values()])
        rest = few.hear(many.bank, others.values())
        found = []
        for name in bank.names:
            judge, plain, start = many.judge(name), heard[UNSTEERED], heard[UNSTEERED][: listening.few]
            outcomes = {
                knob: outcome(few, judge, ("knob", knob), rest[others[name, knob]], start, resamples=2)
                for knob in KNOBS
                if knob != 1.0
            }
            outcomes[1.0] = outcome(many, judge, ("knob", 1.0), heard[full[name]], plain)
            random = outcome(many, judge, (RANDOM, 1.0), heard[randoms[name]], plain, resamples=2)
            found.append(_curve(many, judge, plain, outcomes, random))
        return found

    def pairs(self, bank: ConceptBank, wanted: Sequence[tuple[Turned, Turned]]) -> list[Pair]:
        """What pairs of knobs keep of their single effects, on held-out seeds."""
        setup = self.setup(bank, bank.names, self._listening.seeds, _HELD_OUT_SEED)
        singles = list(dict.fromkeys(knob for pair in wanted for knob in pair))
        ways = [way for pair in wanted for way in (pair, *_with_halves(pair))]
        heard = setup.hear(bank, [UNSTEERED, *map(_played, singles), *(_played(*way) for way in ways)])
        plain, found = heard[UNSTEERED], []

        def changes(knob: Turned, *others: Turned) -> list[float]:
            """How much more of its concept there is, where the knob points down how much less."""
            name, eta = knob
            records = heard[_played(*others) if others else _played(knob)]
            return [float(np.sign(eta)) * one for one in setup.judge(name).changes(records, plain)]

        for pair in wanted:
            half = zip(pair, _with_halves(pair), strict=True)
            alone = max(drift(heard[_played(knob)], plain, resamples=2).fd_hidden.value for knob in pair)
            together = drift(heard[_played(*pair)], plain, resamples=2).fd_hidden.value
            kept = tuple(share_interval(changes(knob, *pair), changes(knob)) for knob in pair)
            beside = tuple(share_interval(changes(knob, *way), changes(knob)) for knob, way in half)
            found.append(Pair(pair, kept, beside, together / max(alone, 1e-9)))
        return found


def _played(*knobs: Turned) -> Played:
    return Played(tuple(setting for name, eta in knobs for setting in turned(name, eta)))


def _with_halves(pair: tuple[Turned, Turned]) -> tuple[tuple[Turned, Turned], ...]:
    """The pair with its second knob halfway, for the first, and with its first halfway, for the second."""
    (first, eta), (second, other) = pair
    return ((first, eta), (second, other / 2)), ((first, eta / 2), (second, other))


def _ways(name: str) -> tuple[float, ...]:
    """Which ways a trial turns a knob: up, and down where the concept has an opposite instead of rivals."""
    return (1.0,) if "_" in name else (1.0, -1.0)


def _pushed(name: str, way: float, unit: float) -> Played:
    """A trial of so many learned lengths."""
    return Played(turned(name, way * unit / _TOP))


def _adhering(setup: Setup, judge: Judge, records: Sequence[Record]) -> float:
    """The share of what the prompts ask that is heard, without what the knob is about."""
    found = adherence(setup.classifiers, setup.clips, records, _beside(judge))
    return float(np.mean([share for share in found if share is not None] or [0.0]))


def _beside(judge: Judge) -> list[str]:
    """What prompts ask that a knob is not about."""
    return [name for name in ("family", "drums") if not judge.meter.startswith(name)]


def _sounding(records: Sequence[Record]) -> float:
    return float(np.mean([record["sounding"] for record in records]))


def best_unit(worth: npt.NDArray[np.float64], alive: npt.NDArray[np.bool_]) -> float:
    """The smallest of UNITS whose `worth` [units] reaches FULL of the most; the smallest of all where none is worth it.

    Only units at which music is `alive` [units] count, unless there is none.
    """
    is_usable = alive if alive.any() else np.ones(len(UNITS), np.bool_)
    most = worth[is_usable].max()
    if most <= 0.0:
        return UNITS[0]
    return UNITS[int(np.flatnonzero(is_usable & (worth >= FULL * most))[0])]


def best_units(worths: npt.NDArray[np.float64], alive: npt.NDArray[np.bool_]) -> list[float]:
    """The best unit of each concept of a bank, of `worths` [concepts, units], at which music is `alive` likewise.

    Half of a worth is the concept's own and half the mean of the bank's: the few clips of one concept say little.
    """
    shared = (worths + worths.mean(axis=0)) / 2
    return [best_unit(own, usable) for own, usable in zip(shared, alive, strict=True)]


def is_inverted(gains: npt.NDArray[np.float64]) -> bool:
    """Whether a knob clearly gives less of its concept turned up than turned down: by two standard errors."""
    return bool(gains.mean() < -2.0 * standard_error(gains))


def _curve(
    setup: Setup, judge: Judge, plain: Sequence[Record], by_knob: Mapping[float, Outcome], random: Outcome
) -> Curve:
    full = by_knob[1.0].clips
    before = adherence(setup.classifiers, setup.clips, plain, _beside(judge))
    changes = {
        knob: [
            None if first is None or second is None else second - first
            for first, second in zip(before, one.clips.adherence, strict=False)  # other knobs play the first clips only
        ]
        for knob, one in by_knob.items()
    }
    return Curve(
        judge.concept,
        judge,
        _known(over_seeds([judge.values(plain)])),
        dict(sorted(by_knob.items())),
        random,
        _known(over_seeds([random.clips.changes])),
        _known(over_seeds([full.changes])),
        before,
        changes,
    )


def _known(found: Interval | None) -> Interval:
    assert found is not None  # there are two seeds or more, and meters answer for every clip
    return found


def effect(curve: Curve) -> Effect:
    """What the card of a concept tells of its curve."""
    at = {knob: one.reading.value for knob, one in curve.by_knob.items() if one.reading is not None}
    random = curve.random.reading
    full, minus = curve.by_knob[1.0].clips.readings, curve.by_knob[-1.0].clips.readings
    moved = np.asarray(
        [up - down for up, down in zip(full, minus, strict=False) if up is not None and down is not None]
    )
    return Effect(
        meter=curve.judge.meter,
        unit=curve.judge.unit,
        is_external=curve.judge.is_external,
        at_minus=at[-1.0],
        at_zero=curve.unsteered.value,
        at_plus=at[1.0],
        at_random=curve.unsteered.value if random is None else random.value,
        standard_error=standard_error(moved),
        seeds=len(moved),
    )


def suggested_range(curve: Curve) -> tuple[float, float]:
    """Up to 1, from -1 where that leaves less of the concept than 0 and is still music."""
    least, minus = curve.judge.sign * curve.unsteered.value, curve.by_knob[-1.0]
    is_less = minus.reading is not None and curve.judge.sign * minus.reading.value < least
    return (-1.0 if is_less and minus.sounding >= STILL_MUSIC else 0.0), 1.0


def is_rising(curve: Curve) -> bool:
    """Whether more knob is more of the concept at every step from -1 over 0 to 1."""
    at = {knob: one.reading.value for knob, one in curve.by_knob.items() if one.reading is not None}
    line = [curve.judge.sign * value for value in (at[-1.0], curve.unsteered.value, at[0.5], at[1.0])]
    return all(second >= first for first, second in pairwise(line))
