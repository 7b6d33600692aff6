"""Write the trained parts as one MusicGen checkpoint in the transformers layout, fp16. Used by the recipe only."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import EncodecFeatureExtractor, MusicgenProcessor

from rfm_live.embedded import DEFAULT_PROMPT
from rfm_live.embedded.codec_training import CodecTrainer
from rfm_live.embedded.decoder_training import DecoderTrainer, generation_config
from rfm_live.engine.prompts import save_prompt_states
from rfm_live.model.checkpoint import load_checkpoint


def write_checkpoint(target: Path, codec: CodecTrainer, decoder: DecoderTrainer) -> None:
    """Replace `target` by the checkpoint: averaged weights in fp16, tokenizer, processor, the default prompt's text
    states.

    Files in `target` that this function does not make (the model card) stay.
    """
    fresh = target.with_name(target.name + ".part")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    model = decoder.model
    model.audio_encoder.load_state_dict(codec.export().state_dict())
    model.generation_config = generation_config()
    with decoder.averaged():
        weights = {name: tensor.to(torch.float16) for name, tensor in model.state_dict().items()}
        model.to("cpu").save_pretrained(fresh, state_dict=weights)
        MusicgenProcessor(
            EncodecFeatureExtractor(feature_size=1, sampling_rate=32_000), decoder.tokenizer
        ).save_pretrained(fresh)
    target.mkdir(parents=True, exist_ok=True)
    for file in fresh.iterdir():
        file.replace(target / file.name)
    fresh.rmdir()
    save_prompt_states(load_checkpoint(target), [DEFAULT_PROMPT], target)
