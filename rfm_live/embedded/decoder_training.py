"""Training of the embedded decoder and text encoder on the codec's codes. Used by the recipe only.

The network is transformers' `MusicgenForConditionalGeneration`, so the result is a true checkpoint by construction.
It learns from `decoder_lessons`; a caption that is dropped has text states of zero.

Two heads, which only the training has, tell what the next code alone teaches slowly: styles, off the text states; and
style, tonic, mode, place in the bar and onsets, off the hidden states behind half of the blocks. What lies there as a
direction is also what steering finds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    GenerationConfig,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    T5Tokenizer,
)

from rfm_live.embedded.codec_training import CODEBOOKS, ENTRIES, codec_config, move_state
from rfm_live.embedded.composer import draw_style
from rfm_live.embedded.copying_heads import LEAST_WIDTH, begin_copying_heads
from rfm_live.embedded.decoder_lessons import (
    MUSIC_SIZES,
    PAD,
    REPEATED,
    STYLE_SIZES,
    WINDOW_FRAMES,
    Lessons,
    draw_repeated,
    style_labels,
    worded,
)
from rfm_live.embedded.disturbances import OWN, draw_own
from rfm_live.embedded.text_parts import text_config

DROPOUT = 0.1
CODEBOOK_WEIGHT = (2.5, 1.0, 0.7, 0.5)
"""What is played when stands in the first codebook."""
STYLE_WEIGHT = 0.2
TEXT_ROWS = 64
"""Captions per step in which the text encoder alone learns to tell styles."""
_MUSIC_WEIGHTS = (0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.05, 0.3, 0.5, 1.0)


def musicgen_config(vocabulary: int, layers: int, width: int, filters: int) -> MusicgenConfig:
    """The whole checkpoint's configuration; head width is 64 as in every MusicGen."""
    decoder = MusicgenDecoderConfig(
        vocab_size=ENTRIES,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        ffn_dim=4 * width,
        num_codebooks=CODEBOOKS,
        max_position_embeddings=2048,
        dropout=DROPOUT,
        attention_dropout=0.0,
        activation_dropout=0.0,
        layerdrop=0.0,
        pad_token_id=PAD,
        bos_token_id=PAD,
        eos_token_id=None,
    )
    text, audio = text_config(vocabulary), codec_config(filters)
    return MusicgenConfig(text_encoder=text.to_dict(), audio_encoder=audio.to_dict(), decoder=decoder.to_dict())


@dataclass
class DecoderTrainer:
    """Model, its running average (what is exported) and optimiser; `save` and `load` make the training resumable."""

    model: MusicgenForConditionalGeneration
    tokenizer: T5Tokenizer
    style_head: torch.nn.Linear
    music_head: torch.nn.Linear
    average: dict[str, Tensor]
    optimiser: torch.optim.AdamW
    step: int = 0
    seconds: float = 0.0
    distilled_steps: int = 0
    distilled_seconds: float = 0.0
    rehearsed_steps: int = 0
    rehearsed_seconds: float = 0.0
    compared_steps: int = 0
    compared_seconds: float = 0.0

    @classmethod
    def create(cls, tokenizer: T5Tokenizer, seed: int, layers: int, width: int, filters: int) -> DecoderTrainer:
        """A fresh decoder and text encoder; `seed` fixes their weights."""
        torch.manual_seed(seed)
        model = MusicgenForConditionalGeneration(musicgen_config(len(tokenizer), layers, width, filters))
        model.train()
        if width >= LEAST_WIDTH and layers > 1:
            begin_copying_heads(model.decoder, seed)
        named = {n: p for n, p in model.named_parameters() if not n.startswith("audio_encoder.")}
        matrices = [p for p in named.values() if p.ndim >= 2]
        vectors = [p for p in named.values() if p.ndim < 2]
        style_head, music_head = (torch.nn.Linear(width, sum(sizes)) for sizes in (STYLE_SIZES, MUSIC_SIZES))
        groups = [
            {"params": matrices, "weight_decay": 0.05},
            {"params": vectors, "weight_decay": 0.0},
            {"params": [*style_head.parameters(), *music_head.parameters()], "weight_decay": 0.0},
        ]
        optimiser = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95))
        return cls(
            model, tokenizer, style_head, music_head, {n: p.detach().clone() for n, p in named.items()}, optimiser
        )

    def save(self, path: Path) -> None:
        """Write everything that the next run needs, atomically."""
        weights = {n: v for n, v in self.model.state_dict().items() if not n.startswith("audio_encoder.")}
        state = {
            "model": weights,
            "style_head": self.style_head.state_dict(),
            "music_head": self.music_head.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "distilled_steps": self.distilled_steps,
            "distilled_seconds": self.distilled_seconds,
            "rehearsed_steps": self.rehearsed_steps,
            "rehearsed_seconds": self.rehearsed_seconds,
            "compared_steps": self.compared_steps,
            "compared_seconds": self.compared_seconds,
        }
        torch.save(state, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)

    def load(self, path: Path) -> None:
        """Continue from what `save` wrote."""
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"], strict=False)
        self.style_head.load_state_dict(state["style_head"])
        self.music_head.load_state_dict(state["music_head"])
        self.average = state["average"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.distilled_steps, self.distilled_seconds = state["distilled_steps"], state["distilled_seconds"]
        self.rehearsed_steps, self.rehearsed_seconds = state["rehearsed_steps"], state["rehearsed_seconds"]
        self.compared_steps, self.compared_seconds = state["compared_steps"], state["compared_seconds"]

    def to(self, device: torch.device) -> None:
        """Move everything to `device`."""
        self.model.to(device)
        self.style_head.to(device)
        self.music_head.to(device)
        self.average = {name: value.to(device) for name, value in self.average.items()}
        move_state(self.optimiser, device)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights in place of the trained ones, without dropout, while the context lasts."""
        parameters = {name: value for name, value in self.model.named_parameters() if name in self.average}
        kept = {name: value.detach().clone() for name, value in parameters.items()}
        self.model.eval()
        try:
            self.settle()
            yield
        finally:
            self.model.train()
            with torch.no_grad():
                for name, value in parameters.items():
                    value.copy_(kept[name])

    def follow(self, decay: float) -> None:
        """Let the average come nearer to the trained weights: it keeps `decay` of itself."""
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.average.values()), [parameters[name].detach() for name in self.average], 1 - decay
            )

    def return_to(self, before: DecoderTrainer, share: float) -> None:
        """Let the average be the mean of `share` of itself and for the rest of that of `before`, of the same shapes."""
        for name, value in self.average.items():
            self.average[name] = torch.lerp(before.average[name].to(value), value, share)

    def settle(self) -> None:
        """Go on from the average."""
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, value in self.average.items():
                parameters[name].copy_(value)

    def logits(self, columns: Tensor, captions: Sequence[str], pushes: Tensor | None = None) -> Tensor:
        """Logits [B, T, K, V] for input `columns` [B, K, T]; an empty caption gives zero text states. `pushes`
        [B, T, L, D] are added to the outputs of the blocks.
        """
        with self._pushed(pushes):
            return self._read(columns, *self.text(captions))[0]

    def listened(self, columns: Tensor, captions: Sequence[str]) -> Tensor:
        """Logits like those of `logits`, outside of any graph: what the model would play here."""
        with torch.no_grad():
            return self.logits(columns, captions)

    def losses(
        self, columns: Tensor, heard: Tensor, captions: Sequence[str], music: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Losses in nats: [K] of telling `columns` [B, K, T + 1] from those `heard` before, that of reading styles off
        the captions, and the weighted sum of reading `music` [B, T, 10] off the decoder's middle. `heard` is `columns`,
        or has wrong codes in it.
        """
        states, visible = self.text(captions)
        logits, middle = self._read(heard[..., :-1], states, visible)
        per_codebook = codebook_losses(logits, columns[..., 1:])
        music_loss = _label_loss(self.music_head(middle), music, MUSIC_SIZES, _MUSIC_WEIGHTS)
        told = torch.tensor([bool(text) for text in captions], device=columns.device)
        if not bool(told.any()):
            return per_codebook, per_codebook.new_zeros(()), music_loss
        styles = music[told, 0, : len(STYLE_SIZES)]
        return per_codebook, self._style_loss(states[told], visible[told], styles), music_loss

    def teach_text(self, steps: int, seed: int) -> float:
        """Teach text encoder, projection and head to tell styles from captions -> the last loss in nats."""
        parts = (self.model.text_encoder, self.model.enc_to_dec_proj, self.style_head)
        optimiser = torch.optim.AdamW([p for part in parts for p in part.parameters()], lr=1e-3)
        loss = torch.zeros(())
        for step in range(steps):
            rng = np.random.default_rng([seed, 13, step])
            styles = [draw_style(rng) for _ in range(TEXT_ROWS)]
            labels = torch.tensor([style_labels(style) for style in styles], device=self.style_head.weight.device)
            states, visible = self.text([worded(rng, style) for style in styles])
            loss = self._style_loss(states, visible, labels)
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimiser.step()
            optimiser.param_groups[0]["lr"] = 1e-3 * min(1.0, (step + 1) / 100) * (1 - step / steps)
        for name, value in self.model.named_parameters():
            if name in self.average:
                self.average[name].copy_(value.detach())
        return float(loss.detach())

    def _style_loss(self, states: Tensor, visible: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy in nats of the head on the mean of the states; what a caption's mask hides is zero."""
        mean = states.sum(1) / visible.sum(1, keepdim=True)  # [B, D]
        return _label_loss(self.style_head(mean), labels, STYLE_SIZES, [1 / len(STYLE_SIZES)] * len(STYLE_SIZES))

    def text(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Projected text states [B, S, D], zero where there is no token, and the mask [B, S] of what to look at."""
        device = self.style_head.weight.device
        tokens = self.tokenizer(list(captions), padding=True, return_tensors="pt").to(device)
        states = self.model.text_encoder(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
        ).last_hidden_state
        kept = torch.tensor([bool(text) for text in captions], device=device)
        mask = tokens.attention_mask * kept[:, None]
        states = self.model.enc_to_dec_proj(states) * mask[..., None]
        return states, torch.where(kept[:, None], tokens.attention_mask, torch.ones_like(tokens.attention_mask))

    @contextmanager
    def _pushed(self, pushes: Tensor | None) -> Iterator[None]:
        """Blocks whose outputs are pushed, while the context lasts."""
        blocks = [] if pushes is None else self.model.decoder.model.decoder.layers
        each = [] if pushes is None else pushes.unbind(2)
        hooks = [
            block.register_forward_hook(lambda _, __, output, push=push: _pushed_output(push, output))
            for block, push in zip(blocks, each, strict=True)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _read(self, columns: Tensor, states: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, T, K, V] for input `columns` [B, K, T] under text states [B, S, D], and the hidden states
        [B, T, D] behind half of the blocks.
        """
        rows, codebooks, frames = columns.shape
        output = self.model.decoder(
            input_ids=columns.reshape(rows * codebooks, frames),
            encoder_hidden_states=states,
            encoder_attention_mask=visible,
            use_cache=False,
            output_hidden_states=True,
        )
        shaped: Tensor = output.logits.reshape(rows, codebooks, frames, -1).transpose(1, 2)
        return shaped, output.hidden_states[len(self.model.decoder.model.decoder.layers) // 2]


def _pushed_output(pushes: Tensor, output: Any) -> Any:
    """A block's output, or a tuple that begins with it, [B, T, D], with `pushes` added."""
    return (output[0] + pushes, *output[1:]) if isinstance(output, tuple) else output + pushes


def _label_loss(logits: Tensor, labels: Tensor, sizes: Sequence[int], weights: Sequence[float]) -> Tensor:
    """Weighted sum of the cross-entropies in nats of classifications of `sizes` classes: `logits` [..., sum of sizes],
    `labels` [..., len(sizes)].
    """
    parts = torch.split(logits.flatten(0, -2), list(sizes), dim=1)
    told = labels.flatten(0, -2)
    losses = [F.cross_entropy(part, told[:, index]) for index, part in enumerate(parts)]
    return (torch.stack(losses) * torch.tensor(weights, device=logits.device)).sum()


def codebook_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean next-token cross-entropy in nats per codebook [K]; `logits` [B, T, K, V], `targets` [B, K, T], PAD is
    ignored.
    """
    return torch.stack(
        [
            F.cross_entropy(logits[:, :, k].flatten(0, 1), targets[:, k].flatten(), ignore_index=PAD)
            for k in range(CODEBOOKS)
        ]
    )


def train_decoder(
    trainer: DecoderTrainer,
    lessons: Lessons,
    minutes: float,
    path: Path,
    *,
    total_minutes: float,
    seed: int,
    report: Callable[[int, list[float], float], None],
) -> None:
    """Train for `minutes` of wall time, saving to `path` every minute. The rate falls with the share of
    `total_minutes`. `report(step, losses, music_loss)` hears running means in nats.
    """
    device = next(trainer.model.parameters()).device
    weight = torch.tensor(CODEBOOK_WEIGHT, device=device) / sum(CODEBOOK_WEIGHT)
    parameters = {n: p for n, p in trainer.model.named_parameters() if n in trainer.average}
    running = np.zeros(CODEBOOKS + 1)
    began = saved = last = time.monotonic()
    while time.monotonic() - began < minutes * 60:
        share = min(1.0, trainer.seconds / (total_minutes * 60))
        rate = 1e-3 * min(1.0, (trainer.step + 1) / 200) * min(1.0, 0.02 + (1 - share) / 0.3)
        for group in trainer.optimiser.param_groups:
            group["lr"] = rate
        rng = np.random.default_rng([seed, 11, trainer.step])
        window, texts, labels = lessons.windows(rng)
        is_piece = rng.random() >= REPEATED * (1 - 2 * share)
        if not is_piece:
            window, texts = draw_repeated(lessons.codes, rng, len(window), window.shape[2]), [""] * len(window)
        columns, heard = lessons.columns(window, rng, device)
        if rng.random() < OWN:
            heard = draw_own(heard, trainer.listened(heard[..., :-1], texts), rng)
        losses, style_loss, music_loss = trainer.losses(columns, heard, texts, labels.to(device))
        trainer.optimiser.zero_grad(set_to_none=True)
        beside = STYLE_WEIGHT * style_loss + is_piece * music_loss
        torch.autograd.backward((losses * weight).sum() + beside)
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        trainer.optimiser.step()
        trainer.step += 1
        trainer.follow(min(0.999, trainer.step / (trainer.step + 50)))
        told = torch.cat((losses, music_loss[None])).detach().cpu().numpy()
        running = 0.98 * running + 0.02 * told
        trainer.seconds += time.monotonic() - last
        last = time.monotonic()
        if trainer.step % 50 == 0:
            report(trainer.step, [float(v) for v in running[:-1]], float(running[-1]))
        if last - saved > 60:
            trainer.save(path)
            saved = last
    trainer.save(path)


def generation_config() -> GenerationConfig:
    """Defaults of play: sampling from the nucleus under a little guidance, one window of `WINDOW_FRAMES` frames."""
    return GenerationConfig(
        do_sample=True,
        temperature=0.8,
        top_k=100,
        top_p=0.9,
        guidance_scale=1.2,
        max_length=WINDOW_FRAMES,
        decoder_start_token_id=PAD,
        pad_token_id=PAD,
        bos_token_id=PAD,
    )
