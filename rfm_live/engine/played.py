"""What every column was steered with, so that a context that is read again is steered as it was when it was played.

Part of the token stream (engine process, frame loop). Frames come in as numpy, the decoder gets tensors: concepts are
summed per layer here, once for all rows and blocks, so that a block's cost does not grow with their number.

Shapes: C concepts, L layers, D width, R rows (1: all rows alike), T columns.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rfm_live.model.injection import Injections, SiteInjection
from rfm_live.steering.frame import Coefficients, FrameSteering, Mode, Site

Floats = npt.NDArray[np.float32]
PlayedFrames = tuple[FrameSteering | None, ...]


class PlayedSteering:
    """A ring of frames by column, and the sums that the decoder reads."""

    def __init__(self, directions: Tensor, kept: int) -> None:
        """`directions` [C, L, D]; `kept` columns are remembered."""
        self._directions = directions.transpose(0, 1).contiguous()  # [L, C, D]
        self._frames: list[FrameSteering | None] = [None] * kept
        self._held: FrameSteering | None = None  # the newest plain frame; while no knob moves, all frames are this one
        self._held_bytes = b""
        self._summed: tuple[FrameSteering, Injections] | None = None  # a held frame is summed once

    def record(self, column: int, steering: FrameSteering | Coefficients | None) -> None:
        """Remember what a column is steered with; of an array a copy.

        Raises ValueError when it is made for another bank or decoder.
        """
        self._frames[column % len(self._frames)] = None if steering is None else self._kept(steering)

    def _kept(self, steering: FrameSteering | Coefficients) -> FrameSteering | None:
        """The frame to remember: one and the same while a knob is held, None where nothing acts."""
        given = steering if isinstance(steering, FrameSteering) else None
        coefficients = steering.coefficients if isinstance(steering, FrameSteering) else steering
        layers, concepts = self._directions.shape[:2]
        if coefficients.shape != (concepts, layers):
            raise ValueError(f"coefficients are {coefficients.shape}, expected {(concepts, layers)}")
        if given is not None and not given.is_plain:
            return given if coefficients.any() else None
        held = coefficients.tobytes()
        if held != self._held_bytes:
            frame = FrameSteering(coefficients.copy()) if given is None else given
            self._held, self._held_bytes = frame if coefficients.any() else None, held
        return self._held

    def frame(self, column: int) -> FrameSteering | None:
        """What a column is steered with; None for nothing."""
        return self._frames[column % len(self._frames)]

    def strike(self) -> None:
        """Forget all steering: what is read again is read unsteered."""
        self._frames[:] = [None] * len(self._frames)

    def copy_state(self) -> PlayedFrames:
        return tuple(self._frames)

    def restore_state(self, state: PlayedFrames) -> None:
        self._frames[:] = state

    def injections(self, start: int, end: int, rows: int) -> Injections | None:
        """What acts on columns [start, end) of `rows` rows, the first of them the one with text; None if nothing."""
        frames = [self._frames[column % len(self._frames)] for column in range(start, end)]
        if all(frame is None for frame in frames):
            return None
        if len(frames) == 1 and frames[0] is not None and frames[0].is_plain:
            return self._pushed(frames[0])
        strengths = np.stack([self._none if frame is None else frame.coefficients for frame in frames])  # [T, C, L]
        if all(frame is None or frame.is_plain for frame in frames):
            return Injections(SiteInjection(self._combined(strengths[None])))
        return self._mixed(frames, strengths, rows)

    def _pushed(self, frame: FrameSteering) -> Injections:
        """Sum the directions for one column that every row shares."""
        if self._summed is None or self._summed[0] is not frame:
            weights = self._tensor(frame.coefficients).t().unsqueeze(1)  # [L, 1, C]
            pushes = torch.bmm(weights, self._directions).unsqueeze(1)  # [L, 1, 1, D]
            self._summed = frame, Injections(SiteInjection(pushes))
        return self._summed[1]

    @property
    def _none(self) -> Floats:
        layers, concepts = self._directions.shape[:2]
        return np.zeros((concepts, layers), dtype=np.float32)

    def _mixed(self, frames: Sequence[FrameSteering | None], strengths: Floats, rows: int) -> Injections:
        """Sort concepts by site; `strengths` [T, C, L]."""
        concepts = strengths.shape[1]
        site = _stacked([None if f is None else f.site for f in frames], concepts)[None, :, :, None]  # [1, T, C, 1]
        is_text_only = _stacked([None if f is None else f.is_text_only for f in frames], concepts)  # [T, C]
        weights = strengths[None]  # [R, T, C, L]
        if rows > 1 and is_text_only.any():
            weights = np.stack((strengths, np.where(is_text_only[:, :, None], np.float32(0), strengths)))
        parts = [self._at_site(frames, np.where(site == place, weights, np.float32(0))) for place in Site]
        return Injections(parts[Site.BLOCK_OUTPUT], parts[Site.ATTENTION_OUTPUT], parts[Site.FFN_OUTPUT])

    def _at_site(self, frames: Sequence[FrameSteering | None], weights: Floats) -> SiteInjection | None:
        """Sum concepts of strengths `weights` [R, T, C, L]; None where none has any."""
        if not weights.any():
            return None
        concepts = weights.shape[2]
        mode = _stacked([None if f is None else f.mode for f in frames], concepts)[None, :, :, None]  # [1, T, C, 1]
        zero = np.float32(0)
        clamps = np.where(mode == Mode.CLAMP, weights, zero)
        blends = np.where(mode == Mode.BLEND, weights, zero)
        targets = np.stack([self._none if f is None or f.target is None else f.target for f in frames])  # [T, C, L]
        pushes = np.where(mode == Mode.ADD, weights, zero) + clamps * targets
        made = SiteInjection(self._combined(pushes))
        if blends.any():
            share = np.abs(blends).sum(axis=2)  # [R, T, L]
            made = SiteInjection(made.push, self._combined(blends), self._tensor(np.moveaxis(share, -1, 0)[..., None]))
        active = np.flatnonzero(clamps.any(axis=(0, 1, 3)))
        if len(active):
            strengths = self._tensor(np.moveaxis(clamps[:, :, active], -1, 0))  # [L, R, T, C']
            directions = self._directions[:, torch.from_numpy(active).to(self._directions.device)]  # [L, C', D]
            made = SiteInjection(made.push, made.blend, made.share, strengths, directions)
        return made

    def _combined(self, weights: Floats) -> Tensor:
        """Sum the directions of strengths `weights` [R, T, C, L] -> [L, R, T, D]."""
        rows, columns, concepts, layers = weights.shape
        by_layer = self._tensor(np.moveaxis(weights, -1, 0).reshape(layers, rows * columns, concepts))
        return torch.bmm(by_layer, self._directions).view(layers, rows, columns, -1)

    def _tensor(self, values: Floats) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self._directions)


def _stacked(parts: Sequence[npt.NDArray[np.generic] | None], concepts: int) -> npt.NDArray[np.int32]:
    """[T, C] of what frames say of their concepts; 0, the plain case, where they say nothing."""
    plain = np.zeros(concepts, dtype=np.int32)
    return np.stack([plain if part is None else part.astype(np.int32) for part in parts])
