"""Guidance told to the unguided model: one pass per step then follows its caption as two did. Used by the recipe only.

The student is the trained decoder; the teacher is the same decoder, frozen and under classifier-free guidance (Ho and
Salimans 2022, arXiv 2207.12598): logits u + GUIDANCE * (c - u), with the caption and without. The student learns the
teacher's distributions by their Kullback-Leibler divergence; Meng et al. 2022 (arXiv 2210.03142) did the like for
diffusion. A third of the captions are another piece's, and half of the steps hear the student's own draws: so play
meets a caption that says one thing and music that says another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rfm_live.embedded.codec_training import CODEBOOKS
from rfm_live.embedded.composer import Style
from rfm_live.embedded.decoder_lessons import PAD, Lessons, worded
from rfm_live.embedded.decoder_training import DecoderTrainer
from rfm_live.embedded.disturbances import OWN, draw_own

GUIDANCE = 2.0
OTHER_CAPTION = 0.35
"""Share of the captions that are another piece's."""
CODEBOOK_WEIGHT = (0.4, 0.2, 0.2, 0.2)
RATE, WARM_UP_STEPS = 2e-4, 100


def guided_logits(teacher: DecoderTrainer, columns: Tensor, captions: Sequence[str]) -> Tensor:
    """The teacher's logits [B, T, K, V] for input `columns` [B, K, T] under GUIDANCE, but for rows without
    caption.
    """
    captioned = teacher.listened(columns, captions)
    told = torch.tensor([bool(text) for text in captions], device=columns.device)[:, None, None, None]
    if not bool(told.any()):
        return captioned
    plain = teacher.listened(columns, [""] * len(captions))
    return torch.where(told, plain + GUIDANCE * (captioned - plain), captioned)


def divergences(wanted: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence in nats per codebook [K] of `logits` from `wanted`, both [B, T, K, V], where
    `targets` [B, K, T] are not PAD.
    """
    wanted, found = wanted.log_softmax(-1), logits.log_softmax(-1)
    is_played = (targets != PAD).transpose(1, 2)  # [B, T, K]
    each = (wanted.exp() * (wanted - found)).sum(-1) * is_played
    return each.sum((0, 1)) / is_played.sum((0, 1)).clamp(min=1)


def distil_guidance(
    student: DecoderTrainer,
    teacher: DecoderTrainer,
    lessons: Lessons,
    minutes: float,
    path: Path,
    *,
    total_minutes: float,
    seed: int,
    report: Callable[[int, list[float]], None],
) -> None:
    """Train `student` for `minutes` of wall time, saving to `path` every minute. It begins at its averaged weights, and
    the average of `teacher` teaches; the text encoder stays as it is.

    The rate falls with the share of `total_minutes`; the optimiser's moments begin anew with every call.
    `report(step, divergences)` hears running means in nats.
    """
    parameters = {name: p for name, p in student.model.named_parameters() if name in student.average}
    learning = [p for name, p in parameters.items() if not name.startswith(("text_encoder", "enc_to_dec"))]
    optimiser = torch.optim.AdamW(learning, lr=RATE, betas=(0.9, 0.95), weight_decay=0.0)
    weight = torch.tensor(CODEBOOK_WEIGHT, device=learning[0].device)
    running, first = np.zeros(CODEBOOKS), student.distilled_steps
    if first == 0:
        student.settle()
    began = saved = last = time.monotonic()
    with teacher.averaged():
        while time.monotonic() - began < minutes * 60:
            share = min(1.0, student.distilled_seconds / (total_minutes * 60))
            warmth = min(1.0, (student.distilled_steps - first + 1) / WARM_UP_STEPS)
            optimiser.param_groups[0]["lr"] = RATE * warmth * (1.02 - share)
            rng = np.random.default_rng([seed, 17, student.distilled_steps])
            window, captions, _ = lessons.windows(rng)
            captions = with_other_captions(captions, lessons.styles, rng)
            columns, heard = lessons.columns(window, rng, weight.device)
            if rng.random() < OWN:
                heard = draw_own(heard, student.listened(heard[..., :-1], captions), rng)
            wanted = guided_logits(teacher, heard[..., :-1], captions)
            each = divergences(wanted, student.logits(heard[..., :-1], captions), columns[..., 1:])
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward((each * weight).sum())
            torch.nn.utils.clip_grad_norm_(learning, 1.0)
            optimiser.step()
            student.distilled_steps += 1
            student.follow(min(0.998, student.distilled_steps / (student.distilled_steps + 20)))
            running = 0.98 * running + 0.02 * each.detach().cpu().numpy()
            student.distilled_seconds += time.monotonic() - last
            last = time.monotonic()
            if student.distilled_steps % 50 == 0:
                unbiased = 1.0 - 0.98 ** (student.distilled_steps - first)
                report(student.distilled_steps, [float(value / unbiased) for value in running])
            if last - saved > 60:
                student.save(path)
                saved = last
    student.save(path)


def with_other_captions(captions: Sequence[str], styles: Sequence[Style], rng: np.random.Generator) -> list[str]:
    """The captions; a share of OTHER_CAPTION of those that are not empty is changed for that of a drawn style."""
    return [
        worded(rng, styles[int(rng.integers(len(styles)))]) if text and rng.random() < OTHER_CAPTION else text
        for text in captions
    ]
