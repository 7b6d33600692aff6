"""The trial of thread counts: what it chooses, how long it takes, and what it leaves behind."""

import os

import pytest

from rfm_live.cli.play import read_threads
from rfm_live.engine.threads import TRIAL_SECONDS, choose, thread_counts, try_threads
from rfm_live.errors import StartError


class Machine:
    """A clock that only frames move, by so many milliseconds for each number of threads."""

    def __init__(self, frame_ms: dict[int, float]) -> None:
        self.frame_ms, self.threads, self.now = frame_ms, 0, 0.0
        self.tried: list[int] = []

    def use(self, threads: int) -> None:
        self.threads = threads
        self.tried.append(threads)

    def make_frame(self) -> None:
        self.now += self.frame_ms[self.threads] / 1000

    def clock(self) -> float:
        return self.now


@pytest.mark.parametrize(
    "frame_ms, chosen",
    [
        ({1: 8.0}, 1),
        ({1: 8.0, 2: 7.0}, 1),
        ({1: 8.0, 2: 6.7}, 2),
        ({1: 8.0, 2: 5.0, 4: 4.9}, 2),
        ({1: 8.0, 2: 7.0, 4: 4.0}, 4),
        ({1: 8.0, 2: 90.0}, 1),
    ],
)
def test_more_threads_are_taken_where_they_are_clearly_quicker(frame_ms: dict[int, float], chosen: int) -> None:
    assert choose(frame_ms) == chosen
    machine = Machine(frame_ms)
    trial = try_threads(machine.make_frame, machine.use, list(frame_ms), machine.clock)
    assert trial.threads == machine.threads == chosen
    assert trial.frame_ms == pytest.approx(frame_ms)


@pytest.mark.parametrize("slow_ms", [1.0, 20.0, 400.0])
def test_a_trial_is_short_however_slow_a_number_is(slow_ms: float) -> None:
    machine = Machine({1: 8.0, 2: slow_ms, 4: slow_ms, 8: slow_ms})
    try_threads(machine.make_frame, machine.use, [1, 2, 4, 8], machine.clock)
    assert machine.now <= TRIAL_SECONDS + 4 * 3 * slow_ms / 1000
    assert machine.tried[:2] == [1, 2] and (slow_ms < 8.0) == (4 in machine.tried)


def test_threads_are_read_from_the_command_line() -> None:
    assert [read_threads(text) for text in ("auto", "1", "16")] == [None, 1, 16]
    for wrong in ("0", "257", "-1", "two", "1.5", ""):
        with pytest.raises(StartError, match=f"threads is '{wrong}', expected auto or 1..256"):
            read_threads(wrong)


def test_the_numbers_are_powers_of_two_within_this_process_s_cores() -> None:
    counts = thread_counts()
    assert counts[0] == 1 and counts == [1 << power for power in range(len(counts))]
    assert counts[-1] <= (os.cpu_count() or 1)
