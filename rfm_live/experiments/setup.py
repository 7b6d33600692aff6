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
    TIMBRES,
    ClipReader,
    Judge,
    adherence,
    clap_scores,
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
class ClipValues:
    """What was read off each clip, in the order of the seeds; None where a clip says nothing of it.

    `changes` are against the unsteered clips of the same seeds, above 0 for more of the concept, as a share of the
    unsteered reading where the meter is one of Hz or onsets. `hits` are 1 where the concept is heard most, None where
    the prompt asks for it anyway. `adherence` is the share of what the prompt asks that is heard.
    """

    readings: Sequence[float | None]
    changes: Sequence[float | None]
    hits: Sequence[float | None]
    adherence: Sequence[float | None]
    clap: Sequence[float | None]


@dataclass(frozen=True)
class Outcome:
    """What one way of steering did to one concept's clips: means of the `clips`, and how far they have drifted.

    `sounding` is the share of frames louder than -50 dB.
    """

    way: str
    concept: str
    eta: float
    reading: Interval | None
    change: Interval | None
    hits: Interval | None
    drift: Drift
    sounding: float
    clips: ClipValues


def outcome(
    setup: Setup,
    judge: Judge,
    way: tuple[str, float],
    records: Sequence[Record],
    unsteered: Sequence[Record],
    resamples: int = RESAMPLES,
) -> Outcome:
    """Judge the clips of one way of steering, called `way` with its eta; `resamples` make the intervals of drift."""
    attributes = [name for name in (*TIMBRES, "drums") if not judge.meter.startswith(name)]
    values = ClipValues(
        judge.values(records),
        judge.changes(records, unsteered),
        judge.hits(setup.clips, records),
        adherence(setup.classifiers, setup.clips, records, attributes),
        clap_scores(setup.clap, setup.clips, records),
    )
    return Outcome(
        way[0],
        judge.concept,
        way[1],
        over_seeds([values.readings]),
        over_seeds([values.changes]),
        over_seeds([values.hits]),
        drift(records, unsteered, resamples),
        float(np.mean([record["sounding"] for record in records])),
        values,
    )


def over_seeds(values: Sequence[Sequence[float | None]]) -> Interval | None:
    """The mean over concepts [C] and seeds [S] of `values`, and its interval over seeds; None where there is no value.

    The clips of one seed begin alike, whatever is steered, so it is seeds that are drawn.
    """
    by_seed = [[one for one in column if one is not None] for column in zip(*values, strict=True)]
    means = [float(np.mean(column)) for column in by_seed if column]
    return mean_interval(means) if means else None


def pooled(outcomes: Sequence[Outcome], name: str) -> Interval | None:
    """The mean over concepts of what `name`, a field of `ClipValues`, says, and its interval over seeds."""
    return over_seeds([getattr(one.clips, name) for one in outcomes])


def pooled_change(outcomes: Sequence[Outcome]) -> Interval:
    """The mean change. Raises StartError where there are no outcomes."""
    return _present(pooled(outcomes, "changes"))


def pooled_drift(outcomes: Sequence[Outcome], name: str) -> Interval:
    """The mean of one distance, a field of `Drift`; of several concepts its interval is over them, of one over clips.

    Raises:
        StartError: there are no outcomes.
    """
    found: list[Interval] = [getattr(one.drift, name) for one in outcomes]
    if len(found) == 1:
        return found[0]
    return _present(mean_interval([one.value for one in found]) if found else None)


def _present(found: Interval | None) -> Interval:
    if found is None:
        raise StartError("there are 0 outcomes to take the mean of, expected 1 or more")
    return found
