"""A JACK client with two output ports. Used by the playout process; JACK calls back on its own thread.

In freewheel mode (a host that exports faster than real time) the client waits for the tape instead of leaving gaps.
"""

import importlib
import logging
import re
from typing import Any

from rfm_live.audio.feed import Feed
from rfm_live.errors import AudioError

_log = logging.getLogger(__name__)


def import_jack() -> Any:
    """Load JACK-Client and libjack. Raises AudioError that says what to install."""
    try:
        jack = importlib.import_module("jack")
    except ImportError as error:
        raise AudioError(
            f"JACK needs the Python package JACK-Client ({error}): pip install 'rfm-live[jack]'"
        ) from error
    except OSError as error:
        raise AudioError(
            f"JACK needs libjack ({error}): on Debian and Ubuntu, apt install libjack-jackd2-0 or pipewire-jack"
        ) from error
    jack.set_error_function(_log.debug)  # libjack's own would write to the terminal
    jack.set_info_function(_log.debug)
    return jack


class JackSink:
    """JACK client "rfm_live" with the ports out_1 and out_2, both carrying the same mono music.

    `target`: start of the names of the input ports to connect to ("system", "ardour:in"); None connects to the first
    physical inputs; "none" leaves it to the user. The server is the one that JACK_DEFAULT_SERVER names.
    """

    name = "jack"
    keeps_own_time = False

    def __init__(self, target: str | None = None) -> None:
        self._jack = import_jack()
        try:
            self._client = self._jack.Client("rfm_live", no_start_server=True)
        except self._jack.JackError as error:
            raise AudioError(f"no JACK server answers, start one first: {error}") from error
        self.rate = int(self._client.samplerate)
        self.failure: str | None = None
        self.dropouts = 0
        self._block = int(self._client.blocksize)
        self._client_name = str(self._client.name)
        self._target = target
        self._ports = [self._client.outports.register(name) for name in ("out_1", "out_2")]
        self._feed: Feed | None = None
        self._is_freewheeling = False
        self._client.set_process_callback(self._process)
        self._client.set_freewheel_callback(self._set_freewheeling)
        self._client.set_shutdown_callback(self._shut_down)
        self._client.set_xrun_callback(self._count_xrun)

    @property
    def block(self) -> int:
        return self._block

    @property
    def latency_ms(self) -> float:
        return 1000 * self.block / self.rate

    def open(self, feed: Feed) -> None:
        self._feed = feed
        try:
            self._client.activate()
            for port, target in zip(self._ports, self._targets(), strict=False):
                self._client.connect(port, target)
        except self._jack.JackError as error:
            raise AudioError(f"the JACK server refuses the client '{self._client_name}': {error}") from error

    def close(self) -> None:
        self._client.close()

    def describe(self) -> str:
        return f"JACK client {self._client_name}, {self.rate} Hz, blocks of {self._block}"

    def _targets(self) -> list[Any]:
        if self._target == "none":
            return []
        if self._target is None:
            return list(self._client.get_ports(is_audio=True, is_input=True, is_physical=True))
        found = list(self._client.get_ports("^" + re.escape(self._target), is_audio=True, is_input=True))
        if not found:
            raise AudioError(f"JACK has no audio input whose name starts with '{self._target}'")
        return found

    def _process(self, frames: int) -> None:
        left, right = (port.get_array() for port in self._ports)  # [frames] each
        assert self._feed is not None
        try:
            (self._feed.pull if self._is_freewheeling else self._feed.fill)(left)
        except Exception as error:  # JACK's thread has nobody to raise to: the playout's loop looks at `failure`
            left[:] = 0.0
            self.failure = f"the JACK callback failed: {error!r}"
        right[:] = left

    def _set_freewheeling(self, starting: bool) -> None:
        self._is_freewheeling = bool(starting)

    def _shut_down(self, status: Any, reason: str) -> None:
        self.failure = f"the JACK server has gone: {reason}"

    def _count_xrun(self, delayed_usecs: float) -> None:
        self.dropouts += 1
