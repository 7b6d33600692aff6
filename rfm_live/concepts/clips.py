"""Labelled audio to learn a concept from: clips that are read when they are needed. Used by all of concept learning.

A clip may turn out to be unfit only when it is read. That is a `Problem` to be listed, never the end of the work:
whoever reads many clips keeps the problems beside the good ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from rfm_live.errors import ClipError

Samples = npt.NDArray[np.float32]
"""Mono, full scale is 1."""
Label = float | str
Progress = Callable[[int, int], None]
"""Is told how many of how many are done."""

SILENCE_DB = -60.0
CLIPPED_SHARE = 0.25
"""Music lies at full scale for a few samples in a thousand; of a badly overdriven recording it is every third."""


def no_progress(done: int, total: int) -> None:
    """A `Progress` that tells nobody."""


@dataclass(frozen=True)
class Problem:
    """Why the clip or file `name` is left out."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class Sound(Protocol):
    """Where a clip's samples come from. Frozen, and can be pickled: other processes read it, too."""

    @property
    def identity(self) -> str:
        """A text that changes when the samples may have changed."""

    def read(self, sample_rate_hz: int) -> Samples:
        """The samples at a rate of 1 Hz or more. Raises `ClipError` with the reason alone."""


@dataclass(frozen=True)
class SoundFile:
    """A part of a file that libsndfile reads: wav, flac, mp3, ogg and more, any rate, any number of channels.

    From `start_seconds` on, `seconds` long or to the end. A `peak` 0..1 scales what is read to that peak; None leaves
    it as loud as it is. Channels are averaged.
    """

    path: Path
    start_seconds: float = 0.0
    seconds: float | None = None
    peak: float | None = None

    @property
    def identity(self) -> str:
        try:
            stat = self.path.stat()
        except OSError:
            return f"{self.path}: missing"
        return (
            f"{self.path.absolute()} {stat.st_size} {stat.st_mtime_ns} {self.start_seconds} {self.seconds} {self.peak}"
        )

    def read(self, sample_rate_hz: int) -> Samples:
        try:
            with soundfile.SoundFile(self.path) as file:
                file.seek(min(round(self.start_seconds * file.samplerate), file.frames))
                count = -1 if self.seconds is None else round(self.seconds * file.samplerate)
                channels = file.read(count, dtype="float32", always_2d=True)  # [N, channels]
                rate = file.samplerate
        except (OSError, soundfile.SoundFileError) as error:
            raise ClipError(why_unreadable(self.path, error)) from error
        return at_rate(checked(channels.mean(axis=1)), rate, sample_rate_hz, self.peak)


@dataclass(frozen=True, eq=False)
class MemorySound:
    """Samples [N] that are in memory, at `sample_rate_hz`: what the model has just played."""

    samples: Samples
    sample_rate_hz: int

    @property
    def identity(self) -> str:
        from hashlib import sha256

        return f"{self.sample_rate_hz} {sha256(np.ascontiguousarray(self.samples).data).hexdigest()}"

    def read(self, sample_rate_hz: int) -> Samples:
        return at_rate(checked(self.samples), self.sample_rate_hz, sample_rate_hz, None)


@dataclass(frozen=True)
class Clip:
    """One labelled piece of audio.

    `name` is unique in its collection and stays the same from run to run. What has the same `group` (an instrument, a
    source file) must not be split between training and held-out clips. `labels` are texts for classes and numbers for
    quantities. `seconds` is the length that is expected.
    """

    name: str
    group: str
    labels: dict[str, Label]
    seconds: float
    sound: Sound

    def read(self, sample_rate_hz: int) -> Samples:
        """Mono samples at `sample_rate_hz`. Raises `ClipError` with the reason: unreadable, silent, NaN, overdriven."""
        return self.sound.read(sample_rate_hz)


@dataclass(frozen=True)
class Collection:
    """Clips to learn from, the files that are left out and why, and whose sound it is.

    `origin` and `licence` go into the concept bank.
    """

    clips: tuple[Clip, ...]
    problems: tuple[Problem, ...]
    origin: str
    licence: str


def checked(samples: Samples) -> Samples:
    """The samples [N] themselves, when something can be learned from them. Raises `ClipError` with the reason."""
    if not len(samples):
        raise ClipError("holds no samples")
    if not np.isfinite(samples).all():
        raise ClipError(f"{int((~np.isfinite(samples)).sum())} of {len(samples)} samples are NaN or infinite")
    level = 10.0 * np.log10(max(float(np.square(samples, dtype=np.float64).mean()), 1e-20))
    if level < SILENCE_DB:
        raise ClipError(f"silent: {level:.0f} dB, expected at least {SILENCE_DB:.0f}")
    loudest = np.abs(samples) >= 0.999 * max(float(np.abs(samples).max()), 0.999)
    if loudest.mean() > CLIPPED_SHARE:
        raise ClipError(f"overdriven: {loudest.mean():.0%} of the samples lie at full scale")
    return samples


def at_rate(samples: Samples, rate_hz: int, wanted_hz: int, peak: float | None) -> Samples:
    """Resample samples [N], and scale them to `peak`."""
    resampled = samples if rate_hz == wanted_hz else soxr.resample(samples, rate_hz, wanted_hz, "HQ")
    if peak is not None and len(resampled):
        resampled = resampled * np.float32(peak / max(float(np.abs(resampled).max()), 1e-9))
    return np.asarray(resampled, np.float32)


def why_unreadable(file: Path, error: Exception) -> str:
    """What is wrong with a sound file that libsndfile refused with `error`, on one line without the file's name."""
    if not file.exists():
        return "does not exist"
    if not file.is_file():
        return "is no file"
    if not file.stat().st_size:
        return "is empty"
    text = " ".join(str(getattr(error, "error_string", error)).split()).rstrip(".").lower()
    return f"cannot be read: {text}"
