"""The audio timeline in shared memory: a ring of samples that one process writes and others read. No torch here.

Who uses it: the engine process writes, the playout process reads and plays, the server reads for network listeners,
and whoever starts them creates it and unlinks it at the end.

Threading contract. Positions are sample counts from the start of the stream and never wrap; only storage wraps.
- One writer of samples, `written`, `claimed` and `epoch`: the engine. It claims the range, copies the samples, then
  raises `written`, so a reader never sees a `written` whose samples are missing.
- One writer of `played` and `underruns`: the playout. Everything left of `played` has left the building.
- Any number of readers. A read copies first and looks at `claimed` afterwards: a copy that the writer has overtaken
  raises `TapeRangeError` instead of returning mixed samples.
- Left of `played` is history; from `played` to `written` lies a future that `rewind` may take back. `epoch` counts
  rewinds. A rewind that loses the race against the play head is undone and raises.
- Each field is one aligned int64, stored whole. The order of stores is that of the program on x86; on ARM the
  interpreter's work between two stores is the only fence, so a reader stays a few milliseconds off `written`.
"""

import sys
from multiprocessing import resource_tracker, shared_memory
from types import TracebackType

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]

_MAGIC = 0x52464D5441504531  # "RFMTAPE1"
_FIELDS = ("magic", "sample_rate", "capacity", "claimed", "written", "played", "underruns", "epoch", "closed")
_MAGIC_AT, _RATE, _CAPACITY, _CLAIMED, _WRITTEN, _PLAYED, _UNDERRUNS, _EPOCH, _CLOSED = range(len(_FIELDS))
_HEADER_BYTES = 128


class TapeRangeError(IndexError):
    """The asked samples are no longer, or not yet, on the tape; or a write or rewind would cross the play head."""


class Tape:
    """A mono float32 timeline of `capacity` samples; see the module's contract for who may call what."""

    def __init__(self, memory: shared_memory.SharedMemory, owner: bool) -> None:
        self._memory = memory
        self._owner = owner
        header = _header_of(memory)
        if header[_MAGIC_AT] != _MAGIC:
            del header
            memory.close()
            raise ValueError(f"shared memory '{memory.name}' is not a tape")
        self._header = header
        self._capacity = int(header[_CAPACITY])
        self._samples: Samples = np.ndarray(self._capacity, dtype=np.float32, buffer=memory.buf, offset=_HEADER_BYTES)

    @classmethod
    def create(cls, seconds: float = 60.0, sample_rate: int = 32000) -> "Tape":
        """Make a silent tape that holds the last `seconds`; the creator unlinks it."""
        capacity = round(seconds * sample_rate)
        if capacity < 1:
            raise ValueError(f"a tape of {seconds} s at {sample_rate} Hz holds no sample")
        memory = shared_memory.SharedMemory(create=True, size=_HEADER_BYTES + 4 * capacity)
        header = _header_of(memory)
        header[:] = 0
        header[_RATE] = sample_rate
        header[_CAPACITY] = capacity
        header[_MAGIC_AT] = _MAGIC
        del header
        return cls(memory, owner=True)

    @classmethod
    def attach(cls, name: str) -> "Tape":
        """Open the tape that another process made. Raises FileNotFoundError when there is none."""
        return cls(_open_untracked(name), owner=False)

    @property
    def name(self) -> str:
        """The name that `attach` takes."""
        return self._memory.name

    @property
    def sample_rate(self) -> int:
        return int(self._header[_RATE])

    @property
    def capacity(self) -> int:
        """Samples kept before the writer comes round again."""
        return self._capacity

    @property
    def written(self) -> int:
        """End of what may be read."""
        return int(self._header[_WRITTEN])

    @property
    def played(self) -> int:
        """End of what the playout has consumed; nothing left of it ever changes."""
        return int(self._header[_PLAYED])

    @property
    def underruns(self) -> int:
        """How often the playout found the tape empty."""
        return int(self._header[_UNDERRUNS])

    @property
    def epoch(self) -> int:
        """How often the future was taken back."""
        return int(self._header[_EPOCH])

    @property
    def closed(self) -> bool:
        """True once nobody will write any more."""
        return bool(self._header[_CLOSED])

    def write(self, samples: Samples) -> None:
        """Append samples [N] (engine only).

        Raises TapeRangeError when they would overwrite samples that are not played yet.
        """
        count = len(samples)
        start = self.written
        if start + count - self.played > self._capacity:
            raise TapeRangeError(
                f"writing {count} samples at {start} would overwrite the play head at {self.played}, "
                f"the tape holds {self._capacity}"
            )
        self._header[_CLAIMED] = max(int(self._header[_CLAIMED]), start + count)
        at = start % self._capacity
        first = min(count, self._capacity - at)
        self._samples[at : at + first] = samples[:first]
        self._samples[: count - first] = samples[first:]
        self._header[_WRITTEN] = start + count

    def read(self, start: int, count: int) -> Samples:
        """Copy samples [start, start + count) (any process).

        Raises TapeRangeError when part of them is overwritten already or not written yet.
        """
        self._check_range(start, count)
        at = start % self._capacity
        first = min(count, self._capacity - at)
        copy = np.empty(count, dtype=np.float32)
        copy[:first] = self._samples[at : at + first]
        copy[first:] = self._samples[: count - first]
        self._check_range(start, count)
        return copy

    def _check_range(self, start: int, count: int) -> None:
        oldest = max(0, int(self._header[_CLAIMED]) - self._capacity)
        written = self.written
        if count < 0 or start < oldest or start + count > written:
            raise TapeRangeError(f"samples {start}..{start + count} are not on the tape, it holds {oldest}..{written}")

    def mark_played(self, position: int) -> None:
        """Set the play head (playout only): every sample left of `position` has been consumed."""
        if not self.played <= position <= self.written:
            raise TapeRangeError(f"play head {position} is outside {self.played}..{self.written}")
        self._header[_PLAYED] = position

    def count_underrun(self) -> None:
        """Count one time that the playout found the tape empty (playout only)."""
        self._header[_UNDERRUNS] += 1

    def rewind(self, to_sample: int) -> None:
        """Take back everything from `to_sample` on (engine only); the next write continues there.

        Raises TapeRangeError left of the play head (then the tape is as it was) or right of `written`.
        """
        written = self.written
        if not self.played <= to_sample <= written:
            raise TapeRangeError(f"cannot rewind to {to_sample}, only {self.played}..{written} may change")
        self._header[_WRITTEN] = to_sample
        if self.played > to_sample:  # the playout read on between the check and the store
            self._header[_WRITTEN] = written
            raise TapeRangeError(f"cannot rewind to {to_sample}, the play head has passed it")
        self._header[_EPOCH] += 1

    def end(self) -> None:
        """Tell every reader that nobody will write any more."""
        self._header[_CLOSED] = 1

    def close(self) -> None:
        """Let go of this process's view; the tape lives on for the others. Closing twice is harmless."""
        if self._capacity:
            self._capacity = 0
            del self._header, self._samples
            self._memory.close()

    def unlink(self) -> None:
        """End the tape, close it and remove its name (creator only)."""
        if self._capacity:
            self.end()
        self.close()
        if self._owner:
            self._owner = False
            self._memory.unlink()

    def __enter__(self) -> "Tape":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unlink() if self._owner else self.close()


def _header_of(memory: shared_memory.SharedMemory) -> npt.NDArray[np.int64]:
    return np.ndarray(len(_FIELDS), dtype=np.int64, buffer=memory.buf)


def _open_untracked(name: str) -> shared_memory.SharedMemory:
    """Open shared memory without handing it to the resource tracker, whose exit would unlink it for everybody."""
    if sys.version_info >= (3, 13):
        return shared_memory.SharedMemory(name=name, track=False)
    register = resource_tracker.register
    resource_tracker.register = lambda name, rtype: None  # Python < 3.13 has no track=False (bpo-38119)
    try:
        return shared_memory.SharedMemory(name=name)
    finally:
        resource_tracker.register = register
