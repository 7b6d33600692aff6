"""From directions to knobs: how far knob 1.0 pushes, which way, and what that does to generated music.

Used by concept learning. A direction that tells a concept apart may still move the music the other way, or not at all,
so unit and sign come from music generated with the knob turned both ways, read by an ear that the direction was not
learned from. At unit u a block is pushed u times as far as the clips with the concept lie from those without.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from rfm_live.concepts.clips import Progress, Samples, no_progress
from rfm_live.concepts.effect_meters import Ear
from rfm_live.concepts.meters import SILENCE_DB, frame_levels_db
from rfm_live.concepts.stage import Play, Stage, control_of, with_controls
from rfm_live.errors import StartError
from rfm_live.model.checkpoint import MusicGen
from rfm_live.steering.bank import ConceptBank
from rfm_live.steering.concept_card import OVER_RANDOM, Effect

UNITS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
FULL = 0.95
"""The unit is the smallest of UNITS that reaches this share of a full effect: what the concept's own clips span on the
ear, or the largest of any unit where that is less."""
TRIED_CONCEPTS = 4
"""Concepts that are calibrated together share a unit; so many of them are tried."""
STILL_MUSIC = 0.8
"""A knob leaves music alive as long as this share of the frames that sound without it still sounds."""
KNOBS = (-2.0, -1.0, 0.0, 1.0, 2.0)

_TOP = UNITS[-1]  # the unit of knob 1.0 while units are tried, so that the knob's range reaches twice every unit
_UNIT_SEEDS = 2  # pieces that decide about the unit; the effect is heard in all
_TOLERATED = 0.1  # share of the effect by which more knob may be less of it

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Listening:
    """How much is listened to: each knob value in one piece per seed, played as `play` says."""

    play: Play = field(default_factory=Play)
    seeds: tuple[int, ...] = (1, 2, 3)

    def __post_init__(self) -> None:
        if len(self.seeds) < 2:
            raise StartError(f"{len(self.seeds)} seeds to listen with, expected 2 or more")


@dataclass(frozen=True)
class Heard:
    """What an ear read of a concept: `readings` [5, S] at KNOBS and `random` [S] at a random knob of 1, for S seeds.

    `sounding` [5] is the share of frames that sound, relative to the unsteered music.
    """

    readings: Floats
    random: Floats
    sounding: Floats

    def flipped(self) -> Heard:
        """What would have been read with the direction turned round."""
        return replace(self, readings=self.readings[::-1], sounding=self.sounding[::-1])


def trial_count(concepts: int, seeds: int) -> int:
    """How many pieces with a knob turned a calibration plays: at every unit from both ends and at random, then at KNOBS
    but 0 and the random one.
    """
    tried = min(concepts, TRIED_CONCEPTS)
    return tried * min(seeds, _UNIT_SEEDS) * 3 * len(UNITS) + concepts * seeds * len(KNOBS)


class Trials:
    """A bank's knobs, tried on generated music in units of the class distance; tells `advance` of every trial."""

    def __init__(self, model: MusicGen, bank: ConceptBank, listening: Listening, progress: Progress) -> None:
        self._bank = replace(bank, unit=np.full(len(bank.names), _TOP, np.float32))
        self._stage = Stage(model, with_controls(self._bank), listening.play)
        self._seeds, self._progress = listening.seeds, progress
        self._unit_seeds = self._seeds[:_UNIT_SEEDS]
        self._done, self._count = 0, trial_count(len(bank.names), len(self._seeds))

    def find_unit(self, names: Sequence[str], ears: Mapping[str, Ear]) -> float:
        """The smallest unit at which the contrast between the knob at 1 and at -1 reaches FULL, mean over `names`.

        What a random push of that length moves is taken off OVER_RANDOM times, if anything is left anywhere: where any
        push moves the music, the concept's says nothing. Units that silence the music do not count, unless all do.
        """
        shape = len(names), len(UNITS)
        contrasts, strays, alive = np.zeros(shape), np.zeros(shape), np.ones(shape, np.bool_)
        for row, name in enumerate(names):
            read, twin = ears[name].read, control_of(self._bank, name)
            plain = [self._hear(seed, {}) for seed in self._unit_seeds]
            middle, least = np.mean([read(samples) for samples in plain]), STILL_MUSIC * np.mean(_each_sounding(plain))
            for column, unit in enumerate(UNITS):
                ends = [[self._try(seed, name, knob * unit) for seed in self._unit_seeds] for knob in (-1.0, 1.0)]
                down, up = (np.mean([read(samples) for samples in end]) for end in ends)
                random = np.mean([read(self._try(seed, twin, unit)) for seed in self._unit_seeds])
                contrasts[row, column] = min(abs(float(up - down)), ears[name].span)
                strays[row, column] = OVER_RANDOM * abs(float(random - middle))
                alive[row, column] = np.mean([_each_sounding(end) for end in ends]) >= least
        largest = np.maximum(contrasts.max(axis=1, keepdims=True), 1e-12)
        is_alive = alive.all(axis=0) if alive.all(axis=0).any() else np.ones(len(UNITS), np.bool_)
        reached, own = ((each / largest).mean(axis=0) * is_alive for each in (contrasts, contrasts - strays))
        worth = own if own.max() > 0.0 else reached
        return UNITS[int(np.flatnonzero(worth >= FULL * worth.max())[0])]

    def listen(self, name: str, unit: float, ear: Ear) -> Heard:
        """Everything that is heard of one concept at `unit`."""
        readings, sounding = np.zeros((len(KNOBS), len(self._seeds))), np.zeros(len(KNOBS))
        for row, knob in enumerate(KNOBS):
            heard = [self._try(seed, name, knob * unit) for seed in self._seeds]
            readings[row] = [ear.read(samples) for samples in heard]
            sounding[row] = np.mean([_sounding(samples) for samples in heard])
        twin = control_of(self._bank, name)
        random = np.asarray([ear.read(self._try(seed, twin, unit)) for seed in self._seeds])
        return Heard(readings, random, sounding / max(sounding[KNOBS.index(0.0)], 1e-9))

    def _try(self, seed: int, name: str, units: float) -> Samples:
        if units:
            self._done += 1
            self._progress(self._done, self._count)
        return self._hear(seed, {name: units / _TOP})

    def _hear(self, seed: int, knobs: Mapping[str, float]) -> Samples:
        return self._stage.hear(seed, knobs)


def calibrated(
    model: MusicGen,
    bank: ConceptBank,
    ears: Mapping[str, Ear],
    listening: Listening,
    progress: Progress = no_progress,
) -> ConceptBank:
    """`bank` with one unit for all its concepts, and each one's sign, suggested range and effect as its ear heard it.

    The causal sign replaces that of the labels where it is clear: by two standard errors.
    """
    trials = Trials(model, bank, listening, progress)
    places = np.linspace(0, len(bank.names) - 1, min(len(bank.names), TRIED_CONCEPTS))
    unit = trials.find_unit([bank.names[round(place)] for place in places], ears)
    signs, cards = np.ones(len(bank.names), np.float32), list(bank.cards)
    for index, name in enumerate(bank.names):
        heard = trials.listen(name, unit, ears[name])
        if is_inverted(heard, ears[name].sign):
            signs[index], heard = -1.0, heard.flipped()
        span = suggested_range(heard, ears[name].sign)
        cards[index] = replace(cards[index], effect=effect_of(heard, ears[name]), suggested_range=span)
    turned = with_signs(bank, signs)
    return replace(turned, unit=np.full(len(bank.names), unit, np.float32), cards=tuple(cards))


def with_signs(bank: ConceptBank, signs: npt.NDArray[np.float32]) -> ConceptBank:
    """The bank with the directions of concepts whose sign [C] is -1 turned round, and their projections with them."""
    other = None if bank.other_mean is None else bank.other_mean * signs[:, None]
    directions = bank.directions * signs[:, None, None]
    return replace(bank, directions=directions, mean=bank.mean * signs[:, None], other_mean=other)


def is_inverted(heard: Heard, sign: float) -> bool:
    """Whether turning the knob up clearly gives less of the concept than turning it down."""
    gains = sign * (heard.readings[KNOBS.index(1.0)] - heard.readings[KNOBS.index(-1.0)])  # [S]
    return bool(gains.mean() < -2.0 * standard_error(gains))


def standard_error(values: Floats) -> float:
    """Standard error of the mean of `values` [S]; infinite for a single one."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("inf")


def suggested_range(heard: Heard, sign: float) -> tuple[float, float]:
    """From where to where more knob is more effect and the music goes on, at most -2..2, at least 0..1.

    Below 0 the knob counts where -1 leaves less of the concept than 0 by more than a tenth of the effect of 1.
    """
    far_down, down, middle, up, far_up = sign * heard.readings.mean(axis=1)
    tolerated = _TOLERATED * abs(up - middle)
    is_alive = heard.sounding >= STILL_MUSIC
    high = 2.0 if far_up >= up - tolerated and is_alive[KNOBS.index(2.0)] else 1.0
    if middle - down <= tolerated or not is_alive[KNOBS.index(-1.0)]:
        return 0.0, high
    return (-2.0 if far_down <= down + tolerated and is_alive[KNOBS.index(-2.0)] else -1.0), high


def effect_of(heard: Heard, ear: Ear) -> Effect:
    """What the card tells of it."""
    means = dict(zip(KNOBS, heard.readings.mean(axis=1).tolist(), strict=True))
    moved = heard.readings[KNOBS.index(1.0)] - heard.readings[KNOBS.index(-1.0)]  # [S]
    return Effect(
        meter=ear.name,
        unit=ear.unit,
        is_external=ear.is_external,
        at_minus=means[-1.0],
        at_zero=means[0.0],
        at_plus=means[1.0],
        at_random=float(heard.random.mean()),
        standard_error=standard_error(moved),
        seeds=len(moved),
    )


def _each_sounding(clips: Sequence[Samples]) -> list[float]:
    return [_sounding(samples) for samples in clips]


def _sounding(samples: Samples) -> float:
    """Share of 20 ms frames louder than -50 dB."""
    return float((frame_levels_db(samples) > SILENCE_DB).mean())
