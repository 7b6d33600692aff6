"""The experiment's configuration in an audiocraft file, `xp.cfg`: read, its interpolations resolved, and judged.

Used by `audiocraft_layout.py`. What we support becomes a `DecoderConfig` or a `CodecConfig`; melody, style, stereo and
the relatives of MusicGen are refused by name. Fields follow audiocraft 1.3's `config/model/{lm,encodec}`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rfm_live.errors import CheckpointError
from rfm_live.model.config import CodecConfig, DecoderConfig
from rfm_live.model.section import Section

_INTERPOLATION = re.compile(r"\$\{([A-Za-z_][\w.]*)\}")
_MOST_HOPS = 8
_TEXT_MODELS = tuple(f"{family}{size}" for family in ("t5-", "google/flan-t5-") for size in ("small", "base", "large"))
# Conditioners of relatives, by the name they have in released files.
_RELATIVES = {
    "self_wav": "a melody or style checkpoint",
    "chords": "a JASCO checkpoint",
    "drums": "a JASCO checkpoint",
    "melody": "a JASCO checkpoint",
}


@dataclass(frozen=True)
class LanguageModel:
    """What an experiment says of the decoder. `text_model` is the T5 that its prompts go through."""

    decoder: DecoderConfig
    text_model: str
    guidance: float
    segment_seconds: float


def resolved(content: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The sections that we read, with every `${a.b}` in them replaced by the value there. Raises `CheckpointError`."""
    return {key: _resolve(content[key], content, source, 0) for key in content if key in SECTIONS}


def _resolve(value: Any, whole: Mapping[str, Any], source: str, hops: int) -> Any:
    if isinstance(value, Mapping):
        return {key: _resolve(inner, whole, source, hops) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_resolve(inner, whole, source, hops) for inner in value]
    if not isinstance(value, str) or "${" not in value:
        return value
    reference = _INTERPOLATION.fullmatch(value)
    if reference is None:
        raise CheckpointError(f"{source}: '{value:.60}' is no interpolation that is supported, which is ${{name.name}}")
    if hops == _MOST_HOPS:
        raise CheckpointError(f"{source}: interpolation '{value:.60}' leads in a circle")
    target: Any = whole
    for name in reference[1].split("."):
        if not isinstance(target, Mapping) or name not in target:
            raise CheckpointError(f"{source}: interpolation '{value:.60}' leads nowhere")
        target = target[name]
    return _resolve(target, whole, source, hops + 1)


def read_language_model(content: Mapping[str, Any], text_width: int, source: str) -> LanguageModel:
    """Judge a resolved `xp.cfg` of a language model. Raises `CheckpointError`; `source` names the file in it."""
    whole = Section(source, content)
    whole.require("solver", "musicgen", "musicgen")  # audiogen, magnet, jasco
    whole.require("lm_model", "transformer_lm", "transformer_lm")
    stereo = whole.content.get("interleave_stereo_codebooks") or {}
    if (
        Section(f"{source}: interleave_stereo_codebooks", stereo).content.get("use")
        or whole.content.get("channels") == 2
    ):
        raise CheckpointError(f"{source}: is a stereo checkpoint (interleave_stereo_codebooks), supported is mono")
    text_model = _read_conditioning(whole)
    model = whole.section("transformer_lm")
    _require_plain_blocks(model)
    codebooks = model.positive("n_q", 0, most=16)
    _require_delays(whole, codebooks)
    width = model.positive("dim", 0)
    decoder = DecoderConfig(
        width=width,
        layers=model.positive("num_layers", 0, most=256),
        heads=model.positive("num_heads", 0),
        ffn_width=width * model.positive("hidden_scale", 4, most=64),
        codebooks=codebooks,
        vocab=model.positive("card", 0),
        text_width=text_width,
        projects_equal_widths=True,
    )
    if decoder.width % decoder.heads or decoder.width % 2 or decoder.width < 4:
        raise CheckpointError(f"{model.name}: dim is {decoder.width}, expected an even n * {decoder.heads} heads")
    guidance = Section(f"{source}: classifier_free_guidance", content.get("classifier_free_guidance") or {})
    dataset = Section(f"{source}: dataset", content.get("dataset") or {})
    return LanguageModel(
        decoder,
        text_model,
        guidance.number("inference_coef", 3.0, 1.0, 10.0),
        dataset.number("segment_duration", 30.0, 1.0, 600.0),
    )


def _read_conditioning(whole: Section) -> str:
    """Text alone, through a T5 that was not trained along, into cross-attention: answers the T5's name."""
    conditioners = whole.section("conditioners")
    others = [name for name in conditioners.content if name not in ("description", "args")]  # `args` is no conditioner
    if others:
        kind = _RELATIVES.get(others[0], "another kind of checkpoint")
        raise CheckpointError(
            f"{conditioners.name}: '{others[0]:.40}' makes it {kind}, supported is 'description' alone"
        )
    description = conditioners.section("description")
    description.require("model", None, "t5")
    text = description.section("t5")
    text.require("finetune", False, False)
    text.require("normalize_text", False, False)
    fuser = whole.section("fuser")
    fuser.require("cross", None, ["description"])
    for way in ("prepend", "sum", "input_interpolate"):
        fuser.require(way, [], [], None)
    fuser.require("cross_attention_pos_emb", False, False)
    return str(text.require("name", None, *_TEXT_MODELS))


def _require_plain_blocks(model: Section) -> None:
    """The transformer that every released MusicGen has: pre-norm, no biases, sinusoidal positions, exact GELU."""
    model.require("norm_first", None, True)
    model.require("norm", "layer_norm", "layer_norm")
    model.require("activation", None, "gelu")
    model.require("causal", True, True)
    model.require("positional_embedding", "sin", "sin")
    model.require("max_period", 10_000, 10_000)
    model.require("positional_scale", 1.0, 1.0)
    model.require("kv_repeat", 1, 1)
    for absent in ("layer_scale", "past_context"):
        model.require(absent, None, None)
    for bias in ("bias_ff", "bias_attn", "bias_proj"):
        model.require(bias, None, False)
    for extra in ("xpos", "qk_layer_norm", "qk_layer_norm_cross"):
        model.require(extra, False, False)


def _require_delays(whole: Section, codebooks: int) -> None:
    pattern = whole.section("codebooks_pattern")
    pattern.require("modeling", None, "delay")
    delay = pattern.section("delay")
    delay.require("delays", None, list(range(codebooks)))
    delay.require("flatten_first", 0, 0)
    delay.require("empty_initial", 0, 0)


def read_codec(content: Mapping[str, Any], source: str) -> CodecConfig:
    """Judge a resolved `xp.cfg` of a compression model. Raises `CheckpointError`; `source` names the file in it."""
    whole = Section(source, content)
    whole.require("compression_model", None, "encodec")
    outer, net, quantizer = (whole.section(name) for name in ("encodec", "seanet", "rvq"))
    outer.require("autoencoder", "seanet", "seanet")
    outer.require("quantizer", "rvq", "rvq")
    outer.require("renormalize", False, False)
    outer.require("channels", 1, 1)
    for part, allowed in (
        ("encoder", ()),
        ("decoder", ("trim_right_ratio", "final_activation", "final_activation_params")),
    ):
        given = Section(f"{net.name}: {part}", net.content.get(part) or {})
        if foreign := [key for key in given.content if key not in allowed]:
            raise CheckpointError(f"{given.name}: '{foreign[0]}' is set for one side alone, which is not supported")
        given.require("trim_right_ratio", 1.0, 1.0)
        given.require("final_activation", None, None)
    net.require("channels", 1, 1)
    net.require("norm", "weight_norm", "weight_norm")
    net.require("activation", "ELU", "ELU")
    net.require("activation_params", {"alpha": 1.0}, {"alpha": 1.0}, {}, None)
    return CodecConfig(
        sample_rate=outer.positive("sample_rate", 0, most=1_000_000),
        hidden=net.positive("dimension", 0),
        filters=net.positive("n_filters", 0, most=1024),
        residual_layers=net.positive("n_residual_layers", 0, most=8),
        ratios=net.factors("ratios", []),
        kernel=net.positive("kernel_size", 7, most=64),
        last_kernel=net.positive("last_kernel_size", 7, most=64),
        residual_kernel=net.positive("residual_kernel_size", 3, most=64),
        dilation_growth=net.positive("dilation_base", 2, most=64),
        compress=net.positive("compress", 2, most=64),
        lstm_layers=net.positive("lstm", 0, most=8),
        codebooks=quantizer.positive("n_q", 0, most=16),
        codebook_size=quantizer.positive("bins", 0),
        causal=bool(net.require("causal", None, True, False)),
        pad_mode=net.require("pad_mode", None, "reflect", "constant"),
        conv_shortcut=not net.require("true_skip", None, True, False),
    )


# The keys of `xp.cfg` that say something of the model; the rest is of training, and may hold anything.
SECTIONS = frozenset(
    "solver lm_model compression_model channels interleave_stereo_codebooks conditioners fuser transformer_lm "
    "codebooks_pattern classifier_free_guidance dataset encodec seanet rvq".split()
)
