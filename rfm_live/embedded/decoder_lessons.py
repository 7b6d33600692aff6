"""What the embedded decoder learns from: windows of pieces, captions for them, and labels of what is heard. Used by the
recipe only.

Every example is a window of a piece behind a BOS column and in the delay pattern, exactly as in generation. Captions
are dropped for `CAPTION_DROP` of the examples, as guidance and prompt-free play need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from rfm_live.embedded.codec_training import CODEBOOKS, ENTRIES
from rfm_live.embedded.composer import (
    BEAT_FRAMES,
    INSTRUMENTS,
    SCALES,
    TEMPO_WORDS,
    TEXTURES,
    Piece,
    Style,
    caption,
    draw_style,
)
from rfm_live.embedded.disturbances import disturb, hold

CAPTION_DROP = 0.15
PAD = ENTRIES
WINDOW_FRAMES = 1024
"""Longest window that the training has seen; written to generation_config.max_length, which the engine reads."""
SHAPES = ((32, 16), (16, 32), (8, 64), (4, 128), (2, 256), (1, 512), (1, WINDOW_FRAMES))
SHARES = (0.1, 0.15, 0.2, 0.15, 0.15, 0.12, 0.13)
"""Shares of the shapes (rows, frames) of a step. Only the first frames of a window need the caption, later ones hear
what is played: short windows teach the text, long ones hold repetitions."""
STARTS, SHORT_FRAMES = 0.75, 256
"""Share of the windows of SHORT_FRAMES or more that begin with a bar, as play does; shorter ones all do. Only then do
position and tempo tell when the next onset is due; without that, what has begun is held for ever."""
TURNED, LEAST_AFTER = 0.3, 40
"""Share of the windows that go over to another piece at a bar, where that leaves it as many frames. Without turns a
model holds to the tonic that it has heard, against any push."""
REPEATED = 0.15
"""Share of the steps, at most, whose windows repeat one short stretch of a piece, which is found by copying alone; it
falls to nothing in the first half of the training."""
TOKENIZER_CAPTIONS = 3000
STYLE_SIZES = (len(INSTRUMENTS), len(TEMPO_WORDS), len(TEXTURES), 2, 2)
_LONGEST_SIXTEENTH = max(max(beats) for beats in BEAT_FRAMES.values()) // 4
MUSIC_SIZES = (*STYLE_SIZES, 12, len(SCALES), 16, _LONGEST_SIXTEENTH, 2)


def style_labels(style: Style) -> tuple[int, ...]:
    """What a caption may say of a style, as class numbers: instrument, tempo, texture, density, drums."""
    names = [instrument.name for instrument in INSTRUMENTS]
    tempo, texture = list(TEMPO_WORDS).index(style.tempo), TEXTURES.index(style.texture)
    return names.index(style.instrument.name), tempo, texture, int(style.dense), int(style.drums)


def music_labels(item: Piece) -> np.ndarray:
    """What the decoder's middle should know at every frame of a piece, as class numbers int8 [frames, 10]: the style,
    tonic and mode, which sixteenth of the bar it is, how many frames are left of that, and whether a note begins.
    """
    style = item.style
    labels = np.zeros((item.frames, len(MUSIC_SIZES)), np.int8)
    labels[:, :7] = (*style_labels(style), style.tonic, list(SCALES).index(style.mode))
    sixteenth, passed = np.divmod(np.arange(item.frames) % (4 * style.beat), style.beat // 4)
    labels[:, 7], labels[:, 8] = sixteenth, style.beat // 4 - 1 - passed
    labels[[note.start for note in item.notes], 9] = 1
    return labels


def delayed_columns(codes: Tensor) -> Tensor:
    """`codes` [B, K, T] -> columns [B, K, T + 1]: BOS, then column s with frame s - 1 - k of codebook k, PAD before the
    start.
    """
    rows, _, frames = codes.shape
    columns = codes.new_full((rows, CODEBOOKS, frames + 1), PAD)
    for k in range(CODEBOOKS):
        columns[:, k, 1 + k :] = codes[:, k, : frames - k]
    return columns


@dataclass(frozen=True)
class Lessons:
    """What there is to learn from: `codes` [N, K, T] of `pieces`, and the frame of codes of digital `silence` [K]."""

    codes: np.ndarray
    pieces: Sequence[Piece]
    silence: np.ndarray

    @cached_property
    def styles(self) -> list[Style]:
        """The style of every piece."""
        return [item.style for item in self.pieces]

    @cached_property
    def labels(self) -> np.ndarray:
        """What there is to know of every frame, int8 [N, T, 10] (`music_labels`)."""
        return np.stack([music_labels(item) for item in self.pieces])

    def windows(self, rng: np.random.Generator) -> tuple[Tensor, list[str], Tensor]:
        """Windows, captions and labels of one step (`draw_windows`), of a shape that is drawn, too."""
        rows, frames = SHAPES[int(rng.choice(len(SHAPES), p=SHARES))]
        return draw_windows(self.codes, self.styles, self.labels, rng, rows, frames)

    def columns(self, windows: Tensor, rng: np.random.Generator, device: torch.device) -> tuple[Tensor, Tensor]:
        """Columns [B, K, T + 1] to be told, and those that are heard instead: with wrong codes, holds and silences."""
        disturbed = hold(disturb(windows, rng), self.silence, rng)
        return delayed_columns(windows.to(device)), delayed_columns(disturbed.to(device))


def worded(rng: np.random.Generator, style: Style) -> str:
    """A fresh caption, sometimes with a capital."""
    text = caption(rng, style)
    return text.capitalize() if rng.random() < 0.3 else text


def draw_captions(seed: int, count: int = TOKENIZER_CAPTIONS) -> list[str]:
    """Captions of so many styles, for the tokenizer: it depends on words, not on how many pieces there are."""
    drawn = (np.random.default_rng([seed, 19, index]) for index in range(count))
    return [caption(rng, draw_style(rng)) for rng in drawn]


def draw_windows(
    codes: np.ndarray, styles: Sequence[Style], labels: np.ndarray, rng: np.random.Generator, rows: int, frames: int
) -> tuple[Tensor, list[str], Tensor]:
    """`rows` windows of `frames` frames (codes int64 [rows, K, frames]), freshly worded captions for them, some
    dropped, and of `labels` [N, T, 10] what there is to know of them, int64 [rows, frames, 10].

    A share of TURNED goes over to another piece at a bar (`turned_to`); the caption is that of the first.
    """
    windows, texts, known = [], [], []
    for _ in range(rows):
        piece = int(rng.integers(len(codes)))
        bar = 4 * styles[piece].beat
        text = "" if rng.random() < CAPTION_DROP else worded(rng, styles[piece])
        other, bars = None, range(bar, frames - LEAST_AFTER + 1, bar)
        if bars and rng.random() < TURNED:
            other = turned_to(styles, piece, rng, is_told=bool(text))
        is_at_bar = other is not None or frames < SHORT_FRAMES or rng.random() < STARTS
        start = _start(rng, codes.shape[2] - frames, bar if is_at_bar else 1)
        window, told = codes[piece, :, start : start + frames], labels[piece, start : start + frames]
        if other is not None:
            at = int(rng.choice(bars))
            start = _start(rng, codes.shape[2] - frames + at, 4 * styles[other].beat)
            stop = start + frames - at
            window = np.concatenate((window[:, :at], codes[other, :, start:stop]), axis=1)
            told = np.concatenate((told[:at], labels[other, start:stop]))
        windows.append(window.astype(np.int64))
        texts.append(text)
        known.append(told.astype(np.int64))
    return torch.from_numpy(np.stack(windows)), texts, torch.from_numpy(np.stack(known))


def _start(rng: np.random.Generator, latest: int, step: int) -> int:
    """A frame of 0, step, 2 * step .. `latest`."""
    return step * int(rng.integers(latest // step + 1))


def turned_to(styles: Sequence[Style], piece: int, rng: np.random.Generator, *, is_told: bool) -> int | None:
    """A piece that `piece` may go over to: of another tonic, and where a caption has told of them, of the same
    instrument, tempo, drums, density and texture, or of the same but the last two where there is none; None where there
    is none of these either.
    """
    own = styles[piece]
    others = [index for index, style in enumerate(styles) if style.tonic != own.tonic]
    if is_told:
        others = [index for index in others if _same(own, styles[index], "instrument", "tempo", "drums")]
        others = [index for index in others if _same(own, styles[index], "texture", "dense")] or others
    return others[int(rng.integers(len(others)))] if others else None


def _same(one: Style, other: Style, *fields: str) -> bool:
    return all(getattr(one, field) == getattr(other, field) for field in fields)


def draw_repeated(codes: np.ndarray, rng: np.random.Generator, rows: int, frames: int) -> Tensor:
    """`rows` windows int64 [rows, K, frames], each one stretch of 8 frames to half a window, over and over."""
    windows = []
    for _ in range(rows):
        stretch = int(rng.integers(8, max(frames // 2, 9)))
        start = int(rng.integers(codes.shape[2] - stretch))
        once = codes[int(rng.integers(len(codes))), :, start : start + stretch].astype(np.int64)
        begin = int(rng.integers(stretch))
        windows.append(np.tile(once, (1, frames // stretch + 2))[:, begin : begin + frames])
    return torch.from_numpy(np.stack(windows))
