"""Models that are already in memory, as the same `MusicGen` that a checkpoint gives: transformers' and audiocraft's.

For programs that use rfm_live as a library. The weights are copied. `sha256` of such a model is over its tensors: for
each key of the stored form that the decoder and the codec read, in order of the keys, the key in UTF-8 and the tensor's
bytes (little endian, in the dtype it has), the codec's keys after the decoder's. The keys are those that
`save_pretrained` or `audiocraft.utils.export` would write.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from rfm_live.errors import CheckpointError
from rfm_live.model import audiocraft_layout, transformers_layout
from rfm_live.model.assembly import ModuleSource
from rfm_live.model.audiocraft_config import SECTIONS, read_codec, read_language_model, resolved
from rfm_live.model.audiocraft_modules import codec_experiment, language_experiment
from rfm_live.model.checkpoint import MusicGen, build, codec_names, judge
from rfm_live.model.config import CodecConfig, MusicGenConfig, joined_config
from rfm_live.model.section import Section
from rfm_live.model.stored import in_memory
from rfm_live.model.text import TextEncoder


def from_transformers(
    model: Any,
    processor: Any = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    codec_dtype: torch.dtype = torch.float32,
) -> MusicGen:
    """Take over a `MusicgenForConditionalGeneration`; `processor` or its tokenizer is needed for prompts only.

    Raises `CheckpointError` for a model that we do not support.
    """
    name = type(model).__name__
    config = transformers_layout.read_config(model.config.to_dict(), name)
    weights = in_memory(model.state_dict(), name)
    decoder = transformers_layout.decoder_source(weights, config.decoder, name)
    names = list(codec_names(config.codec))
    codec = transformers_layout.codec_source(weights, names, config.codec.codebooks, name)
    tokenizer = getattr(processor, "tokenizer", processor)
    return _made(config, decoder, codec, device, dtype, codec_dtype, model.text_encoder, tokenizer)


def from_audiocraft(
    model: Any,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    codec_dtype: torch.dtype = torch.float32,
) -> MusicGen:
    """Take over an `audiocraft.models.MusicGen`; prompts go through its own T5.

    Read from it: `lm.state_dict()`, `lm.condition_provider` and `compression_model`, which is audiocraft's EncodecModel
    or its wrapper of transformers'. What the model is like is told by `lm.cfg` or `cfg`, else by its modules.

    Raises `CheckpointError` for a model that we do not support.
    """
    name = "audiocraft model"
    experiment = getattr(model.lm, "cfg", None) or getattr(model, "cfg", None)
    if experiment is None:
        experiment = language_experiment(model.lm, f"{name}: lm")
    weights = in_memory(model.lm.state_dict(), f"{name}: lm")
    source = f"{name}: cfg"
    width = audiocraft_layout.text_width(weights, f"{name}: lm")
    sections = {key: _plain(experiment[key]) for key in experiment if key in SECTIONS}
    language = read_language_model(resolved(sections, source), width, source)
    codec_config, codec = _audiocraft_codec(model.compression_model, name)
    config = joined_config(language.decoder, codec_config, name)
    config = replace(config, guidance=language.guidance, segment_seconds=language.segment_seconds)
    decoder = audiocraft_layout.decoder_source(weights, language.decoder, f"{name}: lm")
    conditioner = model.lm.condition_provider.conditioners["description"]
    return _made(config, decoder, codec, device, dtype, codec_dtype, conditioner.t5, conditioner.t5_tokenizer)


def _made(
    config: MusicGenConfig,
    decoder: ModuleSource,
    codec: ModuleSource,
    device: torch.device | str,
    dtype: torch.dtype,
    codec_dtype: torch.dtype,
    text_module: Any,
    tokenizer: Any,
) -> MusicGen:
    judge(config, decoder, codec)
    digest = _hash(decoder, codec)
    modules = build(config, decoder, codec, device, dtype, codec_dtype)
    place = decoder.place  # what is returned must not hold the source, and with it every weight twice

    def text_encoder() -> TextEncoder:
        if tokenizer is None:
            raise CheckpointError(f"{place}: was given without a tokenizer, which prompts need")
        return TextEncoder(text_module, tokenizer)

    return MusicGen(config, *modules, None, lambda: digest, text_encoder)


def _hash(*sources: ModuleSource) -> str:
    digest = hashlib.sha256()
    for source in sources:
        for stored in source.stored():
            digest.update(stored.key.encode())
            digest.update(stored.load().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """omegaconf's containers as plain ones; they resolve their interpolations when they are read."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(inner) for inner in value]
    return value


def _audiocraft_codec(model: Any, name: str) -> tuple[CodecConfig, ModuleSource]:
    place = f"{name}: compression_model"
    wrapped = getattr(model, "model", None)
    if wrapped is not None and hasattr(wrapped, "config"):  # audiocraft's wrapper of a transformers EncodecModel
        config = transformers_layout.read_codec(Section(place, wrapped.config.to_dict()))
        weights = in_memory(wrapped.state_dict(), place)
        names = list(codec_names(config))
        return config, transformers_layout.codec_source(weights, names, config.codebooks, place, prefix="")
    config = read_codec(codec_experiment(model, place), place)
    weights = in_memory(model.state_dict(), place)
    return config, audiocraft_layout.codec_source(weights, codec_names(config), config, place)
