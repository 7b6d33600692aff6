"""Whether a machine can play a checkpoint, from what was measured: arithmetic only, no torch. Used by doctor and play.

A frame is 20 ms of music and must be made in less, on average: that is real time. The buffer carries what single frames
take longer: while one is made, what was written before it is heard, so the buffer must be longer than a slow frame and
the one that waits to be written. From a knob to the ear lie the delay pattern (a frame's last codebook comes K - 1
frames after its first), the codec's look-ahead, and the buffer.
"""

from dataclasses import astuple, dataclass
from math import ceil

FRAME_MS = 20.0
LEAST_BUFFER_MS = 60.0
"""The shortest buffer that `play` takes."""
_BUFFER_STEP_MS = 10.0


@dataclass(frozen=True)
class FrameTime:
    """What a frame takes on the wall clock, in ms: its median, 95th and 99th percentile and mean."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    mean_ms: float

    @classmethod
    def steady(cls, milliseconds: float) -> "FrameTime":
        """A time that was computed rather than measured."""
        return cls(milliseconds, milliseconds, milliseconds, milliseconds)

    def later(self, milliseconds: float) -> "FrameTime":
        """With so many ms of other work in every frame."""
        return FrameTime(*(part + milliseconds for part in astuple(self)))


@dataclass(frozen=True)
class Demand:
    """What a checkpoint asks for: `memory_bytes` in all, `codebooks` K, `lookahead_ms` of its codec."""

    memory_bytes: int
    codebooks: int
    lookahead_ms: float


@dataclass(frozen=True)
class Judgement:
    """`reason` says why it cannot be played, and is empty where it can.

    `least_buffer_ms` is None where no buffer helps; `delay_ms` is from knob to sound with the buffer that was judged,
    without the sound card's own.
    """

    can_play: bool
    reason: str
    real_time_factor: float
    least_buffer_ms: float | None
    delay_ms: float


def judge(frame: FrameTime, demand: Demand, buffer_ms: float, machine_bytes: int = 0) -> Judgement:
    """Judge a checkpoint on a machine of `machine_bytes` of memory (0: unknown) with this buffer."""
    reason = too_large(demand.memory_bytes, machine_bytes) or too_slow(frame.mean_ms)
    least = None if reason else least_buffer_ms(frame.p99_ms)
    if least is not None and buffer_ms < least:
        reason = (
            f"a buffer of {buffer_ms:g} ms is too short: one frame in a hundred takes {frame.p99_ms:.1f} ms, "
            f"which needs {least:g} ms"
        )
    return Judgement(not reason, reason, FRAME_MS / frame.mean_ms, least, delay_ms(demand, buffer_ms))


def too_slow(frame_ms: float) -> str:
    """Why frames of so many ms cannot be played, empty where they can."""
    if frame_ms <= FRAME_MS:
        return ""
    return f"a frame of {FRAME_MS:g} ms takes {frame_ms:.1f} ms to make"


def warning(real_time_factor: float) -> str:
    """What to tell who begins to play at this speed, empty where all is well."""
    reason = too_slow(FRAME_MS / real_time_factor)
    return reason and f"{reason}: the sound will have gaps; `rfm-live doctor` tells more"


def too_large(needs_bytes: int, has_bytes: int) -> str:
    """Why so much memory is not to be had, empty where it is or nobody knows."""
    if not has_bytes or needs_bytes <= has_bytes:
        return ""
    return f"it takes {needs_bytes / 1e9:.1f} GB of memory, and there are {has_bytes / 1e9:.1f} GB"


def out_of_reach(moved_bytes: int, bytes_per_second: float) -> str:
    """Why memory alone forbids it, empty where it does not: a frame must move so many bytes."""
    floor_ms = 1000.0 * moved_bytes / bytes_per_second
    if floor_ms <= FRAME_MS:
        return ""
    return (
        f"a frame of {FRAME_MS:g} ms must move {moved_bytes / 1e6:.0f} MB of weights, which takes at least "
        f"{floor_ms:.0f} ms at {bytes_per_second / 1e9:.1f} GB/s"
    )


def least_buffer_ms(p99_ms: float) -> float:
    """The shortest buffer that frames of this 99th percentile leave filled, in steps of 10 ms."""
    needed = p99_ms + FRAME_MS
    return max(LEAST_BUFFER_MS, _BUFFER_STEP_MS * ceil(needed / _BUFFER_STEP_MS))


def delay_ms(demand: Demand, buffer_ms: float) -> float:
    """From a knob to the buffer's other end."""
    return (demand.codebooks - 1) * FRAME_MS + demand.lookahead_ms + buffer_ms
