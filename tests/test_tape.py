"""The tape: what is written is what is read, and nothing left of the play head ever changes."""

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from rfm_live.engine.tape import Tape, TapeRangeError


@pytest.fixture
def tape() -> Iterator[Tape]:
    with Tape.create(seconds=0.01, sample_rate=1000) as made:  # 10 samples
        yield made


def ramp(start: int, count: int) -> np.ndarray:
    return np.arange(start, start + count, dtype=np.float32)


def test_a_read_returns_what_was_written_across_the_wrap(tape: Tape) -> None:
    rng = np.random.default_rng(1)
    position = 0
    for _ in range(200):
        count = int(rng.integers(0, 8))
        tape.write(ramp(position, count))
        position += count
        back = int(rng.integers(0, 11))
        start = max(0, position - back)
        np.testing.assert_array_equal(tape.read(start, position - start), ramp(start, position - start))
        tape.mark_played(position)
    assert tape.written == position > 10 * tape.capacity


def test_a_second_view_reads_the_same_samples(tape: Tape) -> None:
    tape.write(ramp(0, 7))
    other = Tape.attach(tape.name)
    assert (other.sample_rate, other.capacity, other.written) == (1000, 10, 7)
    np.testing.assert_array_equal(other.read(2, 5), ramp(2, 5))
    other.mark_played(4)
    other.count_underrun()
    assert (tape.played, tape.underruns) == (4, 1)
    other.close()
    other.close()


def test_samples_outside_the_tape_are_refused(tape: Tape) -> None:
    tape.write(ramp(0, 8))
    tape.mark_played(8)
    tape.write(ramp(8, 6))
    np.testing.assert_array_equal(tape.read(4, 10), ramp(4, 10))
    for start, count in ((3, 2), (4, 11), (14, 1), (-1, 1), (5, -1)):
        with pytest.raises(TapeRangeError):
            tape.read(start, count)


def test_a_write_never_crosses_the_play_head(tape: Tape) -> None:
    tape.write(ramp(0, 10))
    with pytest.raises(TapeRangeError, match="play head at 0"):
        tape.write(ramp(10, 1))
    tape.mark_played(3)
    tape.write(ramp(10, 3))
    np.testing.assert_array_equal(tape.read(3, 10), ramp(3, 10))


def test_the_play_head_moves_forward_and_not_past_the_written_mark(tape: Tape) -> None:
    tape.write(ramp(0, 5))
    tape.mark_played(4)
    for position in (3, 6):
        with pytest.raises(TapeRangeError):
            tape.mark_played(position)
    assert tape.played == 4


def test_a_rewind_replaces_the_future_and_keeps_the_past(tape: Tape) -> None:
    tape.write(ramp(0, 8))
    tape.mark_played(3)
    tape.rewind(5)
    tape.write(ramp(100, 4))
    np.testing.assert_array_equal(tape.read(0, 9), [0, 1, 2, 3, 4, 100, 101, 102, 103])
    assert (tape.written, tape.epoch) == (9, 1)


@pytest.mark.parametrize("position", [2, 9])
def test_a_rewind_left_of_the_play_head_or_past_the_end_changes_nothing(tape: Tape, position: int) -> None:
    tape.write(ramp(0, 8))
    tape.mark_played(3)
    with pytest.raises(TapeRangeError, match=r"3\.\.8"):
        tape.rewind(position)
    assert (tape.written, tape.epoch) == (8, 0)
    np.testing.assert_array_equal(tape.read(0, 8), ramp(0, 8))


def test_another_process_sees_the_tape_and_its_exit_does_not_remove_it(tape: Tape) -> None:
    tape.write(ramp(0, 6))
    child = (
        "import sys; from rfm_live.engine.tape import Tape; t = Tape.attach(sys.argv[1]);"
        "assert 'torch' not in sys.modules; print(t.read(0, t.written).sum()); t.mark_played(6); t.close()"
    )
    done = subprocess.run([sys.executable, "-c", child, tape.name], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("15.0", "")
    assert tape.played == 6
    Tape.attach(tape.name).close()


def test_unlinking_ends_the_tape_for_everybody() -> None:
    made = Tape.create(seconds=1, sample_rate=100)
    other = Tape.attach(made.name)
    assert not other.closed
    made.unlink()
    assert other.closed
    with pytest.raises(FileNotFoundError):
        Tape.attach(made.name)
    other.close()


def test_foreign_memory_is_not_taken_for_a_tape() -> None:
    from multiprocessing import shared_memory

    memory = shared_memory.SharedMemory(create=True, size=256)
    try:
        with pytest.raises(ValueError, match="not a tape"):
            Tape.attach(memory.name)
    finally:
        memory.close()
        memory.unlink()


def test_a_tape_without_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="no sample"):
        Tape.create(seconds=0, sample_rate=32000)
