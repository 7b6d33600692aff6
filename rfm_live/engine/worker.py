"""The engine process: loads the checkpoint, plays into the tape, listens to one pipe. The supervisor spawns it.

The main thread is the frame loop: take messages, make a frame when the tape has room, tell how it goes. Prompts are
encoded in a process of their own (`text_process`), for which a thread waits, and taken over between two frames.

Messages are msgpack maps over a `multiprocessing` connection.
In:  {"op": "set", "address", "value"} and {"op": "stop"}.
Out: {"op": "ready", "concepts", "gates", "periods", "layers", "device", "threads", "thread_trial" (ms by number
     of threads), "precision", "defaults" (by address), "checkpoint", "load_seconds", "real_time_factor"} once;
     {"op": "status", "frame", "step_ms", "step_p95_ms", "written"} 20 times a second;
     {"op": "error", "text"} for a message that was not taken, and before giving up at the start (exit code 2).
It ends on "stop", on SIGTERM, when the pipe closes, when the parent dies and when the tape has ended.
"""

import gc
import logging
import multiprocessing
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, fields
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgpack
import torch

from rfm_live.engine.defaults import default_settings
from rfm_live.engine.opening import compute_device
from rfm_live.engine.player import Engine, check_prompt
from rfm_live.engine.prompts import Prompts
from rfm_live.engine.stream import PromptStates
from rfm_live.engine.tape import Tape
from rfm_live.engine.text_process import TextProcess
from rfm_live.engine.threads import ThreadTrial, thread_counts, try_threads
from rfm_live.errors import ControlError, RfmError, StartError
from rfm_live.model.checkpoint import load_checkpoint
from rfm_live.steering.bank import load_bank

_log = logging.getLogger(__name__)
_WAIT_SECONDS = 0.004  # how long a full tape lets the loop rest; a message ends the rest
_STATUS_SECONDS = 0.05
_TIMED_FRAMES = 250
_MESSAGES_PER_FRAME = 256  # a flood of knobs waits rather than the sound
_WARM_UP_FRAMES = 24


@dataclass(frozen=True)
class WorkerOptions:
    """`checkpoint` is a folder, `bank` a file or None; the engine keeps `buffer_ms` ahead of the play head.

    `threads` None tries how many are quickest. `precision` is that of `Decoder.prepare`. `trust_pickle` lets the
    checkpoint's `.bin` files run code while they are read.
    """

    checkpoint: str
    bank: str | None = None
    prompt: str = ""
    seed: int = 0
    buffer_ms: float = 200.0
    threads: int | None = 1
    precision: str = "fp32"
    device: str = "cpu"
    trust_pickle: bool = False

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> "WorkerOptions":
        """Raises StartError for an unknown or missing name, or a value outside its domain."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(options) - known):
            raise StartError(f"engine option '{unknown[0]}' is unknown, expected one of {', '.join(sorted(known))}")
        if "checkpoint" not in options:
            raise StartError("engine option 'checkpoint' is missing")
        made = cls(**options)
        if not 20.0 <= made.buffer_ms <= 10_000.0:
            raise StartError(f"engine option 'buffer_ms' is {made.buffer_ms}, expected 20..10000")
        if made.threads is not None and not 1 <= made.threads <= 256:
            raise StartError(f"engine option 'threads' is {made.threads}, expected 1..256")
        return made


def run_worker(conn: Connection, tape_name: str, options: Mapping[str, Any]) -> None:
    """Play until told to stop; `options` are those of `WorkerOptions` (target of the spawned process)."""
    stopping = threading.Event()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal: the parent decides
        signal.signal(signal.SIGTERM, lambda number, frame: stopping.set())
    try:
        with Tape.attach(tape_name) as tape:
            try:
                _Worker(conn, tape, WorkerOptions.from_dict(options)).run(stopping)
            except RfmError as error:
                conn.send_bytes(msgpack.packb({"op": "error", "text": str(error)}))
                sys.exit(2)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        _log.info("the supervisor has gone")


class _Worker:
    """The frame loop around one engine."""

    def __init__(self, conn: Connection, tape: Tape, options: WorkerOptions) -> None:
        started = time.perf_counter()
        self._conn, self._tape = conn, tape
        torch.set_num_threads(options.threads or 1)
        self._model = model = load_checkpoint(
            Path(options.checkpoint), device=compute_device(options.device), trust_pickle=options.trust_pickle
        )
        decoder, sample_rate = model.decoder.config, model.config.sample_rate
        if tape.sample_rate != sample_rate:
            raise StartError(f"the tape runs at {tape.sample_rate} Hz, the checkpoint at {sample_rate} Hz")
        bank = None
        if options.bank is not None:
            bank = load_bank(Path(options.bank), decoder.layers, decoder.width, model.sha256)
        self._text = TextProcess(Path(options.checkpoint), options.trust_pickle)
        self._prompts = Prompts(model, self._text.encode)
        settings = default_settings(Path(options.checkpoint), model.config, prompt=options.prompt, seed=options.seed)
        model.decoder.prepare(options.precision)
        self._engine = Engine(model, bank, settings, prompts=self._prompts)
        self._encoding = _PromptThread(self._prompts)
        self._ahead = min(round(options.buffer_ms / 1000 * sample_rate), tape.capacity)
        self._frame_ms = 1000 * self._engine.hop / sample_rate
        self._step_ms: deque[float] = deque(maxlen=_TIMED_FRAMES)
        self._next_status = 0.0
        trial = self._try_threads() if options.threads is None else ThreadTrial(options.threads, {})
        real_time_factor = self._warm_up()
        gc.collect()
        gc.freeze()  # what is loaded stays; collections look at the young only
        self._send(
            {
                "op": "ready",
                "concepts": list(self._engine.bank.names),
                "gates": self._engine.bank.gate.tolist(),
                "periods": self._engine.bank.period.tolist(),
                "layers": decoder.layers,
                "device": str(options.device),
                "threads": trial.threads,
                "thread_trial": {str(threads): ms for threads, ms in trial.frame_ms.items()},
                "precision": options.precision,
                "defaults": {
                    "/temperature": settings.sampling.temperature,
                    "/top_k": settings.sampling.top_k,
                    "/top_p": settings.sampling.top_p,
                    "/guidance": settings.sampling.guidance,
                    "/window": self._engine.window_seconds,
                },
                "checkpoint": Path(options.checkpoint).name,
                "load_seconds": time.perf_counter() - started,
                "real_time_factor": real_time_factor,
            }
        )

    def _try_threads(self) -> ThreadTrial:
        """Play a little into nowhere with several numbers of threads, and go on with the quickest."""
        start = self._engine.copy_state()
        trial = try_threads(self._engine.advance, torch.set_num_threads, thread_counts())
        self._engine.restore_state(start)
        return trial

    def _warm_up(self) -> float:
        """Play a little into nowhere, so that the first real frame is as quick as the others; answer the speed."""
        engine, start = self._engine, self._engine.copy_state()
        for name in engine.bank.names[:1]:
            engine.apply(f"/concept/{name}/gate", 1.0)
            engine.apply(f"/concept/{name}/eta", 1.0)
        engine.advance()
        engine.apply("/forget", True)  # reads a context, as every window's end does
        times = sorted(self._timed_frame() for _ in range(_WARM_UP_FRAMES))
        engine.restore_state(start)
        return self._frame_ms / max(times[len(times) // 2], 1e-3)

    def _timed_frame(self) -> float:
        """Make one frame -> its milliseconds."""
        started = time.perf_counter()
        self._engine.advance()
        return (time.perf_counter() - started) * 1000

    def run(self, stopping: threading.Event) -> None:
        """Loop until something says stop. Raises EOFError or BrokenPipeError when the supervisor has gone."""
        self._text.start()  # loads beside the music, so that the first change of prompt is quick
        try:
            self._play(stopping)
        finally:
            self._text.close()

    def _play(self, stopping: threading.Event) -> None:
        engine, tape, conn = self._engine, self._tape, self._conn
        parent = multiprocessing.parent_process()
        while not (stopping.is_set() or tape.closed):
            for _ in range(_MESSAGES_PER_FRAME):
                if not conn.poll(0):
                    break
                if not self._take(conn.recv_bytes()):
                    return
            self._take_prompt()
            if tape.written + engine.hop - tape.played <= self._ahead:
                started = time.perf_counter()
                tape.write(engine.advance())
                self._step_ms.append((time.perf_counter() - started) * 1000)
            else:
                conn.poll(_WAIT_SECONDS)
            if (now := time.perf_counter()) >= self._next_status:
                self._next_status = now + _STATUS_SECONDS
                self._send_status()
                if parent is not None and not parent.is_alive():
                    return

    def _take(self, data: bytes) -> bool:
        """Do what a message says -> False to stop. A message that makes no sense is answered, and changes nothing."""
        try:
            message = _unpacked(data)
            match message:
                case {"op": "stop"}:
                    return False
                case {"op": "set", "address": "/prompt", "value": value}:
                    self._change_prompt(check_prompt(value))
                case {"op": "set", "address": str(address), "value": value}:
                    self._engine.apply(address, value)
                case _:
                    raise ControlError(f"message {str(message)[:200]} is neither a full 'set' nor 'stop'")
        except RfmError as error:
            self._send_error(str(error))
        return True

    def _change_prompt(self, text: str) -> None:
        if self._prompts.is_quick(text):
            self._encoding.forget_request()
            self._engine.set_prompt(text, self._prompts.states(text))
        else:
            self._encoding.request(text)

    def _take_prompt(self) -> None:
        """Take over a prompt that has been encoded since the last frame."""
        for encoded in self._encoding.finished():
            if encoded.error is None:
                self._engine.set_prompt(encoded.text, encoded.states)
            else:
                self._send_error(f"prompt '{encoded.text}' is not played: {encoded.error}")

    def _send_status(self) -> None:
        times = sorted(self._step_ms)
        self._send(
            {
                "op": "status",
                "frame": self._engine.frame,
                "step_ms": times[len(times) // 2] if times else 0.0,
                "step_p95_ms": times[len(times) * 95 // 100] if times else 0.0,
                "written": self._tape.written,
            }
        )

    def _send_error(self, text: str) -> None:
        self._send({"op": "error", "text": text})

    def _send(self, message: dict[str, Any]) -> None:
        self._conn.send_bytes(msgpack.packb(message))


def _unpacked(data: bytes) -> object:
    try:
        return msgpack.unpackb(data)
    except (ValueError, msgpack.UnpackException) as error:
        raise ControlError(f"message of {len(data)} bytes is not msgpack: {error}") from error


@dataclass(frozen=True)
class _Encoded:
    """What became of a prompt: its states, or why there are none."""

    number: int
    text: str
    states: PromptStates | None = None
    error: str | None = None


class _PromptThread:
    """Waits for prompts beside the frame loop; only the last request counts. All methods are the frame loop's."""

    def __init__(self, prompts: Prompts) -> None:
        self._prompts = prompts
        self._requests: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[_Encoded] = queue.SimpleQueue()
        self._last = 0
        self._thread: threading.Thread | None = None

    def request(self, text: str) -> None:
        """Encode `text` and drop whatever was asked for before."""
        self._last += 1
        self._requests.put((self._last, text))
        if self._thread is None:
            self._thread = threading.Thread(target=self._encode_forever, name="prompts", daemon=True)
            self._thread.start()

    def forget_request(self) -> None:
        """Let no pending request take effect."""
        self._last += 1

    def finished(self) -> list[_Encoded]:
        """The last request's outcome, once: none or one."""
        done = []
        while not self._results.empty():
            encoded = self._results.get()
            if encoded.number == self._last:
                done.append(encoded)
        return done

    def _encode_forever(self) -> None:
        while True:
            number, text = self._requests.get()
            while not self._requests.empty():
                number, text = self._requests.get()
            try:
                self._results.put(_Encoded(number, text, states=self._prompts.states(text)))
            except Exception as error:  # the border of the thread: the loop answers, and the next prompt has its chance
                _log.debug("prompt failed", exc_info=True)
                self._results.put(_Encoded(number, text, error=f"{type(error).__name__}: {error}"))
