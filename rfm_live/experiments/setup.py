"""What all experiments share: the checkpoint, the bank, the clips, who judges, and how an outcome is told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rfm_live.concepts.clap import Clap
from rfm_live.concepts.intervals import Interval, mean_interval
from rfm_live.concepts.sound_classifiers import SoundClassifiers
from rfm_live.errors import StartError
from rfm_live.experiments.conditions import Clips, Heard, Played, Record, Studio, hear
from rfm_live.experiments.drift import RESAMPLES, Drift, drift
from rfm_live.experiments.lessons import Lessons, Stages, silent_stages
from rfm_live.experiments.measures import (
    ClipReader,
    Judge,
    adherence,
    change_interval,
    clap_score,
    judge_of,
    kind_of,
)
from rfm_live.model.checkpoint import MusicGen
from rfm_live.steering.bank import ConceptBank

FLOOR_SEEDS = 100_000
"""How many seeds further on the clips lie that tell the floor of drift."""


@dataclass(frozen=True)
class Setup:
    """One checkpoint, a bank and the `concepts` of it that are looked at, and with what means.

    `lessons` None leaves out what must be learned on the spot. `is_quick` plays little, to see that all works.
    """

    model: MusicGen
    bank: ConceptBank
    concepts: tuple[str, ...]
    clips: Clips
    cache: Path
    lessons: Lessons | None = None
    classifiers: SoundClassifiers | None = None
    clap: Clap | None = None
    is_quick: bool = False
    stages: Stages = field(default=silent_stages)

    @property
    def kinds(self) -> dict[str, list[str]]:
        """The concepts by kind, in their order."""
        found: dict[str, list[str]] = {}
        for name in self.concepts:
            found.setdefault(kind_of(name), []).append(name)
        return found

    def judge(self, concept: str) -> Judge:
        return judge_of(self.bank, concept, self.classifiers)

    def hear(self, bank: ConceptBank, wanted: Iterable[Played]) -> Heard:
        """Play everything wanted, or find it in the cache; `bank` begins with the setup's own."""
        studio = Studio(self.model, bank, self.cache / "records")
        with self.stages("listening") as report:
            return hear(studio, self.clips, wanted, ClipReader(self.model, self.clap), report)


@dataclass(frozen=True)
class Outcome:
    """What one way of steering did to one concept's clips, as its judge and the drift tell it.

    `reading` is on the meter; `change` is against the unsteered clips of the same seeds, above 0 for more of the
    concept, a share of the unsteered reading where the meter is one of Hz or onsets. `hits` is the share of clips in
    which it is heard most. `sounding` is the share of frames louder than -50 dB.
    """

    way: str
    concept: str
    eta: float
    reading: Interval
    change: Interval
    hits: Interval | None
    drift: Drift
    sounding: float
    clap: Interval | None
    adherence: Interval | None


def outcome(
    setup: Setup,
    judge: Judge,
    way: tuple[str, float],
    records: Sequence[Record],
    unsteered: Sequence[Record],
    resamples: int = RESAMPLES,
) -> Outcome:
    """Judge the clips of one way of steering, called `way` with its eta."""
    attributes = [name for name in ("instrument", "drums") if not judge.meter.startswith(name)]
    return Outcome(
        way[0],
        judge.concept,
        way[1],
        judge.reading(records),
        change_interval(judge, records, unsteered),
        judge.hits(records),
        drift(records, unsteered, resamples),
        float(np.mean([record["sounding"] for record in records])),
        clap_score(setup.clap, setup.clips, records),
        adherence(setup.classifiers, setup.clips, records, attributes),
    )


def mean_of(intervals: Sequence[Interval | None]) -> Interval | None:
    """The mean of what was measured of several concepts, and its interval over them; of one concept its own."""
    present = [one for one in intervals if one is not None]
    if len(present) < 2:
        return present[0] if present else None
    return mean_interval([one.value for one in present])


def pooled_change(outcomes: Sequence[Outcome]) -> Interval:
    """The mean change over concepts. Raises StartError where there are none."""
    found = mean_of([one.change for one in outcomes])
    if found is None:
        raise StartError("there are 0 outcomes to take the mean of, expected 1 or more")
    return found


def pooled_drift(outcomes: Sequence[Outcome], name: str) -> Interval:
    """The mean of one distance, a field of `Drift`, over concepts. Raises StartError where there are none."""
    found = mean_of([getattr(one.drift, name) for one in outcomes])
    if found is None:
        raise StartError("there are 0 outcomes to take the mean of, expected 1 or more")
    return found
