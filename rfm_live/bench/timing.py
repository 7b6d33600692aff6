"""Clocks of the benchmarks: laps of single steps, subjects measured in turn, quantiles, bandwidth.

A lap is taken on two clocks: the wall's, which the listener hears, and this thread's processor time, which on a CPU
says what the step takes when nothing else runs on its core. Figures are of the second on a CPU, where one thread does
the work, and of the first elsewhere. What is compared is measured in turn within one run, and a ratio is the median of
the rounds' ratios, so that a machine that slows down slows down both.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

Floats = npt.NDArray[np.float64]

_LARGEST_COPY = 1 << 29  # bytes that a bandwidth is measured with at most: far more than any cache holds


@dataclass(frozen=True)
class Laps:
    """Seconds of single steps, the same number of steps in every round: `wall` and `processor` [rounds, steps].

    `times` are those that figures are made of, one or the other.
    """

    wall: Floats
    processor: Floats
    times: Floats

    @classmethod
    def of(cls, rounds: Sequence[Floats], device: torch.device) -> "Laps":
        """From the laps [steps, 2] of every round that stopwatches on `device` took."""
        wall, processor = np.stack(rounds).transpose(2, 0, 1)
        return cls(wall, processor, processor if is_timed_by_processor(device) else wall)

    @property
    def p50_ms(self) -> float:
        return _percentile_ms(self.times, 50)

    def quantiles(self) -> dict[str, float]:
        """p50, p95 and p99 in ms, and p50 and p99 on the wall clock."""
        found = {f"p{percent}_ms": round(_percentile_ms(self.times, percent), 4) for percent in (50, 95, 99)}
        return found | {f"wall_p{percent}_ms": round(_percentile_ms(self.wall, percent), 4) for percent in (50, 99)}

    def wall_ms(self, percent: float) -> float:
        """A percentile of all steps on the wall clock, in ms."""
        return _percentile_ms(self.wall, percent)

    def cost(self, plain: "Laps") -> float:
        """What these steps take more than plain ones: the pairs' median difference over the median plain step."""
        return float(np.median(self.times - plain.times) / np.median(plain.times))


def is_timed_by_processor(device: torch.device) -> bool:
    """Whether figures are of processor time: on a CPU, where the system counts it finely enough."""
    return device.type == "cpu" and time.get_clock_info("thread_time").resolution < 1e-5


def ratio(slower: Laps, faster: Laps) -> float:
    """How many times longer `slower` takes: the median over rounds of the ratio of median steps."""
    return float(np.median(np.median(slower.times, axis=1) / np.median(faster.times, axis=1)))


def _percentile_ms(seconds: Floats, percent: float) -> float:
    return 1000.0 * float(np.percentile(seconds, percent))


class Stopwatch:
    """Takes laps on one device, which has finished its work when a lap ends."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._taken: list[tuple[float, float]] = []
        self.restart()

    def restart(self) -> None:
        """Let the next lap begin here."""
        self._last = self._moment()

    def lap(self) -> None:
        """End a lap; the next one begins here."""
        moment = self._moment()
        self._taken.append((moment[0] - self._last[0], moment[1] - self._last[1]))
        self._last = moment

    def laps(self) -> Floats:
        """The laps taken, [steps, 2]: wall and processor seconds."""
        return np.array(self._taken, dtype=np.float64).reshape(-1, 2)

    def _moment(self) -> tuple[float, float]:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter(), time.thread_time()


def in_turn(blocks: Mapping[str, Callable[[], Floats]], rounds: int, device: torch.device) -> dict[str, Laps]:
    """Run every block once a round, in order; a block answers its laps [steps, 2]. A round before them warms up."""
    taken: dict[str, list[Floats]] = {name: [] for name in blocks}
    for number in range(rounds + 1):
        for name, block in blocks.items():
            laps = block()
            if number:
                taken[name].append(laps)
    return {name: Laps.of(laps, device) for name, laps in taken.items()}


@dataclass(frozen=True)
class Bandwidth:
    """Bytes per second that one thread moves: a copy's reads and writes together, and a sum's reads alone."""

    copy: float
    read: float

    @property
    def best(self) -> float:
        """The fastest that bytes were seen to move: what a floor is computed from."""
        return max(self.copy, self.read)


def bandwidth(device: torch.device, footprint: int, runs: int = 7) -> Bandwidth:
    """Measure with as many bytes as the work in question moves, so that what fits a cache is measured in the cache."""
    # Half of the bytes are read and half written by the copy; the sum reads as many.
    numbers = max(min(footprint, _LARGEST_COPY) // 8, 1024)
    source = torch.ones(numbers, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    both = torch.ones(2 * numbers, dtype=torch.float32, device=device)

    def copied() -> Floats:
        return _timed(device, lambda: target.copy_(source))

    def summed() -> Floats:
        return _timed(device, both.sum)

    laps = in_turn({"copy": copied, "read": summed}, runs, device)
    moved = 8 * numbers
    return Bandwidth(moved / float(laps["copy"].times.min()), moved / float(laps["read"].times.min()))


def _timed(device: torch.device, work: Callable[[], object]) -> Floats:
    watch = Stopwatch(device)
    work()
    watch.lap()
    return watch.laps()
