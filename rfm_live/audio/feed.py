"""From the tape to the device's rate: reads, resamples, and keeps a small lead in a ring for the device callback.

Used by the playout process. Two threads meet here. The feeder side (`pump`) reads the tape, is the only writer of its
`played` and `underruns`, and fills the ring; it runs on the feed's own thread (`start`) for a sound device, or on the
sink's thread for a sink that keeps its own time (`pull`, `drain`). The device side (`fill`) copies, fades and counts.

The lead is two device blocks and a few milliseconds. It comes on top of the prebuffer on the tape, cannot be taken back
by a rewind and so adds to the time from knob to ear: keep it small. soxr's bursts and waiting input come on top, too.
A sink that keeps its own time needs no lead: it is served block by block.
"""

import threading
import time

import numpy as np
import numpy.typing as npt

from rfm_live.audio.options import PlayoutOptions
from rfm_live.audio.resampler import Resampler
from rfm_live.audio.ring import SampleRing
from rfm_live.audio.voice import Voice
from rfm_live.engine.tape import Tape, TapeRangeError

Samples = npt.NDArray[np.float32]

_NO_SAMPLES: Samples = np.zeros(0, dtype=np.float32)
_READ = 160  # samples per read of the tape: 5 ms, so that `played` runs ahead of the device by little
_POLL_SECONDS = 0.002


class Feed:
    """The tape's samples at `rate`, from its play head on."""

    def __init__(self, tape: Tape, rate: int, options: PlayoutOptions) -> None:
        self.rate = rate
        self._tape = tape
        self._options = options
        self._position = tape.played
        self._needed = min(options.start_samples, tape.capacity)  # on the tape, before the music goes on
        self._resampler = Resampler(tape.sample_rate, rate)
        self._ring = SampleRing(2 * rate)
        self._voice = Voice(self._ring, round(options.fade_ms * rate / 1000), fade_in_first=self._position > 0)
        self._counted_gaps = 0
        self._pumping = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._has_ended = False
        self._asked_at = time.monotonic()
        self.failure: str | None = None

    @property
    def seconds_since_asked(self) -> float:
        """How long ago the sink took samples; a device that has died does not say so, it only stops asking."""
        return time.monotonic() - self._asked_at

    @property
    def has_ended(self) -> bool:
        """True when the tape has ended and everything on it has sounded."""
        return self._has_ended and self._ring.fill == 0 and self._voice.is_quiet

    @property
    def is_quiet(self) -> bool:
        """True when nothing sounds, the fade-out included."""
        return self._voice.is_quiet

    def expect_blocks_of(self, samples: int) -> None:
        """Lead by at least two blocks of so many samples; larger ones are noticed when they are asked for."""
        self._voice.largest_block = max(self._voice.largest_block, samples)

    @property
    def latency_ms(self) -> float:
        """Longest time from the tape to the device: the lead, and what waits in the resampler."""
        waiting = self._resampler.longest_wait() / self._tape.sample_rate
        ready = self._voice.largest_block if self._thread is None else self._lead()
        return 1000 * (ready / self.rate + waiting)

    # --- device side

    def fill(self, out: Samples) -> None:
        """Write every sample of the block `out` [N] from what is ready (the device callback)."""
        self._asked_at = time.monotonic()
        self._voice.fill(out)

    def pull(self, out: Samples) -> None:
        """As `fill`, but fetch from the tape first: for a sink that may take its time, with or without the feeder."""
        self._pump(len(out))
        self.fill(out)

    def drain(self, out: Samples) -> int:
        """Write the tape's samples into the head of `out` [N] and return how many: no fade, no gap, nothing counted."""
        self._asked_at = time.monotonic()
        self._pump(len(out))
        return self._ring.read_into(out)

    def fade_out(self) -> None:
        """Fade to silence, for good."""
        self._voice.stop()

    # --- feeder side

    def start(self) -> None:
        """Pump on a thread of the feed's own until `stop`."""
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the feeder thread, if there is one."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def pump(self) -> None:
        """Bring the ring up to the lead, as far as the tape goes, and report gaps to the tape."""
        lead = self._lead()
        self._voice.enough = lead
        self._pump(lead)

    def _pump(self, wanted: int) -> None:
        with self._pumping:
            self._report_gaps()
            while self._ring.fill < wanted and not self._has_ended:
                has_closed = self._tape.closed  # before `written`: what was written by then is all there is
                samples = self._take(_READ)
                if len(samples):
                    self._ring.write(self._resampler.push(samples))
                elif has_closed and self._position >= self._tape.written:
                    rest = self._resampler.flush()
                    self._voice.expects_end = True
                    self._ring.write(rest)
                    self._has_ended = True
                else:
                    return

    def _run(self) -> None:
        try:
            while not self._stopping.wait(_POLL_SECONDS):
                self.pump()
        except Exception as error:  # a thread has nobody to raise to: the playout's loop looks at `failure`
            self.failure = f"the feeder stopped: {error!r}"

    def _lead(self) -> int:
        return min(2 * self._voice.largest_block + round(self._options.lead_ms * self.rate / 1000), self.rate)

    def _report_gaps(self) -> None:
        while self._counted_gaps < self._voice.gaps:
            self._tape.count_underrun()
            self._counted_gaps += 1
            self._needed = min(self._options.resume_samples, self._tape.capacity)

    def _take(self, most: int) -> Samples:
        """Read up to `most` samples and move the play head past them; empty when there are none, or not enough yet.

        A rewind may come between reading and marking. Then the copy is of a future that was taken back: drop it. The
        range belongs to the play head by now, so the next read finds what the engine writes instead.
        """
        tape = self._tape
        while True:
            epoch = tape.epoch
            available = tape.written - self._position
            if available <= 0 or (available < self._needed and not tape.closed):
                return _NO_SAMPLES
            end = self._position + min(most, available)
            try:
                samples = tape.read(self._position, end - self._position)
                tape.mark_played(max(end, tape.played))
            except TapeRangeError:  # taken back, and not written again yet
                return _NO_SAMPLES
            if tape.epoch == epoch and tape.written >= end:
                self._needed = 0
                self._position = end
                return samples
