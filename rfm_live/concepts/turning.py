"""Directions learned from turns: the pushes under which a model foresees that the music turns to a concept.

Used where whole clips tell too little. A turn is music without a concept that goes over into music with it, cut
together from sound. The model reads it, pushed from the turn on, and the pushes of all concepts are moved together
until it foresees what comes as well as it can: gradient descent on the pushes, while the model stays as it is. That is
the stage: bars that lack the concept have been played, the prompt asks for what they are, and the knob is turned.

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
from rfm_live.model.decoder import CrossCache, Decoder
from rfm_live.model.delay import delay

_MOMENTUM, _STEADINESS = 0.9, 0.98
_SKIPPED_FRAMES = 25
"""Behind a turn, the frames in which too little has been heard to read the concept."""

Array = npt.NDArray[np.float32]
Prompt = tuple[Tensor, Tensor]
"""States [1, S, text_width] and mask [1, S]."""


@dataclass(frozen=True)
class Turns:
    """N turns at frame `turn` of `codes` int64 [N, K, frames], under `prompts` [N] that ask for what was before it.

    `shares` [N, C] tell how far each concept is turned, -1..1; 0 where a turn is not about it.
    """

    codes: npt.NDArray[np.int64]
    turn: int
    shares: Array
    prompts: Sequence[str]

    def chosen(self, rows: npt.NDArray[np.intp]) -> Turns:
        """These turns alone."""
        return Turns(self.codes[rows], self.turn, self.shares[rows], [self.prompts[row] for row in rows])


@dataclass(frozen=True)
class TurnTraining:
    """`steps` of `batch` turns each, half of which read their prompts, as guidance's two rows do.

    `rate` is Adam's, in lengths of the hidden state for every number of a push; it falls to 0 over the second half.
    `decay` is pulled off per step as that share of the rate.
    """

    steps: int = 240
    batch: int = 8
    rate: float = 0.005
    decay: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in (("steps", self.steps), ("batch", self.batch)):
            if value < 1:
                raise StartError(f"{name} of a training is {value}, expected 1 or more")


class _Adam:
    """Adam on one tensor [C, L, D], its second moment shared by all numbers of a push (Kingma and Ba 2015)."""

    def __init__(self, pushes: Tensor, training: TurnTraining) -> None:
        self._pushes, self._training = pushes, training
        self._first, self._second = torch.zeros_like(pushes), pushes.new_zeros(len(pushes), 1, 1)
        self._step = 0

    @torch.no_grad()
    def step(self, gradient: Tensor) -> None:
        """Move the pushes against `gradient`."""
        training = self._training
        rate = training.rate * min(1.0, 2.0 * (1.0 - self._step / training.steps))
        self._step += 1
        self._first.lerp_(gradient, 1.0 - _MOMENTUM)
        self._second.lerp_(gradient.square().mean(dim=(1, 2), keepdim=True), 1.0 - _STEADINESS)
        spread = (self._second / (1.0 - _STEADINESS**self._step)).sqrt()
        update = self._first / (1.0 - _MOMENTUM**self._step) / (spread + 1e-12)
        self._pushes.sub_(rate * (update + training.decay * self._pushes))


def learn_turns(
    model: MusicGen, turns: Turns, norms: Array, training: TurnTraining, progress: Progress = no_progress
) -> tuple[Array, list[float]]:
    """Pushes [C, L, D] in hidden units under which the turns are foreseen best, and the loss in nats of every step.

    `norms` [L] are the lengths of hidden states, which make one rate fit all blocks. The model must be on the CPU.
    """
    decoder, rng = model.decoder, np.random.default_rng(training.seed)
    for parameter in decoder.parameters():
        parameter.requires_grad_(False)
    prompts = _encoded(model, turns.prompts)
    scale = torch.from_numpy(norms)[:, None]  # [L, 1]
    shape = (turns.shares.shape[1], decoder.config.layers, decoder.config.width)
    pushes = torch.zeros(shape, requires_grad=True)  # in lengths of the hidden state
    adam, order, losses = _Adam(pushes, training), np.zeros(0, np.intp), []
    for step in range(training.steps):
        while len(order) < training.batch:
            order = np.concatenate((order, rng.permutation(len(turns.codes))))
        rows, order = order[: training.batch], order[training.batch :]
        part = turns.chosen(rows)
        cross = _cross(decoder, [prompts[row] for row in rows[: training.batch // 2]])
        wanted = torch.einsum("bc,cld->bld", torch.from_numpy(part.shares), pushes) * scale  # [B, L, D]
        loss = turn_loss(decoder, part, cross, wanted)
        adam.step(*torch.autograd.grad(loss, pushes))
        losses.append(float(loss.detach()))
        progress(step + 1, training.steps)
    return (pushes.detach() * scale).numpy(), losses


def turn_loss(decoder: Decoder, turns: Turns, cross: CrossCache | None, pushes: Tensor) -> Tensor:
    """Mean nats of all codes behind the turn, the columns that foretell them pushed by `pushes` [B, L, D].

    The first rows read the text of `cross`. As `Decoder.forward`, but nothing is written in place, so that gradients
    pass.
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
    targets = columns[:, :, turns.turn + 1 :].transpose(1, 2).flatten()  # [B * (T - turn) * K]
    return F.cross_entropy(logits, targets.where(targets != config.pad_id, -100), ignore_index=-100)


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
