"""The performance: three processes, started, watched and ended together. Server process, asyncio.

Used by `rfm-live play`. The engine is started first, because it takes the longest; surfaces open once it has told its
concepts. A dead engine is started again with the board's state; a playout that dies likewise; one that hangs is ended
first. The tape belongs to the performance, so neither takes the music's history along. A sink that was asked for by
name and cannot be opened ends the start; later, and with "auto", the playout goes on without sound.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfm_live.control.board import ControlBoard
from rfm_live.control.table import ControlTable, Value
from rfm_live.engine.tape import Tape
from rfm_live.errors import StartError
from rfm_live.server.children import Child, Message, engine_main, playout_main
from rfm_live.server.hub import Hub
from rfm_live.server.osc import OscServer
from rfm_live.server.web import WebServer

_TAPE_SECONDS = 60.0
_RESTARTS, _RESTART_WINDOW_SECONDS = 3, 30.0
_SILENT_SECONDS = 5.0  # an engine that plays speaks 20 times a second
_OPENING_SECONDS = 15.0  # what a playout gets to open its device
_LOOK_SECONDS = 0.5
_SINKS = ("auto", "soundcard", "jack", "null")


@dataclass(frozen=True)
class PlayOptions:
    """What a performance starts with. Ports 0 take any free one; `buffer_ms` is the music written ahead of the ear.

    `threads` None lets the engine try how many are quickest; `precision` is how it keeps the weights that a step reads,
    `compute` the torch device that it runs on.
    """

    checkpoint: Path
    bank: Path | None = None
    prompt: str = ""
    seed: int = 0
    host: str = "127.0.0.1"
    osc_port: int = 9000
    reply_port: int | None = 9001
    http_port: int = 9080
    token: str | None = None
    sink: str = "auto"
    device: str | int | None = None
    buffer_ms: float = 240.0
    trust_pickle: bool = False
    threads: int | None = 1
    precision: str = "fp32"
    compute: str = "cpu"

    def __post_init__(self) -> None:
        """Raises StartError or ControlError for what can be known to be wrong before anything is loaded."""
        ControlTable(()).check("/prompt", [self.prompt])
        ControlTable(()).check("/seed", [self.seed])
        if self.sink not in _SINKS and not (self.sink.startswith("wav:") and self.sink != "wav:"):
            raise StartError(f"sink is '{self.sink}', expected {', '.join(_SINKS)} or wav:PATH")
        if not 60.0 <= self.buffer_ms <= 10_000.0:
            raise StartError(f"buffer is {self.buffer_ms:g} ms, expected 60..10000")

    def engine(self) -> dict[str, Any]:
        """The options of `engine.worker`."""
        return {
            "checkpoint": str(self.checkpoint),
            "trust_pickle": self.trust_pickle,
            "bank": None if self.bank is None else str(self.bank),
            "prompt": self.prompt,
            "seed": self.seed,
            "buffer_ms": self.buffer_ms,
            "threads": self.threads,
            "precision": self.precision,
            "device": self.compute,
        }


@dataclass(frozen=True)
class Started:
    """What a performance found: the engine's and the playout's first words, and where the surfaces listen."""

    engine: Mapping[str, Any]
    playout: Mapping[str, Any]
    osc_port: int
    url: str
    token: str | None
    seconds: float


class Performance:
    """Plays until `stop` is called. `started` is told once, `warned` of everything that goes wrong later."""

    def __init__(self, options: PlayOptions, started: Callable[[Started], None], warned: Callable[[str], None]) -> None:
        self._options = options
        self._started = started
        self._warned = warned
        self._began = time.monotonic()
        self._stopping = asyncio.Event()
        self._failure: StartError | None = None
        self._engine_ready: asyncio.Future[Message] | None = None
        self._playout_ready: asyncio.Future[Message] | None = None
        self._engine: Child | None = None
        self._playout: Child | None = None
        self._engine_spoke: float | None = None  # None until it has begun to play
        self._playout_began = 0.0
        self._hub: Hub | None = None
        self._surfaces: list[OscServer | WebServer] = []
        self._crashes: dict[str, list[float]] = {}

    def stop(self) -> None:
        """End the performance; safe to call from a signal handler of the loop, and more than once."""
        self._stopping.set()

    async def run(self) -> None:
        """Play. Raises StartError when it cannot begin or cannot go on."""
        loop = asyncio.get_running_loop()
        self._engine_ready, self._playout_ready = loop.create_future(), loop.create_future()
        tape = Tape.create(_TAPE_SECONDS)
        watching = asyncio.create_task(self._watch())
        try:
            self._start_engine(tape)
            self._start_playout(tape)
            await self._open_surfaces(tape)
            await self._stopping.wait()
        finally:
            self._stopping.set()
            watching.cancel()
            try:
                await self._end_everything()
            finally:
                tape.close()
                tape.unlink()
        if self._failure is not None:
            raise self._failure

    async def _watch(self) -> None:
        """End a child that lives and does nothing, so that it is started again like one that has died."""
        looked = time.monotonic()
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            now = time.monotonic()
            was_late, looked = now - looked > 2 * _LOOK_SECONDS, now
            if was_late:  # it was we who slept, and what they said meanwhile is not read yet
                self._engine_spoke, self._playout_began = self._engine_spoke and now, now
                continue
            if self._engine is not None and self._engine_spoke and now - self._engine_spoke > _SILENT_SECONDS:
                self._engine_spoke = None
                self._warn(f"the engine has said nothing for {_SILENT_SECONDS:g} s")
                self._engine.kill()
            opening = self._playout_ready is not None and not self._playout_ready.done()
            if self._playout is not None and opening and now - self._playout_began > _OPENING_SECONDS:
                self._playout_began = now
                self._warn(f"the playout has not opened its device after {_OPENING_SECONDS:g} s")
                self._playout.kill()

    async def _end_everything(self) -> None:
        """Surfaces and children at once, each to its end whatever becomes of the others."""
        children = [child for child in (self._engine, self._playout) if child is not None]
        endings = [surface.stop() for surface in self._surfaces]
        endings += [asyncio.to_thread(child.stop) for child in children]
        for outcome in await asyncio.gather(*endings, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    def _start_engine(self, tape: Tape) -> None:
        self._engine_spoke = None
        self._engine = Child("engine", engine_main, tape.name, self._options.engine(), self._heard_engine(tape))
        if self._hub is not None:
            self._hub.replay()  # waits in the pipe, and is taken before the first frame

    def _start_playout(self, tape: Tape) -> None:
        buffer = round(self._options.buffer_ms / 1000 * tape.sample_rate)
        options = {
            "sink": self._options.sink,
            "device": self._options.device,
            "start_samples": min(3200, buffer // 2),
        }
        self._playout_began = time.monotonic()
        self._playout = Child("playout", playout_main, tape.name, options, self._heard_playout(tape))

    async def _open_surfaces(self, tape: Tape) -> None:
        """Open them once the engine is ready, and tell of the start once the playout is, too."""
        options = self._options
        ready = await self._first(self._engine_ready)
        if ready is None:
            return
        periods = zip(ready["concepts"], ready["periods"], strict=True)
        defaults: dict[str, Value] = {f"/concept/{name}/period": period for name, period in periods}
        defaults |= {"/prompt": options.prompt, "/seed": options.seed, **ready["defaults"]}
        board = ControlBoard(ControlTable(ready["concepts"], ready["gates"], defaults))
        self._hub = hub = Hub(board, self._send_to_engine, tape, tape.sample_rate)
        web = WebServer(hub, options.host, options.http_port, options.token, tape)
        osc = OscServer(hub, options.host, options.osc_port, options.reply_port, token=web.token)
        for surface in (osc, web):
            self._surfaces.append(surface)
            await surface.start()
        playout = await self._first(self._playout_ready)
        if playout is not None:
            seconds = time.monotonic() - self._began
            self._started(Started(ready, playout, osc.port, web.url, web.token, seconds))

    async def _first(self, ready: "asyncio.Future[Message] | None") -> Message | None:
        """The first word of a child; None when the performance is stopped, or has failed, before."""
        assert ready is not None
        stopping = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait((ready, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        return None if self._stopping.is_set() else ready.result()

    def _send_to_engine(self, address: str, value: object) -> None:
        if self._engine is not None:
            self._engine.send({"op": "set", "address": address, "value": value})

    def _heard_engine(self, tape: Tape) -> Callable[[Message | None], None]:
        def heard(message: Message | None) -> None:
            assert self._engine is not None and self._engine_ready is not None
            if message is None:
                if not self._engine_ready.done():
                    self._give_up(f"the engine ended before it was ready (exit code {self._engine.exit_code})")
                elif self._may_restart("the engine", self._engine):
                    self._start_engine(tape)
            elif message.get("op") == "status":
                self._engine_spoke = time.monotonic()
                if self._hub is not None:
                    self._hub.engine_status(message)
            elif message.get("op") == "ready":
                if not self._engine_ready.done():
                    self._engine_ready.set_result(message)
            elif message.get("op") == "error":
                self._complain(str(message.get("text")), is_fatal=not self._engine_ready.done())

        return heard

    def _heard_playout(self, tape: Tape) -> Callable[[Message | None], None]:
        def heard(message: Message | None) -> None:
            assert self._playout is not None and self._playout_ready is not None
            if message is None:
                if self._may_restart("the playout", self._playout):
                    self._start_playout(tape)
            elif message.get("op") == "ready":
                if not self._playout_ready.done():
                    self._playout_ready.set_result(message)
            elif message.get("op") == "error":
                is_asked_for = self._options.sink != "auto" and not self._playout_ready.done()
                self._complain(str(message.get("text")), is_fatal=is_asked_for)

        return heard

    def _complain(self, text: str, is_fatal: bool) -> None:
        if is_fatal:
            self._give_up(text)
        else:
            self._warn(text)

    def _warn(self, text: str) -> None:
        """Tell the terminal and everyone who performs."""
        self._warned(text)
        if self._hub is not None:
            self._hub.tell_trouble(text)

    def _give_up(self, text: str) -> None:
        """End the performance with StartError, unless it is ending already."""
        if not self._stopping.is_set():
            self._failure = StartError(text)
            self._stopping.set()

    def _may_restart(self, what: str, child: Child) -> bool:
        """Tell that a child has died; give up at its fourth time within half a minute."""
        if self._stopping.is_set():
            return False
        now = time.monotonic()
        crashes = [at for at in self._crashes.get(what, []) if now - at < _RESTART_WINDOW_SECONDS] + [now]
        self._crashes[what] = crashes
        if len(crashes) > _RESTARTS:
            self._give_up(f"{what} has stopped by itself {len(crashes)} times in half a minute")
            return False
        self._warn(f"{what} has stopped by itself (exit code {child.exit_code}) and is started again")
        return True
