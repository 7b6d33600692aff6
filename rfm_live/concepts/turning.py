"""Directions learned from turns: the pushes under which a model foresees that the music turns to a concept.

Used where whole clips tell too little. A turn is music without a concept that goes over into music with it, cut
together from sound. Pushes begin as the gradient in which the likelihood of what comes behind the turn grows fastest,
mean over turns, and are then trained at the lengths at which they will be used, while the model stays as it is: a push
that only followed the gradient would, at such a length, lose drums, instrument and beat with the key. The prompt asks
for what was before. That is the stage: bars that lack the concept have been played, and the knob is turned.

What the model foretells right behind the turn counts most, for later it has heard the concept; and the first codebook,
which holds what is played, counts most.

Shapes: N turns, B of them in a batch, C concepts, L blocks, D width, K codebooks, T columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from rfm_live.concepts.clips import Progress, no_progress
from rfm_live.errors import StartError
from rfm_live.model.checkpoint import MusicGen
from rfm_live.model.cross import CrossCache
from rfm_live.model.decoder import Decoder
from rfm_live.model.delay import delay

LENGTH = 0.3
"""Of a push as it is learned: mean over the blocks, in lengths of the hidden state."""
CODEBOOK_SHARE = 0.3
"""What each codebook's nats count of those of the codebook before."""
EPOCHS, LEARNING_RATE = 3, 0.01
TRAINED_LENGTHS = (0.3, 1.5)
"""Pushes are trained at lengths drawn from this range, in LENGTH."""
_TURNING_FRAMES, _LASTING = 30.0, 0.1
"""A frame counts by exp(-t / _TURNING_FRAMES) at t frames behind the turn, and by _LASTING however late it is."""
_SKIPPED_FRAMES = 25
"""Behind a turn, the frames in which too little has been heard to read the concept."""

Array = npt.NDArray[np.float32]
Rows = npt.NDArray[np.intp]
Prompt = tuple[Tensor, Tensor]
"""States [1, S, text_width] and mask [1, S]."""


@dataclass(frozen=True)
class Turns:
    """N turns at frame `turn` of `codes` int64 [N, K, frames], under `prompts` [N] that ask for what was before it.

    `shares` [N, C] tell how far each concept is turned, -1..1; 0 where a turn is not about it, below 0 where it is
    about the opposite.
    """

    codes: npt.NDArray[np.int64]
    turn: int
    shares: Array
    prompts: Sequence[str]

    def chosen(self, rows: Rows) -> Turns:
        """These turns alone."""
        return Turns(self.codes[rows], self.turn, self.shares[rows], [self.prompts[row] for row in rows])


def learn_turns(
    model: MusicGen,
    turns: Turns,
    norms: Array,
    epochs: int = EPOCHS,
    batch: int = 8,
    progress: Progress = no_progress,
) -> Array:
    """Pushes [C, L, D] in hidden units, LENGTH long, under which the turns of each concept are likely.

    Half of the turns read their prompts, as guidance's two rows do. `norms` [L] are the lengths of hidden states, in
    which pushes are measured; how a push is shared out among the blocks is learned too. With no `epochs`, pushes are
    the gradients alone. The model must be on the CPU, and its weights take no gradients from here on.
    """
    for parameter in model.decoder.parameters():
        parameter.requires_grad_(False)
    scale = torch.from_numpy(norms)[:, None]  # [L, 1]
    lesson = _Lesson(model.decoder, turns, _encoded(model, turns.prompts), scale)
    rng, count = np.random.default_rng(0), len(turns.codes)

    def report(epoch: int) -> Progress:
        return lambda done, _: progress(epoch * count + done, (epochs + 1) * count)

    directions = of_one_length(lesson.gradients(_batches(rng, count, batch, report(0)))).requires_grad_(True)
    optimizer = torch.optim.Adam([directions], lr=LEARNING_RATE, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, max(epochs * -(-count // batch), 1))
    for epoch in range(1, epochs + 1):
        for rows in _batches(rng, count, batch, report(epoch)):
            loss = lesson.loss(rows, lesson.pushes(rows, directions, rng.uniform(*TRAINED_LENGTHS, len(rows))))
            (directions.grad,) = torch.autograd.grad(loss, directions)
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                directions.copy_(of_one_length(directions))
    return np.asarray((LENGTH * directions.detach() * scale).numpy(), np.float32)


@dataclass(frozen=True)
class _Lesson:
    """Turns with their encoded prompts, and the lengths of hidden states `scale` [L, 1] in which pushes are told."""

    decoder: Decoder
    turns: Turns
    prompts: list[Prompt]
    scale: Tensor

    def loss(self, rows: Rows, pushes: Tensor) -> Tensor:
        """That of some turns under `pushes` [B, L, D]; the first half of them reads its prompts."""
        cross = _cross(self.decoder, [self.prompts[row] for row in rows[: len(rows) // 2]])
        return turn_loss(self.decoder, self.turns.chosen(rows), cross, pushes * self.scale)

    def gradients(self, batches: Iterable[Rows]) -> Tensor:
        """The way [C, L, D] in which each concept's turns become likelier; no surprising turn outvotes the others."""
        config = self.decoder.config
        summed = torch.zeros(self.turns.shares.shape[1], config.layers, config.width)
        for rows in batches:
            pushes = torch.zeros(len(rows), config.layers, config.width, requires_grad=True)
            (found,) = torch.autograd.grad(self.loss(rows, pushes), pushes)  # [B, L, D]
            found = F.normalize(found.flatten(1), dim=1).view_as(found)
            summed -= torch.einsum("bc,bld->cld", torch.from_numpy(self.turns.shares[rows]), found)
        return summed

    def pushes(self, rows: Rows, directions: Tensor, lengths: npt.NDArray[np.float64]) -> Tensor:
        """Pushes [B, L, D] of some turns, each so many LENGTH long, by `directions` [C, L, D]."""
        shares = torch.from_numpy(LENGTH * lengths).float()[:, None] * torch.from_numpy(self.turns.shares[rows])
        return torch.einsum("bc,cld->bld", shares, of_one_length(directions))


def of_one_length(directions: Tensor) -> Tensor:
    """Directions [C, L, D] with a mean length of 1 over the blocks; what has none stays nothing."""
    lengths: Tensor = directions.norm(dim=-1).mean(dim=1)[:, None, None]
    return directions / lengths.clamp(min=1e-12)


def _batches(rng: np.random.Generator, count: int, batch: int, progress: Progress) -> Iterator[Rows]:
    """All of `count` rows once, in a drawn order."""
    order = rng.permutation(count)
    for start in range(0, count, batch):
        yield order[start : start + batch]
        progress(min(start + batch, count), count)


def turn_loss(decoder: Decoder, turns: Turns, cross: CrossCache | None, pushes: Tensor) -> Tensor:
    """Mean nats of the codes behind the turn, weighted by codebook and by how soon they come.

    The columns that foretell them are pushed by `pushes` [B, L, D], and the first rows read the text of `cross`. As
    `Decoder.forward`, but nothing is written in place, so that gradients pass.
    """
    config, norm = decoder.config, decoder.out_norm
    columns = _columns(turns, config.pad_id)  # [B, K, frames + K]
    h = decoder.embed(columns[:, :, :-1], 0)  # [B, T, D]
    length, rows = h.shape[1], 0 if cross is None else cross.rows
    mask = torch.ones(length, length, dtype=torch.bool).tril()
    is_pushed = (torch.arange(length) >= turns.turn)[:, None]  # [T, 1]
    for layer, block in enumerate(decoder.layers):
        kv = torch.zeros(2, len(h), config.heads, length, config.head_width)
        h = h + block.attend(h, kv, 0, mask)
        if cross is not None and rows:
            told = block.attend_text(h[:rows], cross.keys[layer], cross.values[layer], cross.mask)
            h = torch.cat((h[:rows] + told, h[rows:]))
        h = h + block.feed_forward(h) + is_pushed * pushes[:, None, layer]
    h = F.layer_norm(h[:, turns.turn :], norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    logits = F.linear(h, decoder.heads.weight).view(-1, config.vocab)
    targets = columns[:, :, turns.turn + 1 :].transpose(1, 2)  # [B, T - turn, K]
    is_code = targets != config.pad_id
    nats = F.cross_entropy(logits, targets.where(is_code, 0).flatten(), reduction="none").view_as(targets)
    soon = _LASTING + torch.exp(-torch.arange(targets.shape[1]) / _TURNING_FRAMES)  # [T - turn]
    weights = is_code * CODEBOOK_SHARE ** torch.arange(config.codebooks) * soon[:, None]
    return (nats * weights).sum() / weights.sum()


@torch.inference_mode()
def read_turns(model: MusicGen, turns: Turns, batch: int = 8) -> Array:
    """What the model makes of the music behind every turn, unsteered and without text: mean states [N, L, D]."""
    points = []
    for start in range(0, len(turns.codes), batch):
        part = turns.chosen(np.arange(start, min(start + batch, len(turns.codes))))
        states = model.decoder.hidden_states(_columns(part, model.config.decoder.pad_id), None)  # [B, L, T, D]
        heard = states[:, :, turns.turn + 1 + _SKIPPED_FRAMES : turns.codes.shape[2]]
        points.append(heard.mean(dim=2))
    return torch.cat(points).numpy()


def _columns(turns: Turns, pad: int) -> Tensor:
    return torch.stack([delay(clip, pad) for clip in torch.from_numpy(turns.codes)])  # [N, K, frames + K]


def _encoded(model: MusicGen, prompts: Sequence[str]) -> list[Prompt]:
    """The states of every prompt. Raises StartError for a blank one."""
    encoder, known = model.text_encoder(), dict[str, Prompt]()
    for text in prompts:
        if text not in known:
            if (states := encoder.encode(text)) is None:
                raise StartError(f"prompt of a turn is {text!r}, expected words")
            known[text] = states
    return [known[text] for text in prompts]


@torch.no_grad()
def _cross(decoder: Decoder, prompts: Sequence[Prompt]) -> CrossCache | None:
    if not prompts:
        return None
    longest = max(states.shape[1] for states, _ in prompts)
    states = torch.cat([F.pad(one, (0, 0, 0, longest - one.shape[1])) for one, _ in prompts])
    mask = torch.cat([F.pad(one, (0, longest - one.shape[1])) for _, one in prompts])
    return decoder.new_cross(states, mask)
