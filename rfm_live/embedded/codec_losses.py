"""What the codec is trained on: distances between its output and the sound it coded. Used by the recipe only.

Spectra alone let held notes sing at multiples of the frame rate (50 Hz), up to a semitone off: from codes that hardly
change, the decoder repeats one frame. So `PitchLoss` hears quarter tones over a quarter of a second, and the waveform
below 1.2 kHz. Magnitudes alone make noise and treble too soft, because an uncertain decoder plays the median:
`LevelLoss` compares mean powers.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rfm_live.embedded.render import SAMPLE_RATE_HZ

STFT_SIZES = (256, 512, 1024, 2048, 4096)
SEMITONES = 60
LOWEST_PITCH = 36
_SIZE, _HOP = 8192, 1024
_BANDS, _LOWEST_PITCH = 144, 33
_TAPS, _CUTOFF_HZ = 257, 1200.0
_LEVEL_SIZE, _LEVEL_BANDS, _LEVEL_FRAMES = 1024, 40, 40


def semitone_bank(size: int) -> Tensor:
    """Filter bank [size // 2 + 1, 60]: Gaussians one semitone apart from MIDI 36, at least one bin wide, unit sum."""
    hz = torch.linspace(0, SAMPLE_RATE_HZ / 2, size // 2 + 1)
    centre = 440.0 * 2.0 ** ((torch.arange(SEMITONES) + LOWEST_PITCH - 69) / 12)
    width = torch.clamp(centre * (2 ** (1 / 12) - 1) / 2, min=SAMPLE_RATE_HZ / size * 0.6)
    bank = torch.exp(-0.5 * ((hz[:, None] - centre) / width) ** 2)
    return bank / bank.sum(0)


def mel_bank(size: int, bands: int) -> Tensor:
    """Triangular mel filter bank [size // 2 + 1, bands] (HTK mel scale), 40 Hz to 16 kHz."""
    points = torch.linspace(2595 * np.log10(1 + 40 / 700), 2595 * np.log10(1 + 16000 / 700), bands + 2)
    hz = 700 * (10 ** (points / 2595) - 1)
    bins = torch.linspace(0, SAMPLE_RATE_HZ / 2, size // 2 + 1)[:, None]
    rise, fall = (bins - hz[:-2]) / (hz[1:-1] - hz[:-2]), (hz[2:] - bins) / (hz[2:] - hz[1:-1])
    bank = torch.clamp(torch.minimum(rise, fall), min=0)
    return bank / bank.sum(0).clamp(min=1e-3)


class SpectralLoss(nn.Module):
    """Multi-resolution spectral distance: relative magnitude error, log-mel error, semitone spectrum's error."""

    def __init__(self) -> None:
        super().__init__()
        for size in STFT_SIZES:
            self.register_buffer(f"window_{size}", torch.hann_window(size))
            self.register_buffer(f"mel_{size}", mel_bank(size, min(80, size // 8)))
        self.register_buffer("semitones", semitone_bank(4096))

    def _magnitude(self, samples: Tensor, size: int) -> Tensor:
        window = self.get_buffer(f"window_{size}")
        spectrum = torch.stft(samples, size, size // 4, window=window, return_complex=True)  # [B, F, T]
        return (spectrum.real.square() + spectrum.imag.square() + 1e-12).sqrt().transpose(1, 2) / window.sum()

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Distance of `output` to `target`, both [B, N]."""
        total = output.new_zeros(())
        for size in STFT_SIZES:
            ours, theirs = self._magnitude(output, size), self._magnitude(target, size)
            total = total + (ours - theirs).abs().sum() / theirs.abs().sum().clamp(min=1e-4)
            mel = self.get_buffer(f"mel_{size}")
            total = total + ((ours @ mel + 1e-4).log() - (theirs @ mel + 1e-4).log()).abs().mean()
            if size == 4096:
                pitch, wanted = ours @ self.get_buffer("semitones"), theirs @ self.get_buffer("semitones")
                total = total + 2 * (pitch - wanted).abs().sum() / wanted.sum().clamp(min=1e-4)
        return total / len(STFT_SIZES)


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


class LevelLoss(nn.Module):
    """Mean absolute error of the levels (nats of power) in 40 mel bands, each over 0.32 s; the floor lies at -80 dB."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(_LEVEL_SIZE))
        self.register_buffer("mel", mel_bank(_LEVEL_SIZE, _LEVEL_BANDS))

    def _levels(self, samples: Tensor) -> Tensor:
        window = self.get_buffer("window")
        spectrum = torch.stft(samples, _LEVEL_SIZE, _LEVEL_SIZE // 4, window=window, return_complex=True)  # [B, F, T]
        power = (spectrum.real.square() + spectrum.imag.square()).transpose(1, 2) / window.sum() ** 2
        bands = (power @ self.get_buffer("mel")).transpose(1, 2)  # [B, 40, T]
        return (F.avg_pool1d(bands, _LEVEL_FRAMES, ceil_mode=True) + 1e-8).log()

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Distance of `output` to `target`, both [B, N]."""
        return (self._levels(output) - self._levels(target)).abs().mean()


class CodecLoss(nn.Module):
    """All of them, weighted."""

    def __init__(self) -> None:
        super().__init__()
        self.spectral, self.pitch, self.level = SpectralLoss(), PitchLoss(), LevelLoss()

    def forward(self, output: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Total distance of `output` to `target`, both [B, N], and its parts."""
        pitch, wave = self.pitch(output, target)
        parts = {
            "spectral": self.spectral(output, target),
            "pitch": pitch,
            "wave": wave,
            "level": self.level(output, target),
        }
        return parts["spectral"] + 0.7 * pitch + 0.7 * wave + 0.2 * parts["level"], parts
