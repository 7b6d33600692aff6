"""SynTheory rendered here, into a cache of FLAC files. Used by concept learning.

Every track is a file of its own, mono, 44.1 kHz, at full level; excerpts are parts of tracks. A file that is there is
whole, so a rendering that was killed goes on where it was. The soundfont stays where the system has it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import soundfile

from rfm_live.concepts.clips import Clip, Collection, Progress, SoundFile, no_progress
from rfm_live.concepts.fluidsynth import SAMPLE_RATE_HZ, installed_soundfont, render_track
from rfm_live.concepts.splits import balanced_subset
from rfm_live.concepts.syntheory import CLIP_SECONDS, Excerpt, Track, concept_set
from rfm_live.errors import ClipError

PEAK = 0.9
LICENCE = "MIT (SynTheory)"
_SILENCE = 1e-4
"""Peak below which a track is the synthesiser's noise floor: the soundfont has no such key."""


@dataclass(frozen=True)
class Rendering:
    """How much is rendered: `subset` excerpts, balanced over classes and instruments, or all.

    `seed` places the excerpts of the click sets; `jobs` tracks are rendered at a time; `soundfont` None is TimGM6mb.
    """

    subset: int | None = None
    seed: int = 0
    jobs: int = 1
    soundfont: Path | None = None

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise ClipError(f"jobs are {self.jobs}, expected 1 or more")


DEFAULT_RENDERING = Rendering()


@dataclass(frozen=True)
class RenderingPlan:
    """What is to be rendered: the `tracks` by file, `jobs` at a time, for the `collection` of clips.

    `file_of` says which track a clip, by its name, is a part of.
    """

    collection: Collection
    file_of: Mapping[str, Path]
    tracks: Mapping[Path, Track]
    soundfont: Path
    jobs: int

    def missing(self) -> dict[Path, Track]:
        """The tracks that are not in the cache."""
        return {file: track for file, track in self.tracks.items() if not file.exists()}

    def render(self, files: Iterable[Path] | None = None, progress: Progress = no_progress) -> None:
        """Render what is missing of `files`, or of all. Raises `ClipError` where a file cannot be written."""
        wanted = self.tracks if files is None else {file: self.tracks[file] for file in files}
        _render_missing(wanted, self.soundfont, self.jobs, progress)


def plan_syntheory(set_name: str, cache: Path, rendering: Rendering = DEFAULT_RENDERING) -> RenderingPlan:
    """The clips of a set and the tracks in `cache` that they are parts of; renders nothing.

    Clips of notes below or above the soundfont's keys are silent and turn out so when read.

    Raises:
        ClipError: there is no such set, or the subset cannot be had.
        StartError: FluidSynth or the soundfont is missing.
    """
    member = concept_set(set_name)
    excerpts = chosen_excerpts(list(member.excerpts(rendering.seed)), rendering.subset)
    soundfont = installed_soundfont(rendering.soundfont)
    version = sha256(soundfont.read_bytes()).hexdigest()[:8]
    folder = cache / f"{soundfont.stem}-{version}" / set_name
    tracks = {folder / f"{excerpt.track_name}.flac": excerpt.track for excerpt in excerpts}
    file_of = {f"{set_name}/{excerpt.name}": folder / f"{excerpt.track_name}.flac" for excerpt in excerpts}
    clips = tuple(
        Clip(
            name,
            excerpt.instrument,
            {member.label: member.label_value(excerpt.label)},
            CLIP_SECONDS,
            SoundFile(file, excerpt.start_seconds, CLIP_SECONDS, PEAK),
        )
        for excerpt, (name, file) in zip(excerpts, file_of.items(), strict=True)
    )
    origin = f"SynTheory's {set_name}, rendered with FluidSynth and {soundfont.name} ({version})"
    return RenderingPlan(Collection(clips, (), origin, LICENCE), file_of, tracks, soundfont, rendering.jobs)


def rendered_syntheory(
    set_name: str, cache: Path, rendering: Rendering = DEFAULT_RENDERING, progress: Progress = no_progress
) -> Collection:
    """The clips of a set, after rendering those of its tracks that are missing in `cache`.

    `progress` counts tracks. Raises as `plan_syntheory` and `RenderingPlan.render`.
    """
    plan = plan_syntheory(set_name, cache, rendering)
    plan.render(progress=progress)
    return plan.collection


def chosen_excerpts(excerpts: Sequence[Excerpt], subset: int | None) -> list[Excerpt]:
    """All excerpts, or `subset` of them, balanced over labels and instruments. Raises `ClipError`."""
    if subset is None:
        return list(excerpts)
    labels, instruments = [item.label for item in excerpts], [item.instrument for item in excerpts]
    return [excerpts[index] for index in balanced_subset(labels, instruments, subset)]


def _render_missing(tracks: Mapping[Path, Track], soundfont: Path, jobs: int, progress: Progress) -> None:
    missing = {file: track for file, track in tracks.items() if not file.exists()}
    done = len(tracks) - len(missing)
    progress(done, len(tracks))
    if not missing:
        return
    try:
        next(iter(tracks)).parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(jobs) as threads:
            waiting = [threads.submit(_render_file, file, track, soundfont) for file, track in missing.items()]
            try:
                for finished in as_completed(waiting):
                    finished.result()
                    done += 1
                    progress(done, len(tracks))
            except BaseException:
                threads.shutdown(cancel_futures=True)
                raise
    except (OSError, soundfile.SoundFileError) as error:
        raise ClipError(f"'{next(iter(tracks)).parent}' cannot be written: {error}") from error


def _render_file(file: Path, track: Track, soundfont: Path) -> None:
    """Write one track, whole or not at all."""
    samples = render_track(track, soundfont)
    peak = float(np.abs(samples).max())
    level = PEAK / peak if peak > _SILENCE else 0.0
    part = file.with_suffix(".part")
    soundfile.write(part, samples * level, SAMPLE_RATE_HZ, subtype="PCM_16", format="FLAC")
    os.replace(part, file)
