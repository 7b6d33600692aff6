"""Second training of the codec: its decoder alone, on codes that stay as they are. Used by the recipe only.

After the first training held notes sounded at multiples of the frame rate (50 Hz), up to a semitone off: from codes
that hardly change, the decoder repeated one frame. Here it learns to carry the phase on, by losses that hear pitch: a
quarter-tone spectrum over a quarter of a second, and the waveform below 1.2 kHz. Encoder and codebooks are frozen, so
the codes of the corpus, and with them the language model, stay valid.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rfm_live.embedded.codec_training import CodecTrainer, SpectralLoss, draw_clips
from rfm_live.embedded.render import SAMPLE_RATE_HZ

CLIP_FRAMES = 64
BATCH = 4
RATE = 1e-3
_SIZE, _HOP = 8192, 1024
_BANDS, _LOWEST_PITCH = 144, 33
_TAPS, _CUTOFF_HZ = 257, 1200.0


class PitchLoss(nn.Module):
    """Relative errors of the quarter-tone spectrum (MIDI 33 to 105, windows of 256 ms) and the waveform to 1.2 kHz."""

    def __init__(self) -> None:
        super().__init__()
        hz = torch.linspace(0, SAMPLE_RATE_HZ / 2, _SIZE // 2 + 1)
        centre = 440.0 * 2.0 ** ((torch.arange(_BANDS) / 2 + _LOWEST_PITCH - 69) / 12)
        width = torch.clamp(centre * (2 ** (1 / 24) - 1) / 2, min=SAMPLE_RATE_HZ / _SIZE * 0.6)
        bank = torch.exp(-0.5 * ((hz[:, None] - centre) / width) ** 2)
        time_s = (torch.arange(_TAPS) - _TAPS // 2) / SAMPLE_RATE_HZ
        taps = torch.sinc(2 * _CUTOFF_HZ * time_s) * torch.hamming_window(_TAPS, periodic=False)
        self.register_buffer("bank", bank / bank.sum(0))  # [F, 144]
        self.register_buffer("window", torch.hann_window(_SIZE))
        self.register_buffer("taps", (taps / taps.sum())[None, None])  # [1, 1, 257]

    def _quarter_tones(self, samples: Tensor) -> Tensor:
        window = self.get_buffer("window")
        spectrum = torch.stft(samples, _SIZE, _HOP, window=window, return_complex=True)  # [B, F, T]
        magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-12).sqrt().transpose(1, 2)
        return magnitude @ self.get_buffer("bank") / window.sum()  # [B, T, 144]

    def forward(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The two errors of `output` against `target`, both [B, N]."""
        ours, theirs = self._quarter_tones(output), self._quarter_tones(target)
        pitch = (ours - theirs).abs().sum() / theirs.sum().clamp(min=1e-4)
        low, wanted = (F.conv1d(wave[:, None], self.get_buffer("taps")) for wave in (output, target))
        return pitch, (low - wanted).abs().sum() / wanted.abs().sum().clamp(min=1e-3)


def refine_decoder(
    trainer: CodecTrainer,
    samples: np.ndarray,
    minutes: float,
    path: Path,
    *,
    total_minutes: float,
    seed: int,
    report: Callable[[int, dict[str, float]], None],
) -> None:
    """Train the codec's decoder for `minutes` of wall time, saving to `path` every minute.

    The learning rate falls with the share of `total_minutes`; the moments of the optimiser start anew in every run.
    """
    device = next(trainer.model.parameters()).device
    spectral, pitch = SpectralLoss().to(device), PitchLoss().to(device)
    decoder = trainer.model.decoder
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=RATE, betas=(0.8, 0.99), weight_decay=0.0)
    began = saved = last = time.monotonic()
    step = 0
    while time.monotonic() - began < minutes * 60:
        share = min(1.0, trainer.refined_seconds / (total_minutes * 60))
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 50) * (0.525 + 0.475 * math.cos(math.pi * share))
        clips = draw_clips(samples, 10_000_000 + trainer.refined_steps, seed, device, CLIP_FRAMES, BATCH)
        with torch.no_grad():
            quantised = trainer.quantiser(trainer.model.encoder(clips[:, None]), learn=False)[0]
        output = decoder(quantised)[:, 0, : clips.shape[1]]
        parts = {"spectral": spectral(output, clips), **dict(zip(("pitch", "wave"), pitch(output, clips), strict=True))}
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(torch.stack(list(parts.values())).sum())
        nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimiser.step()
        step += 1
        trainer.refined_steps += 1
        trainer.refined_seconds += time.monotonic() - last
        last = time.monotonic()
        if step % 50 == 0:
            report(trainer.refined_steps, {name: float(value.detach()) for name, value in parts.items()})
        if last - saved > 60:
            trainer.save(path)
            saved = last
    trainer.save(path)
