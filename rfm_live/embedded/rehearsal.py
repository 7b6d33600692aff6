"""The decoder learns from its own playing, so that long music keeps to its prompt. Used by the recipe only.

Whoever learned from pieces alone has never heard what it plays itself after ten seconds: it lets the drums go and holds
a note, and its own music then says to go on so. Here it hears the beginning of a piece, goes on freely, and at a beat
the piece comes back where it would be by then; what the piece plays there is what the decoder learns to play after its
own music (DAgger: Ross et al. 2011, arXiv 1011.0686, with the piece as the expert). In what it hears of pieces alone it
stays as it was, by the Kullback-Leibler divergence from the decoder before rehearsals.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import EncodecModel

from rfm_live.embedded.codec_training import CODEBOOKS
from rfm_live.embedded.decoder_lessons import PAD, Lessons, delayed_columns, worded
from rfm_live.embedded.decoder_training import CODEBOOK_WEIGHT, DecoderTrainer, generation_config
from rfm_live.embedded.export import write_checkpoint
from rfm_live.embedded.guidance_distillation import divergences
from rfm_live.model.checkpoint import MusicGen, load_checkpoint
from rfm_live.model.cross import CrossCache

SHAPES = ((32, 512), (20, 768), (16, 1024))
"""Rows and frames that are played together."""
STEP_FRAMES = 1024
"""Frames of a step, of as many rows as that gives."""
CAPTION_DROP = 0.1
LONG = 0.5
"""Share of the free stretches that last for most of what is left of the row; others last one to three bars."""
FADING_FRAMES, LASTING = 25.0, 0.1
"""A frame counts by exp(-t / FADING_FRAMES) + LASTING, t frames after the piece has come back."""
PLAIN = 0.25
"""Share of the steps on pieces alone."""
KEEPING = 0.5
"""Weight of the divergence from the decoder before."""
RATE, WARM_UP_STEPS = 1e-4, 50
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Rehearsed:
    """Rows that the decoder has played in: `columns` [B, K, T + 1] are the pieces', `heard` what it heard and played,
    `worth` [B, T] how much a frame counts after the piece has come back, `first` the frames before any of its own.
    """

    columns: Tensor
    heard: Tensor
    worth: Tensor
    captions: list[str]
    first: list[int]

    def to(self, device: torch.device) -> Rehearsed:
        """The same on `device`."""
        return replace(self, columns=self.columns.to(device), heard=self.heard.to(device), worth=self.worth.to(device))

    def parts(self, rng: np.random.Generator) -> Iterator[Rehearsed]:
        """The rows in drawn order, STEP_FRAMES frames at a time."""
        size = max(1, STEP_FRAMES // self.worth.shape[1])
        order = rng.permutation(len(self.captions))
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            yield Rehearsed(
                self.columns[rows],
                self.heard[rows],
                self.worth[rows],
                [self.captions[row] for row in rows],
                [self.first[row] for row in rows],
            )


def free_frames(rng: np.random.Generator, frames: int, beat: int) -> Mask:
    """Which of `frames` frames the decoder plays itself: after one or two bars of the piece, from beat to beat, with
    half a bar to a bar of the piece between; the piece has the last word.
    """
    bar = 4 * beat
    is_free = np.zeros(frames, np.bool_)
    at = bar * int(rng.integers(1, 3))
    while (beats := (frames - at) // beat - 2) >= 2:
        least, most = (max(2, beats // 2), beats) if rng.random() < LONG else (2, min(beats, 12))
        until = at + beat * int(rng.integers(least, most + 1))
        is_free[at:until] = True
        at = until + beat * int(rng.integers(2, 5))
    return is_free


def worth(is_free: Mask) -> npt.NDArray[np.float32]:
    """How much every frame counts: the piece's frames by how soon they follow free ones, all others nothing."""
    weights, since = np.zeros(len(is_free), np.float32), None
    for frame, is_own in enumerate(is_free):
        if is_own:
            since = 0
        elif since is not None:
            weights[frame] = np.exp(-since / FADING_FRAMES) + LASTING
            since += 1
    return weights


def rehearse_rows(model: MusicGen, lessons: Lessons, rng: np.random.Generator) -> Rehearsed:
    """Draw rows of pieces and let the model play in them; rows without a caption come last."""
    rows, frames = SHAPES[int(rng.integers(len(SHAPES)))]
    untold = int(rng.binomial(rows, CAPTION_DROP))
    windows, captions, free = [], [], []
    for row in range(rows):
        piece = int(rng.integers(len(lessons.codes)))
        style = lessons.styles[piece]
        start = 4 * style.beat * int(rng.integers((lessons.codes.shape[2] - frames) // (4 * style.beat) + 1))
        windows.append(lessons.codes[piece, :, start : start + frames].astype(np.int64))
        captions.append("" if row >= rows - untold else worded(rng, style))
        free.append(free_frames(rng, frames, style.beat))
    columns = delayed_columns(torch.from_numpy(np.stack(windows)))
    heard = play_on(model, columns, torch.from_numpy(np.stack(free)), captions, int(rng.integers(2**31)))
    first = [int(row.argmax()) if row.any() else frames for row in free]
    return Rehearsed(columns, heard, torch.from_numpy(np.stack(list(map(worth, free)))), captions, first)


@torch.inference_mode()
def play_on(model: MusicGen, columns: Tensor, is_free: Tensor, captions: Sequence[str], seed: int) -> Tensor:
    """`columns` [B, K, T + 1] with the model's own draws, each after all that came before it, in the frames where
    `is_free` [B, T]. It draws as in play without guidance: by temperature and top k. Rows without a caption stand at
    the end.
    """
    settings = generation_config()
    generator = torch.Generator().manual_seed(seed)
    is_own = torch.zeros_like(columns, dtype=torch.bool)
    for book in range(columns.shape[1]):
        is_own[:, book, 1 + book :] = is_free[:, : columns.shape[2] - 1 - book]
    heard, is_own_column = columns.clone(), is_own.any(1).any(0)
    cache = model.decoder.new_cache(len(columns), columns.shape[2])
    cross = _cross(model, [text for text in captions if text])
    read = 0
    for column in torch.nonzero(is_own_column).flatten().tolist():
        logits = model.decoder(heard[..., read:column], read, cache, cross)[:, -1] / settings.temperature  # [B, K, V]
        read = column
        least = logits.topk(settings.top_k).values[..., -1:]
        noise = torch.empty_like(logits).exponential_(generator=generator)
        drawn = (logits.masked_fill(logits < least, -torch.inf).softmax(-1) / noise).argmax(-1)
        heard[..., column] = torch.where(is_own[..., column], drawn, columns[..., column])
    return heard.clone()


def _cross(model: MusicGen, captions: Sequence[str]) -> CrossCache | None:
    """The keys and values of one caption a row."""
    encoder = model.text_encoder()
    states = [encoded for encoded in map(encoder.encode, captions) if encoded is not None]
    if not states:
        return None
    longest = max(one.shape[1] for one, _ in states)
    padded = torch.cat([F.pad(one, (0, 0, 0, longest - one.shape[1])) for one, _ in states])
    return model.decoder.new_cross(padded, torch.cat([F.pad(mask, (0, longest - mask.shape[1])) for _, mask in states]))


def as_played(student: DecoderTrainer, codec: EncodecModel, folder: Path) -> MusicGen:
    """The student as play would load it, written to `folder`; its trained weights, not their average."""
    write_checkpoint(folder, codec, student, is_averaged=False)
    model = load_checkpoint(folder)
    model.decoder.prepare()
    return model


def returning_loss(logits: Tensor, part: Rehearsed) -> Tensor:
    """Mean cross-entropies in nats per codebook [K] of the piece after it has come back, by the frames' worth; `logits`
    [B, T, K, V].
    """
    targets = part.columns[..., 1:]
    losses = []
    for book in range(CODEBOOKS):
        each = F.cross_entropy(logits[:, :, book].transpose(1, 2), targets[:, book], ignore_index=PAD, reduction="none")
        weight = torch.zeros_like(part.worth)
        weight[:, book:] = part.worth[:, : weight.shape[1] - book]
        losses.append((each * weight).sum() / weight.sum().clamp(min=1e-6))
    return torch.stack(losses)


def rehearse(
    student: DecoderTrainer,
    before: DecoderTrainer,
    codec: EncodecModel,
    lessons: Lessons,
    minutes: float,
    path: Path,
    *,
    total_minutes: float,
    seed: int,
    report: Callable[[int, list[float]], None],
) -> None:
    """Train `student` for `minutes` of wall time, saving to `path` after every round of playing. It begins at its
    averaged weights; `before` is the decoder before rehearsals; the text encoder stays as it is.

    The rate falls with the share of `total_minutes`; the optimiser's moments begin anew with every call.
    `report(step, losses)` hears running means in nats of what follows own playing.
    """
    parameters = {name: p for name, p in student.model.named_parameters() if name in student.average}
    learning = [p for name, p in parameters.items() if not name.startswith(("text_encoder", "enc_to_dec"))]
    optimiser = torch.optim.AdamW(learning, lr=RATE, betas=(0.9, 0.95), weight_decay=0.0)
    weight = torch.tensor(CODEBOOK_WEIGHT, device=learning[0].device) / sum(CODEBOOK_WEIGHT)
    running, first = np.zeros(CODEBOOKS), student.rehearsed_steps
    if first == 0:
        student.settle()
    began = last = time.monotonic()

    def learn(loss: Tensor) -> None:
        share = min(1.0, student.rehearsed_seconds / (total_minutes * 60))
        warmth = min(1.0, (student.rehearsed_steps - first + 1) / WARM_UP_STEPS)
        optimiser.param_groups[0]["lr"] = RATE * warmth * (1.02 - share)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimiser.step()
        student.rehearsed_steps += 1
        student.follow(min(0.995, student.rehearsed_steps / (student.rehearsed_steps + 20)))

    with before.averaged():
        while time.monotonic() - began < minutes * 60:
            rng = np.random.default_rng([seed, 23, student.rehearsed_steps])
            model = as_played(student, codec, path.with_suffix(".playing"))
            for part in rehearse_rows(model, lessons, rng).to(weight.device).parts(rng):
                logits = student.logits(part.heard[..., :-1], part.captions)
                each = returning_loss(logits, part)
                known = min(part.first)
                wanted = before.listened(part.heard[..., :known], part.captions)
                kept = divergences(wanted, logits[:, :known], part.columns[..., 1 : known + 1])
                learn(((each + KEEPING * kept) * weight).sum())
                running = 0.98 * running + 0.02 * each.detach().cpu().numpy()
                if rng.random() < PLAIN:
                    window, captions, _ = lessons.windows(rng)
                    columns, heard = lessons.columns(window, rng, weight.device)
                    wanted = before.listened(heard[..., :-1], captions)
                    found = student.logits(heard[..., :-1], captions)
                    learn((divergences(wanted, found, columns[..., 1:]) * weight).sum())
                student.rehearsed_seconds += time.monotonic() - last
                last = time.monotonic()
                if last - began > minutes * 60:
                    break
            student.save(path)
            unbiased = 1.0 - 0.98 ** (student.rehearsed_steps - first)
            report(student.rehearsed_steps, [float(value / unbiased) for value in running])
    student.save(path)
