"""Write the trained parts as one MusicGen checkpoint in the transformers layout, fp16. Used by the recipe only."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor
from transformers import EncodecFeatureExtractor, EncodecModel, MusicgenProcessor

from rfm_live.embedded import DEFAULT_PROMPT
from rfm_live.embedded.decoder_training import DecoderTrainer, generation_config
from rfm_live.engine.prompts import save_prompt_states
from rfm_live.model.checkpoint import load_checkpoint

HEAD_TEMPERATURES = (1.0, 0.8, 0.7, 0.7)
"""What the heads of the four codebooks are divided by. What is played is drawn from the first codebook; the others only
say how it sounds, and are better off with what is likeliest. MusicGen has one temperature for all."""
REST_NATS = 1.5
"""How much lower than learned the logit of the first codebook's code of silence is. A nucleus leaves out what is rare,
so that rests would last too long: that it is this beat which ends a rest is rarely likely."""

_LEAST_BIAS = 0.05


def write_checkpoint(target: Path, codec: EncodecModel, decoder: DecoderTrainer, *, is_averaged: bool = True) -> None:
    """Replace `target` by the checkpoint: averaged weights (or the trained ones as they are) in fp16, tokenizer,
    processor, the default prompt's text states. The heads are scaled for `HEAD_TEMPERATURES`, and rests made shorter by
    `REST_NATS`.

    Files in `target` that this function does not make (the model card) stay.
    """
    fresh = target.with_name(target.name + ".part")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    model = decoder.model
    model.audio_encoder.load_state_dict(codec.state_dict())
    model.generation_config = generation_config()
    with decoder.averaged() if is_averaged else nullcontext():
        sharpened = lifted(_sharpened(model.state_dict()), code_of_silence(codec), -REST_NATS)
        weights = {name: tensor.to(torch.float16) for name, tensor in sharpened.items()}
        model.to("cpu").save_pretrained(fresh, state_dict=weights)
        MusicgenProcessor(
            EncodecFeatureExtractor(feature_size=1, sampling_rate=32_000), decoder.tokenizer
        ).save_pretrained(fresh)
    target.mkdir(parents=True, exist_ok=True)
    for file in fresh.iterdir():
        file.replace(target / file.name)
    fresh.rmdir()
    save_prompt_states(load_checkpoint(target), [DEFAULT_PROMPT], target)


@torch.no_grad()
def code_of_silence(codec: EncodecModel) -> int:
    """The code of the first codebook for digital silence that has lasted for a second."""
    device = next(codec.parameters()).device
    codes = codec.encode(torch.zeros(1, 1, codec.config.sampling_rate, device=device)).audio_codes  # [1, 1, K, T]
    return int(codes[0, 0, 0, -1])


def lifted(weights: Mapping[str, Tensor], code: int, nats: float) -> dict[str, Tensor]:
    """The decoder's weights with the logit of one code of the first codebook `nats` higher, whatever is heard.

    Heads have no bias, but the last layer norm has: what it puts out, divided by its weight, sums up to the sum of bias
    over weight. While that is next to nothing, as in a decoder that has hardly been trained, the weights stay as they
    are.
    """
    norm = {part: weights[f"decoder.model.decoder.layer_norm.{part}"].double() for part in ("weight", "bias")}
    along = 1.0 / norm["weight"]
    total = (norm["bias"] * along).sum()
    if total.abs() < _LEAST_BIAS * along.norm():
        return dict(weights)
    head = weights["decoder.lm_heads.0.weight"].clone()
    head[code] += (nats * along / total).to(head)
    return {**weights, "decoder.lm_heads.0.weight": head}


def _sharpened(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The decoder's weights with the heads divided by their `HEAD_TEMPERATURES`."""
    heads = {f"decoder.lm_heads.{book}.weight": temperature for book, temperature in enumerate(HEAD_TEMPERATURES)}
    if missing := heads.keys() - weights.keys():
        raise KeyError(f"the decoder has no {', '.join(sorted(missing))}")
    return {name: tensor / heads.get(name, 1.0) for name, tensor in weights.items()}
