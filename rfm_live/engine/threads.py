"""How many threads a step is quickest with on this machine, found out by trying. Engine process, at start.

One thread is the default: a step is a chain of small products, and where another program wants one of the cores, two
threads that wait for each other are many times slower than one. Sums may round otherwise with another number, so the
same take gives the same samples with the same number of threads; the trial tells which it chose.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

TRIAL_SECONDS = 0.6
LEAST_GAIN = 0.15
"""More threads must be so much quicker to be taken: they are cores that others cannot use."""
_MOST_THREADS, _MOST_FRAMES, _WARM_FRAMES = 16, 24, 2


@dataclass(frozen=True)
class ThreadTrial:
    """`threads` is the choice; `frame_ms` the slow end (9 of 10 are quicker) of a frame by number of threads."""

    threads: int
    frame_ms: Mapping[int, float]


def thread_counts() -> list[int]:
    """What is worth trying here: 1, 2, 4, ... up to the cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return [1 << power for power in range(min(cores, _MOST_THREADS).bit_length())]


def try_threads(
    make_frame: Callable[[], object],
    use: Callable[[int], None],
    counts: Sequence[int],
    clock: Callable[[], float] = time.perf_counter,
) -> ThreadTrial:
    """Make frames with each of `counts` (ascending) in turn and go on with the choice.

    `use` sets the number of threads. It takes about TRIAL_SECONDS and, at worst, three frames of each number more; a
    number that is slower than the one before ends the trial.
    """
    frame_ms: dict[int, float] = {}
    for threads in counts:
        use(threads)
        frame_ms[threads] = _slow_frame(make_frame, TRIAL_SECONDS / len(counts), clock)
        if frame_ms[threads] > min(frame_ms.values()):
            break
    chosen = choose(frame_ms)
    use(chosen)
    return ThreadTrial(chosen, frame_ms)


def choose(frame_ms: Mapping[int, float]) -> int:
    """The fewest threads that no larger number beats by LEAST_GAIN."""
    chosen = min(frame_ms)
    for threads in sorted(frame_ms):
        if frame_ms[threads] < frame_ms[chosen] * (1 - LEAST_GAIN):
            chosen = threads
    return chosen


def _slow_frame(make_frame: Callable[[], object], seconds: float, clock: Callable[[], float]) -> float:
    """Milliseconds that 9 of 10 frames need at most, measured for about `seconds`."""
    times: list[float] = []
    end = clock() + seconds
    while len(times) < _WARM_FRAMES + 1 or (len(times) < _WARM_FRAMES + _MOST_FRAMES and clock() < end):
        started = clock()
        make_frame()
        times.append((clock() - started) * 1000)
    measured = sorted(times[_WARM_FRAMES:])
    return measured[len(measured) * 9 // 10]
