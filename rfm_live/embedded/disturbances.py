"""What the decoder hears of a piece while it learns to go on with it: the piece with wrong codes in it. Used by the
recipe only.

In play the model hears itself, not a piece. Whoever learned from exact pieces only loses the thread at the first code
that is none of theirs, repeats what is wrong, and falls silent once a pause has become long. So the codes that are
heard differ from those that are to be told: single ones are exchanged (`disturb`), whole stretches are held or silent
(`hold`), and others are drawn by the model itself in the place of the piece's (`draw_own`: scheduled sampling in
parallel, Mihaylova and Martins 2019, arXiv 1906.07651).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

DISTURBED, MOST_DISTURBED = 0.4, 0.25
"""Share of the windows with exchanged codes, and the largest share of such codes in one."""
HELD, SILENT = 0.2, 0.6
"""Share of the windows with a stretch in which one frame is held, and how many of those frames are silence."""
SHORTEST_HOLD, LONGEST_HOLD = 8, 150
"""Frames."""
OWN, MOST_OWN = 0.5, 0.6
"""Share of the steps in which the model's own draws are heard, and the largest share of them in one window."""


def disturb(codes: Tensor, rng: np.random.Generator) -> Tensor:
    """`codes` [B, K, T] with codes of other frames of the same window in the place of some, as drawn from `rng`."""
    rows, codebooks, frames = codes.shape
    share = rng.random((rows, 1, 1)) * MOST_DISTURBED * (rng.random((rows, 1, 1)) < DISTURBED)
    is_wrong = torch.from_numpy(rng.random((rows, codebooks, frames)) < share)
    elsewhere = torch.from_numpy(rng.integers(frames, size=(rows, codebooks, frames)))
    return torch.where(is_wrong, codes.gather(2, elsewhere), codes)


def hold(codes: Tensor, silence: np.ndarray, rng: np.random.Generator) -> Tensor:
    """`codes` [B, K, T] in which some rows hold one of their own frames, or that of `silence` [K], for a while."""
    held, frames = codes.clone(), codes.shape[2]
    for row in np.flatnonzero(rng.random(len(codes)) < HELD):
        start, length = rng.integers(frames), rng.integers(SHORTEST_HOLD, LONGEST_HOLD)
        frame = torch.from_numpy(silence) if rng.random() < SILENT else codes[row, :, rng.integers(frames)]
        held[row, :, start : start + length] = frame[:, None]
    return held


def draw_own(columns: Tensor, logits: Tensor, rng: np.random.Generator) -> Tensor:
    """`columns` [B, K, T + 1] with draws from `logits` [B, T, K, V] in the place of some codes.

    The padding of the delay pattern, an index beyond the logits, stays as it is.
    """
    following = columns[..., 1:]
    generator = torch.Generator(columns.device).manual_seed(int(rng.integers(2**31)))
    noise = torch.empty_like(logits).exponential_(generator=generator)
    drawn = (logits.softmax(-1) / noise).argmax(-1).transpose(1, 2)  # [B, K, T]: the exponential race of multinomial
    share = torch.from_numpy(rng.random((len(columns), 1, 1)) * MOST_OWN).to(columns.device)
    is_own = torch.rand(following.shape, device=columns.device, generator=generator) < share
    heard = torch.where(is_own & (following < logits.shape[-1]), drawn, following)
    return torch.cat((columns[..., :1], heard), dim=-1)
