"""The engine: control events in, samples out, one frame at a time. Knows nothing of processes, clocks or devices.

Used by the worker process, by `render` and by the tests. One frame is: plan -> decoder step -> streaming codec -> gain
-> soft limiter. An event takes effect at the next frame, so the same events at the same frames give the same samples.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rfm_live.engine.limiter import Limiter
from rfm_live.engine.prompts import Prompts
from rfm_live.engine.stream import PromptStates, StreamState, TokenStream, Window
from rfm_live.errors import ControlError
from rfm_live.model.checkpoint import MusicGen
from rfm_live.model.codec_stream import DecoderState, StreamingDecoder
from rfm_live.model.sampling import Codes, SamplingSettings
from rfm_live.steering.bank import ConceptBank
from rfm_live.steering.plan import PlanState, SteeringPlan

Samples = npt.NDArray[np.float32]
Event = tuple[int, str, object]  # frame, address, value

GAIN_DB = (-60.0, 12.0)
WINDOW_SECONDS = (1.0, 60.0)


@dataclass(frozen=True)
class EngineSettings:
    """What an engine starts with; `window` None takes as much as the decoder's positions allow, up to 30 s."""

    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    window: Window | None = None
    prompt: str = ""


@dataclass(frozen=True)
class EngineState:
    """Everything an engine remembers between two frames."""

    frame: int
    stream: StreamState
    decoder: DecoderState
    ready: Samples
    plan: PlanState
    limiter_gain: float
    level: float
    gain_db: float
    is_playing: bool
    prompt: str


class Engine:
    """Plays one checkpoint with one bank. `advance` makes a frame; `apply` turns a knob for the next one."""

    def __init__(
        self,
        model: MusicGen,
        bank: ConceptBank | None = None,
        settings: EngineSettings | None = None,
        tape_writer: Callable[[Samples], None] | None = None,
        prompts: Prompts | None = None,
    ) -> None:
        """Raises StartError for a window that does not fit, CheckpointError when the prompt cannot be encoded."""
        settings = settings or EngineSettings()
        decoder = model.decoder.config
        self.bank = bank or ConceptBank.empty(decoder.layers, decoder.width)
        self.hop, self.sample_rate = model.config.hop, model.config.sample_rate
        self._frame_rate = model.config.frame_rate
        self._window = settings.window or Window.fitting(decoder.max_positions, frame_rate=self._frame_rate)
        weight = model.decoder.embedding.weight
        directions = torch.from_numpy(self.bank.directions).to(weight.device, weight.dtype)  # [C, L, D]
        self._stream = TokenStream(model.decoder, directions, settings.sampling, self._window)
        self._plan = SteeringPlan(self.bank, settings.sampling.seed)
        self._decoder = StreamingDecoder(model.codec)
        self._codec_device = model.codec.quantizer.codebooks.device
        self._limiter = Limiter(self.sample_rate)
        self._prompts = prompts or Prompts(model)
        self._write = tape_writer
        self._ready: Samples = np.zeros(0, dtype=np.float32)  # decoded and not yet part of a frame
        self._gain_db, self._is_playing = 0.0, True
        self._level = 1.0  # the factor that the last frame ended with
        self._prompt = ""
        self.frame = 0
        self.set_prompt(settings.prompt, self._prompts.states(settings.prompt))

    @property
    def window_seconds(self) -> float:
        """The longest context that this engine can hear."""
        return self._window.frames / self._frame_rate

    @property
    def codes(self) -> Codes | None:
        """The codes int64 [K] of the newest frame that the model has completed, None before the first.

        A causal codec answers them with the samples of the same frame; another trails by its look-ahead.
        """
        return self._stream.newest_frame()

    def advance(self) -> Samples:
        """Make the next frame: samples [hop] in ±1, also handed to the tape writer.

        While the transport holds, frames are silent and the music stands still where it was.
        """
        target = 10.0 ** (self._gain_db / 20.0) if self._is_playing else 0.0
        if target == self._level == 0.0:
            samples: Samples = np.zeros(self.hop, dtype=np.float32)
        else:
            samples = self._limiter.process(self._faded(self._next_samples(), target))
        self.frame += 1
        if self._write is not None:
            self._write(samples)
        return samples

    def _next_samples(self) -> Samples:
        """Step the music until a frame of samples is final; more than one step only while delay and codec fill."""
        while len(self._ready) < self.hop:
            codes = self._stream.step(self._plan.steering(self._stream.column))
            if codes is not None:
                pushed = self._decoder.push(torch.from_numpy(codes[:, None]).to(self._codec_device))
                self._ready = np.concatenate((self._ready, pushed.cpu().numpy()))
        samples, self._ready = self._ready[: self.hop], self._ready[self.hop :]
        return samples

    def _faded(self, samples: Samples, target: float) -> Samples:
        """Multiply by a line from the last frame's level to `target`."""
        if self._level != target:
            samples = samples * np.linspace(self._level, target, self.hop + 1, dtype=np.float32)[1:]
            self._level = target
        elif target != 1.0:
            samples = samples * np.float32(target)
        return samples

    def apply(self, address: str, value: object) -> None:
        """Let a control take effect at the next frame; addresses and ranges are the control table's.

        `/prompt` encodes at once, which can take seconds: a live caller encodes elsewhere and calls `set_prompt`.
        Raises ControlError for an unknown address or a wrong value, and then changes nothing.
        """
        parts = address.split("/")[1:]
        if len(parts) == 3 and parts[0] == "concept":
            self._plan.set(parts[1], parts[2], value)
        elif address[1:] in self._plan.overall_fields:
            self._plan.set_overall(address[1:], value)
        elif address == "/prompt":
            text = check_prompt(value)
            self.set_prompt(text, self._prompts.states(text))
        elif address in ("/temperature", "/top_k", "/top_p", "/guidance", "/seed"):
            number = _number(address, value)
            is_whole = address in ("/top_k", "/seed") and number == int(number)
            changed: dict[str, Any] = {address[1:]: int(number) if is_whole else number}
            self._stream.set_settings(replace(self._stream.settings, **changed))
            self._plan.set_seed(self._stream.settings.seed)
        elif address == "/transport/play":
            self._is_playing = _number(address, value) != 0
        elif address == "/gain":
            self._gain_db = _in_range(address, _number(address, value), *GAIN_DB)
        elif address == "/window":
            seconds = _in_range(address, _number(address, value), *WINDOW_SECONDS)
            self._stream.set_window(min(round(seconds * self._frame_rate), self._window.frames))
        elif address in ("/forget", "/panic"):
            if _number(address, value):  # 0 is the release of a button
                if address == "/panic":
                    self._plan.release()
                self._stream.forget()
        else:
            raise ControlError(f"address {address!r} is unknown to the engine")

    def set_prompt(self, text: str, states: PromptStates | None) -> None:
        """Play under this prompt from the next frame on; `states` are the encoder's for `text`."""
        self._stream.set_prompt(states)
        self._prompt = text

    def status(self) -> dict[str, object]:
        """Where the music stands, in plain values."""
        return {
            "frame": self.frame,
            "column": self._stream.column,
            "context_start": self._stream.context_start,
            "prompt": self._prompt,
            "playing": self._is_playing,
            "gain_db": self._gain_db,
        }

    def render(self, events: Iterable[Event], seconds: float) -> Samples:
        """Play `seconds` from here, each event before the frame it names (counted from the start of the stream).

        Returns samples [seconds * sample_rate]. Raises ControlError for a bad event, or one that names a past frame.
        """
        waiting = sorted(events, key=lambda event: event[0])
        count = round(seconds * self.sample_rate)
        frames = []
        for _ in range(-(-count // self.hop)):
            while waiting and waiting[0][0] <= self.frame:
                frame, address, value = waiting.pop(0)
                if frame < self.frame:
                    raise ControlError(f"event {address} names frame {frame}, the music is at {self.frame}")
                self.apply(address, value)
            frames.append(self.advance())
        return np.concatenate([*frames, np.zeros(0, dtype=np.float32)])[:count]

    def copy_state(self) -> EngineState:
        """Copy everything that the next frames depend on."""
        return EngineState(
            self.frame,
            self._stream.copy_state(),
            self._decoder.copy_state(),
            self._ready.copy(),
            self._plan.copy_state(),
            self._limiter.gain,
            self._level,
            self._gain_db,
            self._is_playing,
            self._prompt,
        )

    def restore_state(self, state: EngineState) -> None:
        """Go on from a copied state of an engine with the same checkpoint and bank; the copy stays usable."""
        self.frame = state.frame
        self._stream.restore_state(state.stream)
        self._decoder.restore_state(state.decoder)
        self._ready = state.ready
        self._plan.restore_state(state.plan)
        self._limiter.gain = state.limiter_gain
        self._level, self._gain_db, self._is_playing = state.level, state.gain_db, state.is_playing
        self._prompt = state.prompt


def check_prompt(value: object) -> str:
    """Return the prompt's text. Raises ControlError for anything but text."""
    if not isinstance(value, str):
        raise ControlError(f"/prompt is {value!r}, expected text")
    return value


def _number(address: str, value: object) -> float:
    if not isinstance(value, int | float) or not isfinite(value):
        raise ControlError(f"{address} is {value!r}, expected a finite number")
    return value + 0  # a bool becomes 0 or 1


def _in_range(address: str, value: float, low: float, high: float) -> float:
    if not low <= value <= high:
        raise ControlError(f"{address} is {value!r}, expected {low}..{high}")
    return value
