"""The decoder learns from its own playing, so that long music keeps to its prompt. Used by the recipe only.

Whoever learned from pieces alone has never heard what it plays itself after ten seconds: it lets the drums go and holds
a note, and its own music then says to go on so. Here it plays from nothing or after the beginning of a piece, and at a
beat the piece comes back where it would be by then; what the piece plays there is what the decoder learns to play after
its own music (DAgger: Ross et al. 2011, arXiv 1011.0686, with the piece as the expert). Now and then it hears another
piece instead of its own playing: the caption counts for more than what was just heard. In what it hears of pieces alone
it stays as it was, by the Kullback-Leibler divergence from the decoder before rehearsals.

In many rows it is pushed besides, from somewhere in its first free stretch on, and what comes back is a piece that
shows what the pushes say (`rfm_live.embedded.leads`): it learns to go where it is led, and to keep to its prompt in all
else. The pushes learn along.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import EncodecModel

from rfm_live.embedded.codec_training import CODEBOOKS
from rfm_live.embedded.composer import Style
from rfm_live.embedded.decoder_lessons import PAD, Lessons, delayed_columns, worded
from rfm_live.embedded.decoder_training import CODEBOOK_WEIGHT, DecoderTrainer, generation_config
from rfm_live.embedded.export import write_checkpoint
from rfm_live.embedded.guidance_distillation import divergences
from rfm_live.embedded.leads import SETS, Leads
from rfm_live.model.checkpoint import MusicGen, load_checkpoint
from rfm_live.model.cross import CrossCache

SHAPES = ((32, 512), (20, 768), (16, 1024))
"""Rows and frames that are played together."""
STEP_FRAMES = 1024
"""Frames of a step, of as many rows as that gives."""
CAPTION_DROP = 0.1
FROM_NOTHING = 0.5
"""Share of the rows that begin with a free stretch; others begin with a bar or two of the piece."""
LONG = 0.5
"""Share of the free stretches that last for most of what is left of the row; others last one to three bars."""
FOREIGN = 0.25
"""Share of the free stretches in which another piece is heard instead of the decoder's own playing."""
OFTEN = {(True, False): 1, (True, True): 1, (False, False): 2, (False, True): 1}
"""How often pieces come, by whether they have drums and are dense: what has no beat to hold to goes astray first."""
TEMPERATURES = (0.8, 1.0)
"""Least and highest temperature of its own playing."""
FADING_FRAMES, LASTING = 25.0, 0.1
"""A frame counts by exp(-t / FADING_FRAMES) + LASTING, t frames after the piece has come back."""
PLAIN = 0.25
"""Share of the steps on pieces alone."""
KEEPING = 0.5
"""Weight of the divergence from the decoder before."""
RATE, PUSHES_RATE, WARM_UP_STEPS = 2e-4, 2e-3, 50
AT_ONCE, AT_RETURN = 0.25, 0.35
"""Shares of the rows that are pushed in which that begins with the row, or where the piece comes back; others begin
anywhere in the first free stretch."""
Mask = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Row:
    """A row before it is played: the `window` of its piece [K, T], `mixed` the same with other pieces in some free
    stretches, which frames the decoder plays, `is_own`, and the piece does not, `is_free` [T], and a caption. From the
    frame `since` on it is pushed by so much of concepts: `shares`.
    """

    window: Codes
    mixed: Codes
    is_own: Mask
    is_free: Mask
    caption: str
    shares: Mapping[str, float]
    since: int = 0


@dataclass(frozen=True)
class Rehearsed:
    """Rows that the decoder has played in: `columns` [B, K, T + 1] are the pieces', `heard` what it heard and played,
    `worth` [B, T] how much a frame counts after the piece has come back, `first` the frames before any but the piece's.
    Pushes act by `shares` [B, C] from the frames `since` [B] on.
    """

    columns: Tensor
    heard: Tensor
    worth: Tensor
    captions: list[str]
    first: list[int]
    shares: Tensor
    since: Tensor

    def to(self, device: torch.device) -> Rehearsed:
        """The same on `device`."""
        names = ("columns", "heard", "worth", "shares", "since")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def begun(self, frames: int) -> Tensor:
        """The next columns [B, K, frames] of the first `frames`, PAD from each row's `first` on."""
        columns = self.columns[..., 1 : frames + 1].clone()
        for row, first in enumerate(self.first):
            columns[row, :, first:] = PAD
        return columns

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
                self.shares[rows],
                self.since[rows],
            )


def free_stretches(rng: np.random.Generator, frames: int, beat: int) -> list[tuple[int, int]]:
    """First frame and end of the stretches of `frames` frames that the piece does not play: from nothing or after one
    or two bars of the piece, from beat to beat, with half a bar to a bar of the piece between; the piece has the last
    word.
    """
    stretches = []
    at = 0 if rng.random() < FROM_NOTHING else 4 * beat * int(rng.integers(1, 3))
    while (beats := (frames - at) // beat - 2) >= 2:
        least, most = (max(2, beats // 2), beats) if rng.random() < LONG else (2, min(beats, 12))
        until = at + beat * int(rng.integers(least, most + 1))
        stretches.append((at, until))
        at = until + beat * int(rng.integers(2, 5))
    return stretches


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


def rehearse_rows(model: MusicGen, lessons: Lessons, leads: Leads, rng: np.random.Generator) -> Rehearsed:
    """Draw rows of pieces and let the model play in them; rows without a caption come last."""
    count, frames = SHAPES[int(rng.integers(len(SHAPES)))]
    untold = int(rng.binomial(count, CAPTION_DROP))
    often = np.asarray([OFTEN[style.drums, style.dense] for style in lessons.styles])
    rows = [_draw_row(lessons, often / often.sum(), leads, rng, frames, row < count - untold) for row in range(count)]
    columns, heard = (
        delayed_columns(torch.from_numpy(np.stack(codes)))
        for codes in ([row.window for row in rows], [row.mixed for row in rows])
    )
    captions, since = [row.caption for row in rows], torch.tensor([row.since for row in rows])
    shares = torch.tensor([[row.shares.get(name, 0.0) for name in leads.concepts] for row in rows])
    with torch.no_grad():
        pushes = leads.pushes.along(shares, since, frames)
    heard = play_on(
        model,
        heard,
        torch.from_numpy(np.stack([row.is_own for row in rows])),
        captions,
        int(rng.integers(2**31)),
        float(rng.uniform(*TEMPERATURES)),
        pushes,
    )
    first = [int(row.is_free.argmax()) if row.is_free.any() else frames for row in rows]
    weights = torch.from_numpy(np.stack([worth(row.is_free) for row in rows]))
    return Rehearsed(columns, heard, weights, captions, first, shares, since)


def _draw_row(
    lessons: Lessons,
    likely: npt.NDArray[np.float64],
    leads: Leads,
    rng: np.random.Generator,
    frames: int,
    is_told: bool,
) -> Row:
    """A row of a piece that is drawn as `likely` as [N] says, or of one that pushes lead to."""
    shares: Mapping[str, float] = {}
    if rng.random() < sum(SETS.values()):
        led = leads.repertoire.draw(rng)
        codes, style, asked, shares = led.codes, led.style, led.asked, led.shares
    else:
        place = int(rng.choice(len(likely), p=likely))
        codes, style = lessons.codes[place], lessons.styles[place]
        asked = style
    window = _from_a_bar(rng, codes, style, frames)
    mixed, is_own, is_free = window.copy(), np.zeros(frames, np.bool_), np.zeros(frames, np.bool_)
    stretches, since = free_stretches(rng, frames, style.beat), 0
    if shares:
        (_, until), *later = stretches or [(0, 2 * style.beat)]
        stretches = [(0, until), *later]
        chance = rng.random()
        if chance >= AT_ONCE:
            since = until if chance < AT_ONCE + AT_RETURN else int(rng.integers(until))
    for at, until in stretches:
        is_free[at:until] = True
        if rng.random() < FOREIGN:
            other = int(rng.integers(len(lessons.codes)))
            mixed[:, at:until] = _from_a_bar(rng, lessons.codes[other], lessons.styles[other], until - at)
        else:
            is_own[at:until] = True
    # Where nothing of the piece was heard before, the caption alone says what comes back: it should say much.
    texts = [worded(rng, asked) for _ in range(3 if is_free[0] else 1)] if is_told else [""]
    return Row(window, mixed, is_own, is_free, max(texts, key=len), shares, since)


def _from_a_bar(rng: np.random.Generator, codes: npt.NDArray[np.integer[Any]], style: Style, frames: int) -> Codes:
    """So many frames of a piece's codes [K, T] from one of its bars on, int64 [K, frames]."""
    bar = 4 * style.beat
    start = bar * int(rng.integers((codes.shape[1] - frames) // bar + 1))
    window: Codes = codes[:, start : start + frames].astype(np.int64)
    return window


@torch.inference_mode()
def play_on(
    model: MusicGen,
    columns: Tensor,
    is_free: Tensor,
    captions: Sequence[str],
    seed: int,
    temperature: float,
    pushes: Tensor,
    top_p: float = 1.0,
) -> Tensor:
    """`columns` [B, K, T + 1] with the model's own draws, each after all that came before it, in the frames where
    `is_free` [B, T], under `pushes` [B, T, L, D]. It draws without guidance, by play's top k, a `temperature` above 0
    and the `top_p` above 0. Rows without a caption stand at the end.
    """
    generator = torch.Generator().manual_seed(seed)
    is_own = torch.zeros_like(columns, dtype=torch.bool)
    for book in range(columns.shape[1]):
        is_own[:, book, 1 + book :] = is_free[:, : columns.shape[2] - 1 - book]
    heard, is_own_column = columns.clone(), is_own.any(1).any(0)
    cache = model.decoder.new_cache(len(columns), columns.shape[2])
    cross = _cross(model, [text for text in captions if text])
    read = 0
    for column in torch.nonzero(is_own_column).flatten().tolist():
        given = heard[..., read:column]
        logits = model.decoder(given, read, cache, cross, pushes[:, read:column])[:, -1] / temperature  # [B, K, V]
        read = column
        noise = torch.empty_like(logits).exponential_(generator=generator)
        drawn = (_likely(logits, top_p) / noise).argmax(-1)
        heard[..., column] = torch.where(is_own[..., column], drawn, columns[..., column])
    return heard.clone()


def _likely(logits: Tensor, top_p: float) -> Tensor:
    """Probabilities [..., V] of play's top k codes, of these as many as hold `top_p` together; they need not add up."""
    least = logits.topk(generation_config().top_k).values[..., -1:]
    shares = logits.masked_fill(logits < least, -torch.inf).softmax(-1)
    if top_p >= 1.0:
        return shares
    ordered, places = shares.sort(dim=-1, descending=True)
    above = ordered.cumsum(-1) - ordered
    return torch.zeros_like(shares).scatter(-1, places, ordered.masked_fill(above >= top_p, 0.0))


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
    leads: Leads,
    minutes: float,
    path: Path,
    *,
    total_minutes: float,
    seed: int,
    report: Callable[[int, list[float]], None],
) -> None:
    """Train `student` and the pushes of `leads` for `minutes` of wall time, saving to `path` and `pushes_file(path)`
    after every round of playing. It begins at its averaged weights; `before` is the decoder before rehearsals; the text
    encoder stays as it is.

    The rate falls with the share of `total_minutes`; the optimiser's moments begin anew with every call.
    `report(step, losses)` hears running means in nats of what follows own playing.
    """
    parameters = {name: p for name, p in student.model.named_parameters() if name in student.average}
    learning = [p for name, p in parameters.items() if not name.startswith(("text_encoder", "enc_to_dec"))]
    rates = RATE, PUSHES_RATE
    groups = [{"params": one} for one in (learning, [leads.pushes.directions])]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0)
    weight = torch.tensor(CODEBOOK_WEIGHT, device=learning[0].device) / sum(CODEBOOK_WEIGHT)
    running, first = np.zeros(CODEBOOKS), student.rehearsed_steps
    if first == 0:
        student.settle()
    began = last = time.monotonic()

    def learn(loss: Tensor) -> None:
        share = min(1.0, student.rehearsed_seconds / (total_minutes * 60))
        warmth = min(1.0, (student.rehearsed_steps - first + 1) / WARM_UP_STEPS)
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * warmth * (1.02 - share)
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
            for part in rehearse_rows(model, lessons, leads, rng).to(weight.device).parts(rng):
                pushes = leads.pushes.along(part.shares, part.since, part.worth.shape[1])
                logits = student.logits(part.heard[..., :-1], part.captions, pushes)
                each = returning_loss(logits, part)
                known = max(1, *part.first)
                wanted = before.listened(part.heard[..., :known], part.captions)
                kept = divergences(wanted, logits[:, :known], part.begun(known))
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
            _save(student, leads, path)
            unbiased = 1.0 - 0.98 ** (student.rehearsed_steps - first)
            report(student.rehearsed_steps, [float(value / unbiased) for value in running])
    _save(student, leads, path)


def pushes_file(path: Path) -> Path:
    """Where the pushes lie that belong to the student of `path`."""
    return path.with_suffix(".pushes.safetensors")


def _save(student: DecoderTrainer, leads: Leads, path: Path) -> None:
    student.save(path)
    leads.pushes.save(pushes_file(path))
