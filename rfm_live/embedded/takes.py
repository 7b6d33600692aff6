"""The decoder learns from takes of its own which of them came out better under pushes. Used by the recipe only.

Takes of one prompt under the same pushes differ by chance alone. What was played in the best of them is made likelier
and what was played in the worst less likely, by how far their scores lie from the mean: a policy gradient with the
group's mean for a baseline (Shao et al. 2024, arXiv 2402.03300, section 4.1). So a push is heard more often, and takes
less of the prompt with it than rehearsals can teach, which know what to play next but not what a whole take is worth.

Meanwhile it stays near what it was, by the Kullback-Leibler divergence: under the same pushes in its takes, and without
any in music that it had played before. Even so rhythm suffers, of which no score tells, and so what is written in the
end is a mean of the weights after takes and before (Wortsman et al. 2022, arXiv 2109.01903, section 3).

Shapes: N takes of W wishes, K codebooks, S columns, L blocks, D width, V entries.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import EncodecModel

from rfm_live.concepts.meters import SAMPLE_RATE_HZ
from rfm_live.concepts.music_analysis import QUALITIES
from rfm_live.embedded.codec_training import CODEBOOKS
from rfm_live.embedded.composer import PITCH_CLASSES, draw_style
from rfm_live.embedded.decoder_lessons import PAD, delayed_columns, worded
from rfm_live.embedded.decoder_training import CODEBOOK_WEIGHT, DecoderTrainer
from rfm_live.embedded.guidance_distillation import divergences
from rfm_live.embedded.leads import Pushes
from rfm_live.embedded.music_meters import full_caption
from rfm_live.embedded.rehearsal import as_played, play_on
from rfm_live.embedded.take_scores import TakeJudge, Wish
from rfm_live.embedded.turns import families

WISHES, TAKES, COMPARED = 14, 6, 2
"""Wishes of a step, takes of each, and how many of the best and of the worst of these are learned from."""
FRAMES, SETTLE_SECONDS = 300, 2.0
"""Length of a take, and from when on it is judged."""
SHARES = {"notes": 0.24, "timbres": 0.26, "two": 0.20, "mode": 0.14, "chords": 0.16}
"""What is wished for: a concept of a set, or a family and a note or drums besides."""
LENGTHS = (1.5, 2.5)
"""Least and greatest length of a push, in lengths in which banks learn theirs."""
SPREAD, MOST = 0.35, 3.0
"""The difference of scores that counts as 1, and how much counts at most."""
TEMPERATURE, TOP_P = 0.85, 0.92
KEEPING, KEEPING_UNPUSHED = 0.1, 1.0
"""Weights of the divergences from the decoder before, under pushes and without."""
UNPUSHED, UNPUSHED_FRAMES, UNPUSHED_ROWS, UNPUSHED_TEMPERATURE, UNTOLD = 80, 640, 8, 0.9, 0.15
"""Pieces that the decoder played before, how long they are, how many are heard in a step, and their temperature and
share without a caption."""
AFTER = 0.85
"""Share of the weights after takes in the mean that is written."""
ROWS = 8
"""Takes that are learned from at once."""
RATE, WARM_UP_STEPS = 1.5e-4, 8

Rng = np.random.Generator


@dataclass(frozen=True)
class Takes:
    """What was played [N, K, S] under `captions` [N] and `pushes` [N, L, D], and how much each counts [N], below 0
    where it is to become less likely.
    """

    columns: Tensor
    captions: list[str]
    pushes: Tensor
    counts: npt.NDArray[np.float64]

    def parts(self, rng: Rng) -> list[npt.NDArray[np.intp]]:
        """Rows in drawn order, ROWS at a time."""
        order = rng.permutation(len(self.captions))
        return [order[start : start + ROWS] for start in range(0, len(order), ROWS)]


def draw_wish(rng: Rng) -> Wish:
    """A style with and without drums alike, and a push to what it lacks."""
    drums = bool(rng.random() < 0.5)
    style = replace(draw_style(rng), drums=drums, bass=drums)
    family = str(rng.choice([name for name in families() if name != style.instrument.family]))
    note = f"note_{rng.choice(PITCH_CLASSES)}"
    chosen = str(rng.choice(list(SHARES), p=list(SHARES.values())))
    concepts = {
        "notes": [note],
        "timbres": [f"timbre_{family}"],
        "chords": [f"chord_{rng.choice(list(QUALITIES))}"],
        "mode": [f"mode_{rng.choice(['minor', 'major'])}"],
        "two": [f"timbre_{family}", note if drums or rng.random() < 0.6 else "drums"],
    }[chosen]
    length = float(rng.uniform(*LENGTHS))
    return Wish(style, dict.fromkeys(concepts, length))


def counts(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """How much each take counts, of the scores [W, TAKES] of the takes of each wish; 0 for those between the best and
    the worst.
    """
    lead = (scores - scores.mean(axis=1, keepdims=True)) / SPREAD
    places = scores.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    is_between = (places >= COMPARED) & (places < scores.shape[1] - COMPARED)
    return np.where(is_between, 0.0, np.clip(lead, -MOST, MOST))


def play_takes(
    student: DecoderTrainer,
    codec: EncodecModel,
    pushes: Pushes,
    concepts: Sequence[str],
    judge: TakeJudge,
    rng: Rng,
    folder: Path,
) -> Takes:
    """Takes of drawn wishes that are worth learning from, played as `folder` would be."""
    model = as_played(student, codec, folder)
    wishes = [draw_wish(rng) for _ in range(WISHES)]
    each = [wish for wish in wishes for _ in range(TAKES)]
    shares = torch.tensor([[wish.shares.get(name, 0.0) for name in concepts] for wish in each])
    with torch.no_grad():
        pushed = pushes.along(shares, torch.zeros(len(each)), 1)  # [N, 1, L, D]
    captions = [full_caption(wish.style) for wish in each]
    frames = FRAMES + CODEBOOKS
    empty = delayed_columns(torch.zeros(len(each), CODEBOOKS, frames, dtype=torch.long))
    is_free = torch.ones(len(each), frames, dtype=torch.bool)
    seed, along = int(rng.integers(2**31)), pushed.expand(-1, frames, -1, -1)
    columns = play_on(model, empty, is_free, captions, seed, TEMPERATURE, along, top_p=TOP_P)
    codes = torch.stack([columns[:, book, 1 + book :][:, :FRAMES] for book in range(CODEBOOKS)], dim=1)
    with torch.inference_mode():
        clips = torch.cat([model.codec.decode(some) for some in torch.split(codes, ROWS)])[:, 0].numpy()
    scores = judge.scores(list(clips[:, round(SETTLE_SECONDS * SAMPLE_RATE_HZ) :]), each)
    counted = counts(scores.reshape(WISHES, TAKES)).ravel()
    rows = np.flatnonzero(counted)
    return Takes(columns[rows], [captions[row] for row in rows], pushed[rows, 0], counted[rows])


def compared_loss(logits: Tensor, columns: Tensor, counted: npt.NDArray[np.float64]) -> Tensor:
    """Mean cross-entropies in nats per codebook [K] of what was played in `columns` [N, K, S + 1], by how much each
    take counts; `logits` [N, S, K, V].
    """
    weight = torch.from_numpy(counted).float().to(logits.device)
    each = F.cross_entropy(logits.permute(0, 3, 2, 1), columns[..., 1:], ignore_index=PAD, reduction="none")
    return (each * weight[:, None, None]).mean(dim=(0, 2))  # of [N, K, S]


def play_unpushed(decoder: DecoderTrainer, codec: EncodecModel, rng: Rng, folder: Path) -> tuple[Tensor, list[str]]:
    """What a decoder plays without pushes, columns [UNPUSHED, K, S], and its captions; those without come last."""
    model = as_played(decoder, codec, folder)
    untold = round(UNTOLD * UNPUSHED)
    captions = [worded(rng, draw_style(rng)) for _ in range(UNPUSHED - untold)] + [""] * untold
    empty = delayed_columns(torch.zeros(UNPUSHED, CODEBOOKS, UNPUSHED_FRAMES, dtype=torch.long))
    none = torch.zeros(UNPUSHED, UNPUSHED_FRAMES, model.config.decoder.layers, model.config.decoder.width)
    is_free, seed = torch.ones(UNPUSHED, UNPUSHED_FRAMES, dtype=torch.bool), int(rng.integers(2**31))
    return play_on(model, empty, is_free, captions, seed, UNPUSHED_TEMPERATURE, none), captions


class Comparison:
    """A `student` that learns from its takes under `pushes`, one for each of `concepts`; `before` is the decoder before
    takes. What is played lies in `folder` meanwhile.
    """

    def __init__(
        self,
        student: DecoderTrainer,
        before: DecoderTrainer,
        codec: EncodecModel,
        pushes: Pushes,
        concepts: Sequence[str],
        judge: TakeJudge,
        folder: Path,
    ) -> None:
        self._student, self._before, self._codec = student, before, codec
        self._pushes, self._concepts, self._judge, self._folder = pushes, concepts, judge, folder
        parameters = {name: p for name, p in student.model.named_parameters() if name in student.average}
        self._learning = [p for name, p in parameters.items() if not name.startswith(("text_encoder", "enc_to_dec"))]
        self._optimiser = torch.optim.AdamW(self._learning, betas=(0.9, 0.95), weight_decay=0.0)
        self._device = self._learning[0].device
        self._weight = torch.tensor(CODEBOOK_WEIGHT, device=self._device) / sum(CODEBOOK_WEIGHT)

    def run(
        self, minutes: float, path: Path, *, total_minutes: float, seed: int, report: Callable[[int, float], None]
    ) -> None:
        """Train the student for `minutes` of wall time, but a step at least, saving to `path` after every step. It
        begins at its averaged weights; text encoder and pushes stay as they are.

        The rate falls with the share of `total_minutes`; the optimiser's moments begin anew with every comparison.
        `report(step, divergence)` hears how far the decoder has gone without pushes, in nats.
        """
        student, first = self._student, self._student.compared_steps
        if first == 0:
            student.settle()
        student.model.eval()  # takes are played without dropout
        began = last = time.monotonic()
        with self._before.averaged():
            heard, told = play_unpushed(self._before, self._codec, np.random.default_rng([seed, 37]), self._folder)
            while student.compared_steps == first or time.monotonic() - began < minutes * 60:
                rng = np.random.default_rng([seed, 41, student.compared_steps])
                warmth = min(1.0, (student.compared_steps - first + 1) / WARM_UP_STEPS)
                share = min(1.0, student.compared_seconds / (total_minutes * 60))
                gone = self.step(rng, heard, told, RATE * warmth * (1.0 - 0.8 * share))
                student.compared_seconds += time.monotonic() - last
                last = time.monotonic()
                student.save(path)
                report(student.compared_steps, gone)
        student.model.train()

    def step(self, rng: Rng, heard: Tensor, told: Sequence[str], rate: float) -> float:
        """Learn from new takes, and keep to what was `heard` [U, K, S] without pushes under captions `told` [U] -> the
        divergence from before without pushes, in nats.
        """
        student, concepts = self._student, self._concepts
        takes = play_takes(student, self._codec, self._pushes, concepts, self._judge, rng, self._folder)
        self._optimiser.zero_grad(set_to_none=True)
        for rows in takes.parts(rng):
            captions = [takes.captions[row] for row in rows]
            loss = self._compared(takes.columns[rows], captions, takes.pushes[rows], takes.counts[rows])
            torch.autograd.backward(loss * len(rows) / len(takes.captions))
        rows = rng.permutation(len(told))[:UNPUSHED_ROWS]
        gone = self._gone(heard[rows].to(self._device), [told[row] for row in rows])
        torch.autograd.backward(KEEPING_UNPUSHED * gone)
        torch.nn.utils.clip_grad_norm_(self._learning, 1.0)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.step()
        student.compared_steps += 1
        student.follow(min(0.95, student.compared_steps / (student.compared_steps + 5)))
        return float(gone.detach())

    def _compared(
        self, columns: Tensor, captions: Sequence[str], pushes: Tensor, counted: npt.NDArray[np.float64]
    ) -> Tensor:
        """The loss of some takes, with what keeps the student near to what it was under the same pushes."""
        columns = columns.to(self._device)
        along = pushes[:, None].to(self._device).expand(-1, columns.shape[2] - 1, -1, -1)
        logits = self._student.logits(columns[..., :-1], captions, along)
        with torch.no_grad():
            wanted = self._before.logits(columns[..., :-1], captions, along)
        gone = divergences(wanted, logits, columns[..., 1:])
        return ((compared_loss(logits, columns, counted) + KEEPING * gone) * self._weight).sum()

    def _gone(self, columns: Tensor, captions: Sequence[str]) -> Tensor:
        """The divergence from before without pushes, in nats."""
        wanted = self._before.listened(columns[..., :-1], captions)
        found = self._student.logits(columns[..., :-1], captions)
        return (divergences(wanted, found, columns[..., 1:]) * self._weight).sum()
