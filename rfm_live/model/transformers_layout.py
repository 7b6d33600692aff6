"""MusicGen as transformers stores it: config.json judged, and the names of its tensors.

Used by `checkpoint.py`. What we support becomes a `MusicGenConfig`, the rest is refused by name. Defaults are those of
transformers, which may leave default values out of the file.
"""

from collections.abc import Mapping
from math import ceil, isfinite, log2, prod
from typing import Any

from rfm_live.errors import CheckpointError
from rfm_live.model.assembly import Joined, ModuleSource, Part, Stacked, convolution
from rfm_live.model.config import MOST_POSITIONS, CodecConfig, DecoderConfig, MusicGenConfig, joined_config
from rfm_live.model.section import Section
from rfm_live.model.stored import Weights, with_prefix

TEXT = "text_encoder."
_DECODER = "decoder."
_CODEC = "audio_encoder."
_PROJECTION = "enc_to_dec_proj"
# Tables that are computed, and statistics of training that decoding never reads.
_IGNORED = (".embed_positions.weights", ".codebook.inited", ".codebook.cluster_size", ".codebook.embed_avg")


def read_config(content: Mapping[str, Any], source: str) -> MusicGenConfig:
    """Turn a parsed config.json into our description. Raises `CheckpointError`; `source` names the file in it."""
    whole = Section(source, content)
    whole.require("model_type", None, "musicgen")  # melody and flash-style relatives have other names
    text = whole.section("text_encoder")
    text.require("model_type", None, "t5")
    decoder = _read_decoder(whole.section("decoder"), text.positive("d_model", 512))
    return joined_config(decoder, read_codec(whole.section("audio_encoder")), source)


def _read_decoder(section: Section, text_width: int) -> DecoderConfig:
    section.require("audio_channels", 1, 1)  # 2 is stereo
    section.require("activation_function", "gelu", "gelu")
    section.require("cross_attention_hidden_size", None, None)
    config = DecoderConfig(
        width=section.positive("hidden_size", 1024),
        layers=section.positive("num_hidden_layers", 24, most=256),
        heads=section.positive("num_attention_heads", 16),
        ffn_width=section.positive("ffn_dim", 4096),
        codebooks=section.positive("num_codebooks", 4, most=256),
        vocab=section.positive("vocab_size", 2048),
        text_width=text_width,
        max_positions=section.positive("max_position_embeddings", 2048, most=MOST_POSITIONS),
    )
    if config.width % config.heads or config.width < 4:
        raise CheckpointError(f"{section.name}: hidden_size is {config.width}, expected n * {config.heads} heads")
    section.require("pad_token_id", config.pad_id, config.pad_id)
    section.require("bos_token_id", config.pad_id, config.pad_id)
    return config


def read_codec(section: Section) -> CodecConfig:
    """Turn a transformers EnCodec configuration into our description. Raises `CheckpointError`."""
    section.require("model_type", None, "encodec")
    section.require("audio_channels", 1, 1)
    section.require("norm_type", "weight_norm", "weight_norm")
    section.require("normalize", False, False)
    section.require("chunk_length_s", None, None)
    section.require("trim_right_ratio", 1.0, 1.0)
    hidden = section.positive("hidden_size", 128)
    section.require("codebook_dim", hidden, hidden, None)
    sample_rate = section.positive("sampling_rate", 24_000, most=1_000_000)
    codebook_size = section.positive("codebook_size", 1024)
    ratios = section.factors("upsampling_ratios", [8, 5, 4, 2])
    return CodecConfig(
        sample_rate=sample_rate,
        hidden=hidden,
        filters=section.positive("num_filters", 32, most=1024),
        residual_layers=section.positive("num_residual_layers", 1, most=8),
        ratios=ratios,
        kernel=section.positive("kernel_size", 7, most=64),
        last_kernel=section.positive("last_kernel_size", 7, most=64),
        residual_kernel=section.positive("residual_kernel_size", 3, most=64),
        dilation_growth=section.positive("dilation_growth_rate", 2, most=64),
        compress=section.positive("compress", 2, most=64),
        lstm_layers=section.positive("num_lstm_layers", 2, most=8),
        codebooks=_quantizers(section, sample_rate, codebook_size, ratios),
        codebook_size=codebook_size,
        causal=section.get("use_causal_conv", True),
        pad_mode=section.require("pad_mode", "reflect", "reflect", "constant"),
        conv_shortcut=section.get("use_conv_shortcut", True),
    )


def _quantizers(section: Section, sample_rate: int, codebook_size: int, ratios: tuple[int, ...]) -> int:
    """The number of codebooks, which EncodecConfig derives from the largest bandwidth in kbit/s."""
    bandwidths = section.content.get("target_bandwidths", [1.5, 3.0, 6.0, 12.0, 24.0])
    numbers = isinstance(bandwidths, list) and all(isinstance(b, int | float) and isfinite(b) for b in bandwidths)
    if not numbers or not bandwidths:
        raise CheckpointError(f"{section.name}: target_bandwidths is {bandwidths!r:.40}, expected numbers")
    bits_per_second = ceil(sample_rate / prod(ratios)) * max(ceil(log2(codebook_size)), 1)  # of one codebook
    return int(1000 * bandwidths[-1] // bits_per_second)


def decoder_source(weights: Weights, config: DecoderConfig, place: str) -> ModuleSource:
    """Our decoder's names and the keys that transformers keeps apart where ours are fused."""
    codebooks = range(config.codebooks)
    layers = f"{_DECODER}model.decoder."
    recipe: dict[str, Part] = {
        "embedding.weight": Joined(tuple(f"{layers}embed_tokens.{k}.weight" for k in codebooks)),
        "heads.weight": Joined(tuple(f"{_DECODER}lm_heads.{k}.weight" for k in codebooks)),
    }
    norms = {"out_norm": "layer_norm"}
    for layer in range(config.layers):
        ours, theirs = f"blocks.{layer}", f"{layers}layers.{layer}"
        recipe[f"{ours}.qkv.weight"] = Joined(tuple(f"{theirs}.self_attn.{part}_proj.weight" for part in "qkv"))
        recipe[f"{ours}.cross_kv.weight"] = Joined(tuple(f"{theirs}.encoder_attn.{part}_proj.weight" for part in "kv"))
        for our_name, their_name in (
            ("self_out", "self_attn.out_proj"),
            ("cross_q", "encoder_attn.q_proj"),
            ("cross_out", "encoder_attn.out_proj"),
            ("ffn_in", "fc1"),
            ("ffn_out", "fc2"),
        ):
            recipe[f"{ours}.{our_name}.weight"] = Joined((f"{theirs}.{their_name}.weight",))
        norms[f"{ours}.self_norm"] = f"layers.{layer}.self_attn_layer_norm"
        norms[f"{ours}.cross_norm"] = f"layers.{layer}.encoder_attn_layer_norm"
        norms[f"{ours}.ffn_norm"] = f"layers.{layer}.final_layer_norm"
    for kind in ("weight", "bias"):
        if config.projects_text:
            recipe[f"text_projection.{kind}"] = Joined((f"{_PROJECTION}.{kind}",))
        for our_name, their_name in norms.items():
            recipe[f"{our_name}.{kind}"] = Joined((f"{layers}{their_name}.{kind}",))
    # What belongs to neither codec nor text encoder is the decoder's, or foreign and refused.
    foreign = {key: tensor for key, tensor in weights.items() if not key.startswith((_CODEC, TEXT))}
    return ModuleSource(place, foreign, recipe, _IGNORED)


def codec_source(weights: Weights, names: list[str], codebooks: int, place: str, prefix: str = _CODEC) -> ModuleSource:
    """The codec's `names`, which are transformers' own once weight norm is folded; `prefix` is "" for a codec alone."""
    recipe: dict[str, Part] = {
        "quantizer.codebooks": Stacked(tuple(f"{prefix}quantizer.layers.{k}.codebook.embed" for k in range(codebooks)))
    }
    for name in names:
        if name.endswith(".conv.weight"):
            recipe[name] = convolution(weights, f"{prefix}{name.removesuffix('.weight')}")
        elif name not in recipe:
            recipe[name] = Joined((f"{prefix}{name}",))
    return ModuleSource(place, with_prefix(weights, prefix), recipe, _IGNORED)
