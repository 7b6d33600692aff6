"""What learning a bank will take, in seconds and bytes: how much there is to do times a measured fraction of it.

Used by `rfm-live learn --dry-run`. `work_of` and `forecast` are arithmetic; `rehearsal` measures a few clips, one block
of one concept and one piece of music, each at the full size that the learning will have, so peaks are those of the
learning; what is larger there (a whole shard of activations) is added by arithmetic.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from rfm_live.concepts.activations import DEFAULT_READING, ActivationStore, ClipRecord, compute_activations
from rfm_live.concepts.calibration import Listening, trial_count
from rfm_live.concepts.clips import Collection, Progress, no_progress
from rfm_live.concepts.directions import learn_concept
from rfm_live.concepts.effect_meters import METERS, readings
from rfm_live.concepts.learning import LearningSettings, meter_places, norm_clips, some_of, wanted_meter
from rfm_live.concepts.probes import RecursiveFeatures
from rfm_live.concepts.shards import Shard, write_shard
from rfm_live.concepts.splits import split_clips
from rfm_live.concepts.stage import Stage, with_controls
from rfm_live.concepts.states import Reading, read_points
from rfm_live.concepts.syntheory_audio import RenderingPlan
from rfm_live.concepts.targets import Concept, classes_of, concepts_of
from rfm_live.errors import ClipError
from rfm_live.model.checkpoint import MusicGen
from rfm_live.steering.bank import ConceptBank

MEASURED_CLIPS = 8
_SHARD_COPIES = 3
"""A shard that is written lies in memory as batches, joined, and in float16 twice."""
_PHASES = 4
_WARM_UP_SECONDS = 0.2


@dataclass(frozen=True)
class Amounts:
    """As work: how much there is of everything. As pace: how many seconds one of it takes.

    `track_seconds` of sound to render, `clip_seconds` to read with the model, `fits` of one concept at one block,
    `meter_clips` that all meters hear, `music_seconds` to play with a knob turned, `hearings` of a piece by an ear.
    """

    track_seconds: float = 0.0
    clip_seconds: float = 0.0
    fits: float = 0.0
    meter_clips: float = 0.0
    music_seconds: float = 0.0
    hearings: float = 0.0


@dataclass(frozen=True)
class Task:
    """What is to be learned: `collection` (from `plan`, where it is rendered) with its `label`, as `name`, and how.

    `listening` None learns without listening; `meter` is what hears the effect.
    """

    collection: Collection
    plan: RenderingPlan | None
    label: str
    name: str
    settings: LearningSettings
    listening: Listening | None
    meter: str
    reading: Reading = DEFAULT_READING


@dataclass(frozen=True)
class Forecast:
    """Seconds of each part of the learning, its largest memory, and how long it took to find that out."""

    clips: int
    concepts: tuple[str, ...]
    starting: float
    rendering: float
    reading: float
    learning: float
    listening: float
    peak_bytes: int
    measured_seconds: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.starting + self.rendering + self.reading + self.learning + self.listening


def forecast(work: Amounts, pace: Amounts) -> dict[str, float]:
    """Seconds of the parts `rendering`, `reading`, `learning` and `listening`."""
    return {
        "rendering": work.track_seconds * pace.track_seconds,
        "reading": work.clip_seconds * pace.clip_seconds,
        "learning": work.fits * pace.fits,
        "listening": work.meter_clips * pace.meter_clips
        + work.music_seconds * pace.music_seconds
        + work.hearings * pace.hearings,
    }


def listening_work(concepts: int, listening: Listening) -> Amounts:
    """What `calibrated` plays and hears: trials, and per seed an opening and a piece without knobs.

    Every trial is heard once, and each concept's ear hears the piece of every seed without knobs.
    """
    play, seeds = listening.play, len(listening.seeds)
    trials, piece = trial_count(concepts, seeds), play.settle_seconds + play.heard_seconds
    music = trials * piece + seeds * (play.lead_seconds + piece)
    return Amounts(music_seconds=music, hearings=trials + seeds * concepts)


def work_of(task: Task, concepts: Sequence[Concept], layers: int) -> Amounts:
    """How much there is to do. All clips are read, whatever is in the cache; of the tracks those that are missing."""
    clips = task.collection.clips
    spectra = len(concepts) if isinstance(task.settings.probe, RecursiveFeatures) else 0
    work = Amounts(
        track_seconds=0.0 if task.plan is None else sum(track.seconds for track in task.plan.missing().values()),
        clip_seconds=sum(clip.seconds for clip in (*clips, *norm_clips(task.collection))),
        fits=len(concepts) * layers + spectra,
    )
    if task.listening is None:
        return work
    heard = {place for concept in concepts for place in meter_places(concept)} if task.meter != "probe" else set()
    played = listening_work(len(concepts), task.listening)
    return replace(work, meter_clips=len(heard), music_seconds=played.music_seconds, hearings=played.hearings)


def shard_bytes(clips: int, layers: int, width: int, segments: int) -> int:
    """What the points of so many clips take in float32: mean, last and segments of every block."""
    return 4 * clips * layers * (2 + segments) * width


def rehearsal(model: MusicGen, task: Task, starting: float, progress: Progress = no_progress) -> Forecast:
    """Measure a fraction of `task` and answer what all of it will take, after `starting` seconds.

    Tracks that had to be rendered for it stay in the cache; nothing else is kept.

    Raises:
        ClipError: what the learning itself would be refused for, as far as a fraction shows it.
    """
    began = time.perf_counter()
    starting += _seconds(lambda: model.sha256)
    with TemporaryDirectory() as place:
        folder = Path(place)
        noise, concepts = _one_block(model, task, folder)
        work = work_of(task, concepts, model.config.decoder.layers)
        sample = replace(task.collection, clips=tuple(some_of(task.collection.clips, MEASURED_CLIPS)))
        pace = Amounts(track_seconds=_rendering_pace(task, sample))
        progress(1, _PHASES)
        pace = replace(pace, clip_seconds=_reading_pace(model, task, sample, folder))
        more_clips = min(task.reading.shard, len(task.collection.clips)) - len(sample.clips)
        shape = (model.config.decoder.layers, model.config.decoder.width, task.reading.segments)
        reading_peak = peak_bytes() + _SHARD_COPIES * shard_bytes(more_clips, *shape)
        progress(2, _PHASES)
        pace = replace(pace, fits=_fit_pace(noise, concepts[0], task))
        progress(3, _PHASES)
        if task.listening is not None:
            heard = _listening_pace(model, task, task.listening, concepts)
            starting += heard.opening
            pace = replace(pace, meter_clips=heard.meters, music_seconds=heard.music, hearings=heard.hearing)
        progress(4, _PHASES)
    return Forecast(
        clips=len(task.collection.clips),
        concepts=tuple(concept.name for concept in concepts),
        starting=starting,
        peak_bytes=max(reading_peak, peak_bytes()),
        measured_seconds=time.perf_counter() - began,
        **forecast(work, pace),
    )


def peak_bytes() -> int:
    """The largest memory that this process has had."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage's number is inherited from the process that started this one
        lines = (line.split() for line in status.read_text().splitlines())
        return next(int(fields[1]) * 1024 for fields in lines if fields[0] == "VmHWM:")
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def _one_block(model: MusicGen, task: Task, folder: Path) -> tuple[ActivationStore, list[Concept]]:
    """Activations of one block as those of all clips will be, of noise with the first concept in it; the concepts."""
    clips, reading, width = task.collection.clips, task.reading, model.config.decoder.width
    records = tuple(ClipRecord(clip.name, clip.group, clip.labels) for clip in clips)
    names = [f"shard_{start}" for start in range(0, len(clips), reading.shard)]
    store = ActivationStore(folder, records, (), model.sha256, reading, "", "", 1, width, tuple(names))
    concepts = concepts_of(store.labels(task.label), task.name)
    rng = np.random.default_rng(0)
    for name, start in zip(names, range(0, len(clips), reading.shard), strict=True):
        shifts = concepts[0].is_with[start : start + reading.shard]
        segments = rng.standard_normal((len(shifts), 1, reading.segments, width)).astype(np.float32)
        segments[..., 0] += shifts[:, None, None]
        points = {"mean": segments.mean(axis=2), "last": segments[:, :, -1], "segments": segments}
        write_shard(folder / name, Shard("", (), ()), points)
    return store, concepts


def _rendering_pace(task: Task, sample: Collection) -> float:
    """Seconds per second of a track, rendered `jobs` at a time; 0 where nothing is to be rendered."""
    if task.plan is None:
        return 0.0
    missing = task.plan.missing()
    files = {task.plan.file_of[clip.name] for clip in sample.clips}
    seconds = sum(missing[file].seconds for file in files & missing.keys())
    began = time.perf_counter()
    task.plan.render(files)
    return (time.perf_counter() - began) / seconds if seconds else 0.0


def _reading_pace(model: MusicGen, task: Task, sample: Collection, folder: Path) -> float:
    """Seconds per second of a clip, after a second of noise that warms up."""
    read_points(model, 0.1 * torch.randn(1, model.config.sample_rate), replace(task.reading, segments=1))
    began = time.perf_counter()
    store = compute_activations(model, sample, folder / "sample", task.reading)
    took = time.perf_counter() - began
    kept = {clip.name for clip in store.clips}
    return took / sum(clip.seconds for clip in sample.clips if clip.name in kept)


def _fit_pace(noise: ActivationStore, concept: Concept, task: Task) -> float:
    """Seconds of one concept at one block, from as many points as there will be."""
    settings = task.settings
    split = split_clips(noise.groups, classes_of(noise.labels(task.label)), settings.held_share, settings.seed)
    began = time.perf_counter()
    try:
        learn_concept(noise, concept, settings.probe, settings.pooling, split, settings.most_points)
    except ValueError as error:
        raise ClipError(f"concept '{concept.name}': {error}") from error
    return time.perf_counter() - began


@dataclass(frozen=True)
class _Listened:
    """Seconds: to open the stage and the meters once, for a second of music, for all meters, for a concept's ear."""

    opening: float
    music: float
    meters: float
    hearing: float


def _listening_pace(model: MusicGen, task: Task, listening: Listening, concepts: Sequence[Concept]) -> _Listened:
    bank = any_bank(model, [concept.name for concept in concepts])
    knobs, play = {bank.names[0]: 1.0}, listening.play
    began = time.perf_counter()
    short = replace(play, lead_seconds=_WARM_UP_SECONDS, settle_seconds=0.0, heard_seconds=_WARM_UP_SECONDS)
    Stage(model, with_controls(bank), short).hear(listening.seeds[0], knobs)
    stage = Stage(model, with_controls(bank), play)
    opening, began = time.perf_counter() - began, time.perf_counter()
    heard = stage.hear(listening.seeds[0], knobs)
    music = (time.perf_counter() - began) / (play.lead_seconds + play.settle_seconds + play.heard_seconds)
    opening += _seconds(lambda: readings(heard))  # the first time compiles
    families = {family: _seconds(partial(family, heard)) for family in {family for _, family in METERS.values()}}
    whole = heard[: len(heard) // model.config.hop * model.config.hop]
    probe = _seconds(lambda: read_points(model, torch.from_numpy(whole)[None], task.reading))
    ears = []
    for concept in concepts:
        wanted = wanted_meter(concept.name, task.meter)
        ears.append(families[METERS[wanted][1]] if wanted in METERS else max(probe, *families.values()))
    return _Listened(opening, music, sum(families.values()), float(np.mean(ears)))


def any_bank(model: MusicGen, names: Sequence[str]) -> ConceptBank:
    """Knobs of these names that push next to nowhere: they cost what learned ones do."""
    decoder = model.config.decoder
    count, layers = len(names), decoder.layers
    directions = np.random.default_rng(0).standard_normal((count, layers, decoder.width)).astype(np.float32)
    tables: dict[str, Any] = dict.fromkeys(
        ("scores", "mean", "spread", "other_mean", "other_spread", "residual_norm"),
        np.ones((count, layers), np.float32),
    )
    return ConceptBank(
        names=tuple(names),
        directions=directions / np.linalg.norm(directions, axis=-1, keepdims=True),
        unit=np.ones(count, np.float32),
        layer_weights=np.full((count, layers), 1e-4, np.float32),
        gate=np.ones(count, np.float32),
        period=np.ones(count, np.int64),
        checkpoint_sha256=model.sha256,
        **tables,
    )


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
