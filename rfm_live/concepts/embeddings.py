"""Named embeddings of audio for distances between sets of music. Used by the evaluation of steering.

`mel` is heard by anyone: the mean and spread of log-mel bands. `hidden` is what the model itself makes of the sound:
the mean hidden state of one block. Both give one row per second, so that a few minutes of music are many rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from rfm_live.concepts.meters import SAMPLE_RATE_HZ, Samples
from rfm_live.concepts.states import hidden_states
from rfm_live.model.checkpoint import MusicGen

MEL_BANDS = 40
_MEL_HOP = 640
_FLOOR_DB = -60.0

Rows = npt.NDArray[np.float32]


def mel_rows(samples: Samples) -> Rows:
    """Embed every whole second of mono samples at 32 kHz: [seconds, 80], mean then spread of 40 log-mel bands in dB.

    Bands lie between 40 Hz and 16 kHz. The floor of -60 dB is that of noise which nobody hears.
    """
    import librosa

    seconds = len(samples) // SAMPLE_RATE_HZ
    power = librosa.feature.melspectrogram(
        y=samples, sr=SAMPLE_RATE_HZ, n_fft=2048, hop_length=_MEL_HOP, n_mels=MEL_BANDS, fmin=40.0
    )
    mel = np.maximum(10.0 * np.log10(np.maximum(power, 1e-10)), _FLOOR_DB)  # the floor last: log10 rounds by the CPU
    frames = mel[:, : seconds * 50].reshape(MEL_BANDS, seconds, 50)  # [40, seconds, 50]
    return np.concatenate((frames.mean(axis=2), frames.std(axis=2))).T.astype(np.float32)


@torch.inference_mode()
def hidden_rows(model: MusicGen, samples: Samples, layer: int | None = None) -> Rows:
    """Embed every whole second of mono samples at the model's rate: [seconds, D], the mean state of block `layer`.

    The unsteered model hears them without text, from their start. `layer` None takes the block in the middle. The music
    must fit into the decoder's positions.
    """
    rate, config = model.config.sample_rate, model.config.decoder
    seconds, per_second = len(samples) // rate, round(model.config.frame_rate)
    layer = config.layers // 2 if layer is None else layer
    states = hidden_states(model, torch.from_numpy(samples[None, : seconds * rate]))[0, layer]  # [T, D]
    return np.asarray(states.float().cpu().numpy().reshape(seconds, per_second, -1).mean(axis=1), np.float32)


def stacked(rows: Sequence[Rows]) -> tuple[Rows, npt.NDArray[np.int64]]:
    """Rows [N, D] of several clips under each other, and the clip [N] that each belongs to."""
    return np.concatenate(rows), np.repeat(np.arange(len(rows)), [len(each) for each in rows])
