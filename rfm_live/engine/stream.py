"""The token stream: one decoder step per frame, without end. Engine process, frame loop.

A column is what one step reads; column 0 is the begin of the stream, and column s holds frame s - 1 - k of codebook k
(rfm_live.model.delay). Columns are counted from the start of the stream, positions from the start of a context.

Endless play. Positions are added at the decoder's input, so keys and values cannot be moved to other positions. Before
the window is full, a second cache is filled with the last `prime` columns, at most `chunk` of them per step, and takes
over at a column that is known beforehand. It reads those columns as a stream of its own would: all pad first, then the
delay pattern's triangle, each column steered as it was when it was played, under the prompt and guidance of the step
that reads it. `forget` strikes the steering of the past from the record and does the same with the last `forget`
columns; a smaller window, with those that it primes. Nothing depends on time, so the same steps give the same codes.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rfm_live.engine.played import PlayedFrames, PlayedSteering
from rfm_live.errors import ControlError, StartError
from rfm_live.model.cross import CrossCache
from rfm_live.model.decoder import Decoder, KVCache
from rfm_live.model.sampling import Codes, SamplingSettings, guide, sample
from rfm_live.model.whole_step import WholeStep
from rfm_live.steering.frame import Coefficients, FrameSteering

PromptStates = tuple[Tensor, Tensor]  # states [1, S, text_width], mask [1, S]

_ROWS = 2  # [with text, without text]


@dataclass(frozen=True)
class Window:
    """How much the decoder remembers, in frames: at most `frames`, after a change of context `prime` or `forget`.

    `chunk` columns of the next context are read per step, which bounds the extra cost of a step. Raises StartError when
    the next context cannot be ready before the window is full.
    """

    frames: int = 1500
    prime: int = 600
    forget: int = 100
    chunk: int = 8

    def __post_init__(self) -> None:
        if min(self.frames, self.prime, self.forget, self.chunk) < 1 or self.forget > self.prime:
            raise StartError(f"{self} is no window, expected frames, prime >= forget, and chunk of at least 1")
        if self.prime + self.priming_steps(self.prime) > self.frames:
            raise StartError(
                f"a window of {self.frames} frames is too short to prime {self.prime} of them, {self.chunk} a step"
            )

    @classmethod
    def fitting(cls, positions: int, seconds: float = 30.0, frame_rate: int = 50) -> "Window":
        """The window of `seconds`, or what a decoder of so many positions allows; two fifths of it are primed."""
        frames = min(round(seconds * frame_rate), positions)
        prime = max(frames * 2 // 5, 1)
        return cls(frames, prime, min(100, max(prime // 2, 1)))

    def resized(self, frames: int) -> "Window":
        """This window in the same proportions; at least 2 frames. It needs no more room to prime than this one."""
        prime = max(self.prime * frames // self.frames, 1)
        return Window(frames, prime, min(self.forget, prime), self.chunk)

    def priming_steps(self, columns: int) -> int:
        """How many steps it takes to read so many columns."""
        return -(-columns // self.chunk)


@dataclass(frozen=True)
class Priming:
    """The context in preparation: it starts at column `base`, has read `filled` columns, takes over at `swap_at`.

    `forgets` says that `forget` asked for it, not the window's end.
    """

    base: int
    swap_at: int
    forgets: bool
    filled: int = 0


@dataclass(frozen=True)
class StreamState:
    """Everything a stream remembers after a step; a later step changes nothing in it."""

    column: int
    base: int
    window: Window
    priming: Priming | None
    forget_waits: bool
    columns: npt.NDArray[np.int64]
    steering: PlayedFrames
    settings: SamplingSettings
    cross: CrossCache | None
    rows: int
    cache: Tensor
    next_cache: Tensor


class TokenStream:
    """Plays a decoder without end; `step` once per frame. State is preallocated and written in place."""

    def __init__(
        self,
        decoder: Decoder,
        directions: Tensor,
        settings: SamplingSettings,
        window: Window,
        as_one_unit: bool | None = None,
    ) -> None:
        """`directions` [C, L, D] are what coefficients weigh. `as_one_unit` makes plain steps without the host, which
        pays where they can be captured, and captures them here; None does so on CUDA. Raises StartError when the window
        is too long.
        """
        config = decoder.config
        if window.frames > config.max_positions:
            raise StartError(f"a window of {window.frames} frames exceeds {config.max_positions} positions")
        self._decoder = decoder
        if decoder.precision is None:
            decoder.prepare()
        self._largest_window = self._window = window
        self._codebooks, self._pad = config.codebooks, config.pad_id
        self._settings = settings
        self._cross: CrossCache | None = None
        self._rows = 1
        self._cache = decoder.new_cache(_ROWS, window.frames)
        self._next_cache = decoder.new_cache(_ROWS, window.frames)
        self._column = self._base = 0
        self._priming: Priming | None = None
        self._forget_waits = False
        # What was played, in rings by column: enough for the longest context and the frame in the making.
        kept = window.frames + config.codebooks
        self._columns = np.full((kept, config.codebooks), self._pad, dtype=np.int64)  # [kept, K]
        self._played = PlayedSteering(directions, kept)
        if as_one_unit is None:
            as_one_unit = decoder.embedding.weight.device.type == "cuda"
        caches = self._cache, self._next_cache
        self._whole = WholeStep(decoder, directions, caches) if as_one_unit else None

    @property
    def column(self) -> int:
        """The column that the next step reads: the number of steps so far."""
        return self._column

    @property
    def context_start(self) -> int:
        """The first column that the next step can hear; it moves where one context takes over from another."""
        return self._base

    @property
    def settings(self) -> SamplingSettings:
        return self._settings

    @torch.inference_mode()
    def set_settings(self, settings: SamplingSettings) -> None:
        """Sample by these from the next step on."""
        self._settings = settings
        self._set_rows(self._cross)

    @torch.inference_mode()
    def set_prompt(self, states: PromptStates | None) -> None:
        """Read this prompt from the next step on; what was played keeps the keys and values it was played with."""
        cross = None if states is None else self._decoder.new_cross(*states)
        self._set_rows(cross if cross is not None and cross.rows else None)

    def _set_rows(self, cross: CrossCache | None) -> None:
        """Go to the number of rows that prompt and guidance ask for; a row that joins takes over the other's past."""
        rows = 1 if cross is None or self._settings.guidance == 1.0 else 2
        for cache in (self._cache.kv, self._next_cache.kv):
            if rows > self._rows:
                cache[:, :, 1] = cache[:, :, 0]
            elif rows < self._rows and cross is None:
                cache[:, :, 0] = cache[:, :, 1]  # the row without text goes on
        self._cross, self._rows = cross, rows

    def set_window(self, frames: int) -> None:
        """Remember at most `frames`: 2 up to the window that the stream was made with, whose proportions are kept.

        A context that is longer makes way for a shorter one as soon as that is read; the same proportions see to it
        that there is room to read it in. Raises ControlError outside this range.
        """
        if not 2 <= frames <= self._largest_window.frames:
            raise ControlError(f"window is {frames} frames, expected 2..{self._largest_window.frames}")
        self._window = self._largest_window.resized(frames)

    def forget(self) -> None:
        """Change to a short context without the steering of the past, as soon as it is read."""
        self._played.strike()
        self._forget_waits = True

    @torch.inference_mode()
    def step(self, steering: FrameSteering | Coefficients | None = None) -> Codes | None:
        """Play one column steered by this, or pushed by coefficients [C, L] -> codes [K] of the newest complete frame.

        None does nothing anywhere. Returns None for the first K - 1 steps, while the delay pattern fills.
        """
        self._plan_context()
        column = self._column
        self._played.record(column, steering)
        codes = self._next_codes(column)
        self._column = column + 1
        self._columns[self._column % len(self._columns)] = codes
        self._prime()
        return self.newest_frame()

    def _next_codes(self, column: int) -> Codes:
        """Read a column and draw the codes [K] of the next, as one unit where that is wanted and possible."""
        frame = self._played.frame(column)
        is_plain = frame is None or frame.is_plain
        if self._whole is not None and is_plain and self._whole.has_room(self._cross):
            cache = KVCache(self._cache.kv[:, :, : self._rows])
            weights = None if frame is None else frame.coefficients
            given = self._columns[column % len(self._columns)]  # [K]
            return self._whole.codes(given, column - self._base, column, cache, self._cross, weights, self._settings)
        logits = self._read(self._cache, self._base, column, column + 1)  # [B, 1, K, V]
        codes = sample(guide(logits[:, 0].cpu().numpy(), self._settings.guidance), self._settings, column)  # [K]
        codes[column + 1 :] = self._pad
        return codes

    def newest_frame(self) -> Codes | None:
        """The codes [K] of the newest complete frame, None before the first."""
        first = self._column - self._codebooks + 1  # the column of the frame's codebook 0
        if first < 1:
            return None
        codebooks = np.arange(self._codebooks)
        frame: Codes = self._columns[(first + codebooks) % len(self._columns), codebooks]
        return frame

    def _read(self, cache: KVCache, base: int, start: int, end: int) -> Tensor:
        """Read columns [start, end) into a context that begins at column `base` -> logits [B, end - start, K, V]."""
        where = np.arange(start, end)
        columns = self._columns[where % len(self._columns)]  # [T, K]
        if start - base < self._codebooks:
            columns[np.arange(self._codebooks) >= (where - base)[:, None]] = self._pad
        steering = self._played.injections(start, end, self._rows)
        device = cache.kv.device
        rows = torch.from_numpy(columns.T).to(device).expand(self._rows, -1, -1)  # [B, K, T]
        part = KVCache(cache.kv[:, :, : self._rows])
        logits: Tensor = self._decoder(rows, start - base, part, self._cross, steering)
        return logits

    def _plan_context(self) -> None:
        """Begin to read the next context when one is asked for or due."""
        window, priming, column = self._window, self._priming, self._column
        if self._forget_waits and not (priming is not None and priming.forgets):
            swap_at = column + window.priming_steps(window.forget)
            if priming is None or swap_at <= priming.swap_at:
                self._priming = Priming(max(swap_at - window.forget, 0), swap_at, forgets=True)
                self._forget_waits = False
                return
        swap_at = column + window.priming_steps(window.prime)
        if priming is None and swap_at >= self._base + window.frames:
            self._priming = Priming(max(swap_at - window.prime, 0), swap_at, forgets=False)

    def _prime(self) -> None:
        """Read at most `chunk` more columns of the next context, and change to it at its column."""
        priming = self._priming
        if priming is None:
            return
        start = priming.base + priming.filled
        end = min(start + self._window.chunk, self._column)
        if end > start:
            self._read(self._next_cache, priming.base, start, end)
        if self._column < priming.swap_at:
            self._priming = replace(priming, filled=end - priming.base)
            return
        self._cache, self._next_cache = self._next_cache, self._cache
        self._base, self._priming = priming.base, None

    def copy_state(self) -> StreamState:
        """Copy everything that the next steps depend on."""
        filled = 0 if self._priming is None else self._priming.filled
        return StreamState(
            column=self._column,
            base=self._base,
            window=self._window,
            priming=self._priming,
            forget_waits=self._forget_waits,
            columns=self._columns.copy(),
            steering=self._played.copy_state(),
            settings=self._settings,
            cross=self._cross,
            rows=self._rows,
            cache=self._cache.kv[..., : self._column - self._base, :].clone(),
            next_cache=self._next_cache.kv[..., :filled, :].clone(),
        )

    def restore_state(self, state: StreamState) -> None:
        """Go on from a copied state; the copy stays usable."""
        self._column, self._base, self._priming = state.column, state.base, state.priming
        self._window, self._forget_waits = state.window, state.forget_waits
        self._columns[:] = state.columns
        self._played.restore_state(state.steering)
        self._settings, self._cross, self._rows = state.settings, state.cross, state.rows
        self._cache.kv[..., : state.cache.shape[-2], :] = state.cache
        self._next_cache.kv[..., : state.next_cache.shape[-2], :] = state.next_cache
