"""Sound to activations: the mean hidden state of every block over a clip, taken as in generation.

Used by concept learning. The codes enter the decoder behind BOS and in the delay pattern, without text, and the site is
the block output, where steering will add. The first second is left out of the mean: there the model has heard too
little.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from rfm_live.model.checkpoint import MusicGen
from rfm_live.model.delay import delay

SKIPPED_FRAMES = 50


def encode_clips(model: MusicGen, clips: Sequence[npt.NDArray[np.int16]], batch: int = 8) -> Iterator[torch.Tensor]:
    """Codes int64 [B, K, T] of int16 clips of equal length, in batches."""
    with torch.inference_mode():
        for start in range(0, len(clips), batch):
            rows = np.stack(clips[start : start + batch]).astype(np.float32) / 32767.0
            yield model.codec.encode(torch.from_numpy(rows)[:, None])


def mean_activations(model: MusicGen, clips: Sequence[npt.NDArray[np.int16]]) -> npt.NDArray[np.float32]:
    """Mean block outputs [N, L, D] of N int16 clips of equal length (32 kHz, whole frames, over one second)."""
    pad, rows = model.config.decoder.pad_id, []
    with torch.inference_mode():
        for codes in encode_clips(model, clips):
            columns = torch.stack([delay(item, pad) for item in codes])[:, :, : codes.shape[2]]  # [B, K, T]
            states = model.decoder.hidden_states(columns, None)  # [B, L, T, D]
            rows.append(states[:, :, SKIPPED_FRAMES:].mean(dim=2).numpy())
    return np.concatenate(rows)
