"""Training of the embedded codec: a small causal EnCodec, from nothing. Used by the recipe only.

The network is transformers' `EncodecModel`, so the result is a true checkpoint by construction. The vector quantiser is
trained here (exponential moving averages, straight-through gradients, dead entries replaced; van den Oord et al. 2017,
arXiv 1711.00937 appendix A.1; residual form of arXiv 2107.03312 section III-C). The first minute trains the plain
autoencoder; then the codebooks start from residual k-means on its latents.

The encoder's LSTM is held at zero: with all its weights zero its output is zero and the skip path is the identity, so
the codes depend on a few frames of sound only, not on the whole past. Equal notes then give equal codes, which a small
decoder can learn. A training-only head predicts a semitone spectrum from the first codebook's vector, so that codebook
0 carries pitch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import EncodecConfig, EncodecModel

from rfm_live.embedded.codec_losses import SEMITONES, CodecLoss
from rfm_live.embedded.render import FRAME_SAMPLES, SAMPLE_RATE_HZ

CODEBOOKS = 4
ENTRIES = 512
WIDTH = 128
CLIP_FRAMES = 64
BATCH = 3
WARM_STEPS = 400


def codec_config(filters: int = 12) -> EncodecConfig:
    """The codec's shape: 32 kHz mono, hop 640 (50 Hz), 4 codebooks of 512 entries (1.8 kbit/s), causal."""
    return EncodecConfig(
        target_bandwidths=[CODEBOOKS * 50 * 9 / 1000],
        sampling_rate=SAMPLE_RATE_HZ,
        audio_channels=1,
        normalize=False,
        num_filters=filters,
        upsampling_ratios=[8, 5, 4, 4],
        codebook_size=ENTRIES,
        codebook_dim=WIDTH,
        hidden_size=WIDTH,
        num_lstm_layers=1,
        num_residual_layers=1,
        use_causal_conv=True,
        use_conv_shortcut=False,
        norm_type="weight_norm",
        pad_mode="constant",
        chunk_length_s=None,
    )


class ResidualQuantiser(nn.Module):
    """Four codebooks learned by moving averages; each codes what the ones before it left over."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("embed", torch.zeros(CODEBOOKS, ENTRIES, WIDTH))
        self.register_buffer("mass", torch.ones(CODEBOOKS, ENTRIES))
        self.register_buffer("total", torch.zeros(CODEBOOKS, ENTRIES, WIDTH))
        self.embed: Tensor
        self.mass: Tensor
        self.total: Tensor

    def start(self, vectors: Tensor, generator: torch.Generator) -> None:
        """Residual k-means (8 rounds) on `vectors` [N, 128]."""
        residual = vectors
        for level in range(CODEBOOKS):
            centre = residual[torch.randperm(len(residual), generator=generator)[:ENTRIES]].clone()
            for _ in range(8):
                code = torch.cdist(residual, centre).argmin(1)
                sums = torch.zeros_like(centre).index_add_(0, code, residual)
                count = torch.bincount(code, minlength=ENTRIES).to(sums)
                centre = torch.where(count[:, None] > 0, sums / count.clamp(min=1)[:, None], centre)
            code = torch.cdist(residual, centre).argmin(1)
            self.embed[level] = centre
            self.mass[level] = torch.bincount(code, minlength=ENTRIES).to(sums).clamp(min=1.0)
            self.total[level] = centre * self.mass[level][:, None]
            residual = residual - centre[code]

    def forward(self, latent: Tensor, learn: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Quantise `latent` [B, 128, T]: straight-through output [B, 128, T], first level [N, 128], commitment, codes
        [N, 4].
        """
        flat = latent.transpose(1, 2).reshape(-1, WIDTH)  # [N, 128]
        residual, levels, codes = flat, [], []
        commitment = flat.new_zeros(())
        for level in range(CODEBOOKS):
            code = torch.cdist(residual.detach(), self.embed[level]).argmin(1)
            value = self.embed[level][code]
            commitment = commitment + F.mse_loss(residual, value.detach())
            if learn:
                self._learn(level, residual.detach(), code)
            residual = residual - value
            levels.append(value)
            codes.append(code)
        first = flat + (levels[0] - flat).detach()
        output = flat + (torch.stack(levels).sum(0) - flat).detach()
        shaped = output.reshape(latent.shape[0], -1, WIDTH).transpose(1, 2)
        return shaped, first, commitment, torch.stack(codes, 1)

    def _learn(self, level: int, residual: Tensor, code: Tensor, decay: float = 0.99) -> None:
        count = torch.bincount(code, minlength=ENTRIES).to(residual)
        self.mass[level].mul_(decay).add_(count, alpha=1 - decay)
        sums = torch.zeros_like(self.total[level]).index_add_(0, code, residual)
        self.total[level].mul_(decay).add_(sums, alpha=1 - decay)
        dead = (self.mass[level] < 0.02).nonzero()[:, 0]
        if len(dead):
            fresh = residual[torch.randint(len(residual), (len(dead),))]
            self.mass[level][dead] = 0.2
            self.total[level][dead] = fresh * 0.2
        self.embed[level] = self.total[level] / self.mass[level][:, None].clamp(min=1e-5)


@dataclass
class CodecTrainer:
    """Codec, quantiser, training-only pitch head and optimiser; `save` and `load` make the training resumable."""

    model: EncodecModel
    quantiser: ResidualQuantiser
    pitch_head: nn.Linear
    optimiser: torch.optim.AdamW
    step: int = 0
    seconds: float = 0.0
    refined_steps: int = 0
    refined_seconds: float = 0.0

    @classmethod
    def create(cls, seed: int, filters: int = 12) -> CodecTrainer:
        """A fresh codec; `seed` fixes its weights."""
        torch.manual_seed(seed)
        model = EncodecModel(codec_config(filters))
        for module in model.encoder.modules():
            if isinstance(module, nn.LSTM):
                for parameter in module.parameters():
                    parameter.requires_grad_(False).zero_()
        head = nn.Linear(WIDTH, SEMITONES)
        trained = [p for p in [*model.parameters(), *head.parameters()] if p.requires_grad]
        return cls(
            model, ResidualQuantiser(), head, torch.optim.AdamW(trained, lr=1e-3, betas=(0.8, 0.99), weight_decay=0.0)
        )

    def save(self, path: Path) -> None:
        """Write everything that the next run needs, atomically."""
        state = {
            "model": self.model.state_dict(),
            "quantiser": self.quantiser.state_dict(),
            "pitch_head": self.pitch_head.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "refined_steps": self.refined_steps,
            "refined_seconds": self.refined_seconds,
        }
        torch.save(state, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)

    def load(self, path: Path) -> None:
        """Continue from what `save` wrote."""
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.quantiser.load_state_dict(state["quantiser"])
        self.pitch_head.load_state_dict(state["pitch_head"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.refined_steps, self.refined_seconds = state["refined_steps"], state["refined_seconds"]

    def to(self, device: torch.device) -> None:
        """Move everything to `device`."""
        for module in (self.model, self.quantiser, self.pitch_head):
            module.to(device)
        move_state(self.optimiser, device)

    @torch.no_grad()
    def encode(self, samples: np.ndarray) -> np.ndarray:
        """Codes int16 [4, T] of one piece of int16 samples [T * 640]."""
        device = next(self.model.parameters()).device
        clip = torch.from_numpy(samples.astype(np.float32) / 32767.0).to(device)
        latent = self.model.encoder(clip[None, None])
        codes = self.quantiser(latent, learn=False)[3]  # [T, 4]
        rows: np.ndarray = codes.T.cpu().numpy().astype(np.int16)
        return rows

    def silence(self) -> np.ndarray:
        """Codes int64 [4] of a frame of digital silence that has lasted for a second."""
        return self.encode(np.zeros(50 * FRAME_SAMPLES, np.int16))[:, -1].astype(np.int64)

    def export(self) -> EncodecModel:
        """The codec with the learned codebooks in place."""
        for level, layer in enumerate(self.model.quantizer.layers):
            layer.codebook.embed.copy_(self.quantiser.embed[level])
            layer.codebook.embed_avg.copy_(self.quantiser.embed[level])
            layer.codebook.cluster_size.fill_(1.0)
            layer.codebook.inited.fill_(1.0)
        return self.model


def move_state(optimiser: torch.optim.Optimizer, device: torch.device) -> None:
    """Move the moments of an optimiser that was loaded before its parameters moved."""
    for state in optimiser.state.values():
        for name, value in state.items():
            if isinstance(value, Tensor) and name != "step":
                state[name] = value.to(device)


def draw_clips(
    samples: np.ndarray, step: int, seed: int, device: torch.device, frames: int = CLIP_FRAMES, rows: int = BATCH
) -> Tensor:
    """Clips [rows, frames * 640] for one step, drawn by counter; starts lie on the frame grid, as in encoding."""
    rng = np.random.default_rng([seed, 7, step])
    clips: list[np.ndarray] = []
    while len(clips) < rows:
        row = int(rng.integers(len(samples)))
        start = int(rng.integers(samples.shape[1] // FRAME_SAMPLES - frames)) * FRAME_SAMPLES
        clip = samples[row, start : start + frames * FRAME_SAMPLES].astype(np.float32) / 32767.0
        if np.abs(clip).max() > 0.01:
            clips.append(clip)
    return torch.from_numpy(np.stack(clips)).to(device)


def frame_semitones(clips: Tensor, bank: Tensor) -> Tensor:
    """Unit-length semitone spectrum [B * T, 60] of the 2048 samples that end with each frame of [B, T * 640]."""
    windows = F.pad(clips, (2048 - FRAME_SAMPLES, 0)).unfold(1, 2048, FRAME_SAMPLES)  # [B, T, 2048]
    spectrum = torch.fft.rfft(windows * torch.hann_window(2048, device=clips.device), 4096).abs()  # [B, T, 2049]
    return F.normalize((spectrum @ bank).reshape(-1, SEMITONES), dim=1)


def train_codec(
    trainer: CodecTrainer,
    samples: np.ndarray,
    minutes: float,
    path: Path,
    *,
    total_minutes: float,
    seed: int,
    report: Callable[[int, dict[str, float]], None],
) -> None:
    """Train for `minutes` of wall time, saving to `path` every minute; the learning rate falls with the share of
    `total_minutes`.
    """
    device = next(trainer.model.parameters()).device
    distance, generator = CodecLoss().to(device), torch.Generator().manual_seed(seed)
    bank = distance.spectral.get_buffer("semitones")
    began = saved = last = time.monotonic()
    while time.monotonic() - began < minutes * 60:
        share = min(1.0, trainer.seconds / (total_minutes * 60))
        rate = 1e-3 * min(1.0, (trainer.step + 1) / 100) * (0.525 + 0.475 * math.cos(math.pi * share))
        for group in trainer.optimiser.param_groups:
            group["lr"] = rate
        clips = draw_clips(samples, trainer.step, seed, device)
        latent = trainer.model.encoder(clips[:, None])  # [B, 128, T]
        if trainer.step == WARM_STEPS:
            with torch.no_grad():
                trainer.quantiser.start(_latents(trainer, samples, seed, device), generator)
        if trainer.step < WARM_STEPS:
            quantised, first, commitment = (
                latent,
                latent.transpose(1, 2).reshape(-1, WIDTH),
                latent.square().mean() * 0.01,
            )
        else:
            quantised, first, commitment, _ = trainer.quantiser(latent)
        output = trainer.model.decoder(quantised)[:, 0, : clips.shape[1]]
        loss, parts = distance(output, clips)
        parts["commitment"] = commitment
        parts["head"] = 1 - F.cosine_similarity(trainer.pitch_head(first), frame_semitones(clips, bank)).mean()
        loss = loss + 0.25 * commitment + 0.5 * parts["head"]
        trainer.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
        trainer.optimiser.step()
        trainer.step += 1
        trainer.seconds += time.monotonic() - last
        last = time.monotonic()
        if trainer.step % 50 == 0:
            report(trainer.step, {name: float(value.detach()) for name, value in parts.items()})
        if last - saved > 60:
            trainer.save(path)
            saved = last
    trainer.save(path)


def _latents(trainer: CodecTrainer, samples: np.ndarray, seed: int, device: torch.device) -> Tensor:
    """Latents [N, 128] of many clips, for the start of the codebooks."""
    parts = [trainer.model.encoder(draw_clips(samples, 1_000_000 + i, seed, device)[:, None]) for i in range(60)]
    return torch.cat([part.transpose(1, 2).reshape(-1, WIDTH) for part in parts])
