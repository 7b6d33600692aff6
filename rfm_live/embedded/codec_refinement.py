"""Second training of the codec: its decoder alone, on codes that stay as they are. Used by the recipe only.

Encoder and codebooks are frozen, so the codes of the corpus, and with them the language model, stay valid. A decoder
that is uncertain plays too softly, whatever its losses; `match_loudness` gives it back what it lacks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from rfm_live.embedded.codec_losses import CodecLoss
from rfm_live.embedded.codec_training import CodecTrainer, draw_clips

CLIP_FRAMES = 64
BATCH = 4
RATE = 1e-3
LOUDNESS_CLIPS, LOUDNESS_FRAMES = 48, 300


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
    distance = CodecLoss().to(device)
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
        loss, parts = distance(output, clips)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
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


@torch.no_grad()
def match_loudness(trainer: CodecTrainer, samples: np.ndarray, seed: int) -> float:
    """Scale the decoder's last layer so that the median clip of `samples` comes back as loud as it was -> the gain."""
    device = next(trainer.model.parameters()).device
    ratios = []
    for index in range(LOUDNESS_CLIPS):
        clip = draw_clips(samples, 20_000_000 + index, seed, device, LOUDNESS_FRAMES, 1)
        quantised = trainer.quantiser(trainer.model.encoder(clip[:, None]), learn=False)[0]
        output = trainer.model.decoder(quantised)[:, 0, : clip.shape[1]]
        ratios.append(float(output.square().mean() / clip.square().mean()) ** 0.5)
    gain = 1 / float(np.median(ratios))
    last = trainer.model.decoder.layers[-1].conv
    last.parametrizations.weight.original0.mul_(gain)
    last.bias.mul_(gain)
    return gain
