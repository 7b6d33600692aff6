"""What a sink is, and which one to take. A sink carries the feed's samples out: to a device, a clock or a file.

Used by the playout process: `choose_sink` makes one, its `rate` decides what the feed resamples to, `open` starts it.
"""

from pathlib import Path
from typing import Protocol

from rfm_live.audio.devices import list_devices
from rfm_live.audio.feed import Feed
from rfm_live.audio.jack_client import JackSink
from rfm_live.audio.null_clock import NullSink
from rfm_live.audio.soundcard import SoundcardSink
from rfm_live.audio.wav_file import WavSink
from rfm_live.errors import AudioError


class Sink(Protocol):
    """One way out. Made and used on one thread; takes samples from the feed on a thread of its own."""

    name: str  # "soundcard", "jack", "null" or "wav"
    rate: int  # known before `open`
    keeps_own_time: bool  # True: it pulls from the tape itself; False: a device whose callback must find samples ready

    @property
    def failure(self) -> str | None:
        """Why it stopped by itself; None while all is well."""

    @property
    def dropouts(self) -> int:
        """Blocks that the device says it missed; the feed's own gaps are counted on the tape."""

    @property
    def block(self) -> int:
        """Samples it takes at a time; 0 when unknown before the first."""

    @property
    def latency_ms(self) -> float:
        """From the feed to the ear, the feed's lead not included; known after `open`."""

    def open(self, feed: Feed) -> None:
        """Start to take samples. Raises AudioError."""

    def close(self) -> None:
        """Stop, let go of the device, finish the file. Closing twice is harmless."""

    def describe(self) -> str:
        """What it is, for people."""


def choose_sink(name: str = "auto", device: str | int | None = None, block: int = 0, tape_rate: int = 32000) -> Sink:
    """Make the sink `name`: "auto", "soundcard", "jack", "null" or "wav:PATH".

    `device`: for a sound card its name or index; for JACK the start of the port names to connect to, "none" for no
    connection. "auto" takes the sound card where there is one, otherwise the null clock, whose description says why.

    Raises AudioError for an unknown name and for a device that is not there.
    """
    if name == "soundcard":
        return SoundcardSink(device, block)
    if name == "jack":
        return JackSink(None if device is None else str(device))
    if name == "null":
        return NullSink(tape_rate)
    if name.startswith("wav:") and len(name) > len("wav:"):
        return WavSink(Path(name.removeprefix("wav:")), tape_rate)
    if name != "auto":
        raise AudioError(f"sink is '{name}', expected auto, soundcard, jack, null or wav:PATH")
    try:
        if device is None and not any(card.is_default for card in list_devices()):
            return NullSink(tape_rate, "there is no sound card with an output")
        return SoundcardSink(device, block)
    except AudioError as error:
        return NullSink(tape_rate, str(error))
