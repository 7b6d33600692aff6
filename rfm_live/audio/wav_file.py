"""Record the tape into a WAV file in real time, sample for sample. Used by the playout process.

Gaps are not recorded: the file holds what the engine made, in order. Until it is finished the file is called
NAME.part; a crash leaves that and never half a file under the real name, and the next recording takes NAME.part2.
"""

import importlib
import itertools
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from rfm_live.audio.feed import Feed
from rfm_live.audio.null_clock import BLOCK, BlockClock
from rfm_live.errors import AudioError

LONGEST_FILE = (2**32 - 4096) // 4  # float32 samples that fit a WAV header's 32 bits: 9 h 19 min at 32 kHz


class WavSink:
    """A mono float32 WAV file at `path`, at the tape's own rate; an older file of that name is replaced at the end."""

    name = "wav"
    keeps_own_time = True
    block = BLOCK
    dropouts = 0

    def __init__(self, path: Path, rate: int) -> None:
        self.rate = rate
        self._path = path
        self._part = _free_name(path)
        self._file: Any = None  # soundfile.SoundFile
        self._clock: BlockClock | None = None
        self._feed: Feed | None = None
        self._samples = np.zeros(BLOCK, dtype=np.float32)
        self._soundfile = _import_soundfile()

    @property
    def failure(self) -> str | None:
        return self._clock.failure if self._clock is not None else None

    @property
    def latency_ms(self) -> float:
        return 0.0

    def open(self, feed: Feed) -> None:
        self._feed = feed
        try:
            self._file = self._soundfile.SoundFile(
                self._part, "w", samplerate=self.rate, channels=1, format="WAV", subtype="FLOAT"
            )
        except (OSError, self._soundfile.SoundFileError) as error:
            raise AudioError(f"cannot write '{self._part}': {error}") from error
        self._clock = BlockClock(self.rate, self._record)
        self._clock.start()

    def close(self) -> None:
        if self._clock is not None:
            self._clock.stop()
        file, self._file = self._file, None
        if file is None:
            return
        try:
            file.close()
            os.replace(self._part, self._path)
        except (OSError, self._soundfile.SoundFileError) as error:
            raise AudioError(f"cannot finish '{self._path}', look for '{self._part}': {error}") from error

    def describe(self) -> str:
        return f"file {self._path}, {self.rate} Hz"

    def _record(self) -> None:
        assert self._feed is not None and self._file is not None
        count = self._feed.drain(self._samples)
        if self._file.frames + count > LONGEST_FILE:
            raise AudioError(f"'{self._path}' is full, a WAV file holds {LONGEST_FILE} samples")
        try:
            self._file.write(self._samples[:count])
        except (OSError, self._soundfile.SoundFileError) as error:
            raise AudioError(f"cannot write '{self._part}': {error}") from error


def _free_name(path: Path) -> Path:
    """NAME.part, or the first of NAME.part2, NAME.part3, ... that a crash has not left behind."""
    parts = (path.with_name(f"{path.name}.part{number if number > 1 else ''}") for number in itertools.count(1))
    return next(part for part in parts if not part.is_file())


def _import_soundfile() -> ModuleType:
    try:
        return importlib.import_module("soundfile")
    except (ImportError, OSError) as error:
        raise AudioError(f"a WAV file needs the Python package soundfile ({error}): pip install soundfile") from error
