"""Directions learned from turns: the pushes under which a model foresees that the music turns to a concept.

Used where whole clips tell too little. A turn is music without a concept that goes over into music with it, cut
together from sound. The direction of a block is the one in which a small push, from the turn on, raises the likelihood
of what comes fastest: the gradient, mean over turns, while the model stays as it is. That is the stage: bars that lack
the concept have been played, the prompt asks for what they are, and the knob is turned. The gradient of every turn is
brought to the same length, so that no surprising turn outvotes the others, and the first codebook, which holds what is
played, counts most.

Shapes: N turns, B of them in a batch, C concepts, L blocks, D width, K codebooks, T columns.
"""

from __future__ import annotations

from collections.abc import Sequence
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
_SKIPPED_FRAMES = 25
"""Behind a turn, the frames in which too little has been heard to read the concept."""

Array = npt.NDArray[np.float32]
Prompt = tuple[Tensor, Tensor]
"""States [1, S, text_width] and mask [1, S]."""


@dataclass(frozen=True)
class Turns:
    """N turns at frame `turn` of `codes` int64 [N, K, frames], under `prompts` [N] that ask for what was before it.

    `shares` [N, C] tell how far each concept is turned, -1..1; 0 where a turn is not about it, below 0 where it is
    about the opposite or a rival.
    """

    codes: npt.NDArray[np.int64]
    turn: int
    shares: Array
    prompts: Sequence[str]

    def chosen(self, rows: npt.NDArray[np.intp]) -> Turns:
        """These turns alone."""
        return Turns(self.codes[rows], self.turn, self.shares[rows], [self.prompts[row] for row in rows])


def learn_turns(model: MusicGen, turns: Turns, norms: Array, batch: int = 8, progress: Progress = no_progress) -> Array:
    """Pushes [C, L, D] in hidden units, LENGTH long, in which the turns of each concept become likelier fastest.

    Half of the turns read their prompts, as guidance's two rows do. `norms` [L] are the lengths of hidden states, in
    which pushes are measured. The model must be on the CPU, and its weights take no gradients from here on.
    """
    decoder, count = model.decoder, len(turns.codes)
    for parameter in decoder.parameters():
        parameter.requires_grad_(False)
    prompts, scale = _encoded(model, turns.prompts), torch.from_numpy(norms)[:, None]  # [L, 1]
    shape = (turns.shares.shape[1], decoder.config.layers, decoder.config.width)
    summed = np.zeros(shape, np.float64)
    order = np.random.default_rng(0).permutation(count)
    for start in range(0, count, batch):
        rows = order[start : start + batch]
        part, pushes = turns.chosen(rows), torch.zeros(len(rows), *shape[1:], requires_grad=True)
        cross = _cross(decoder, [prompts[row] for row in rows[: len(rows) // 2]])
        loss = turn_loss(decoder, part, cross, pushes * scale)
        (gradients,) = torch.autograd.grad(loss, pushes)  # [B, L, D]
        gradients = F.normalize(gradients.flatten(1), dim=1).view_as(gradients)
        summed -= np.einsum("bc,bld->cld", part.shares, gradients.numpy())
        progress(min(start + batch, count), count)
    lengths = np.linalg.norm(summed, axis=-1).mean(axis=1)[:, None, None]  # [C, 1, 1]
    return np.asarray(summed / np.maximum(lengths, 1e-12) * LENGTH * norms[:, None], np.float32)


def turn_loss(decoder: Decoder, turns: Turns, cross: CrossCache | None, pushes: Tensor) -> Tensor:
    """Mean nats of the codes behind the turn, weighted by codebook.

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
    weights = is_code * CODEBOOK_SHARE ** torch.arange(config.codebooks)
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
