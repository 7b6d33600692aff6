"""Judge a transformers config.json: what we support becomes a `MusicGenConfig`, the rest is refused by name.

Used by `checkpoint.py`. Defaults are those of transformers, which may leave default values out of the file.
"""

from collections.abc import Mapping
from math import ceil, isfinite, log2, prod
from typing import Any, TypeVar

from rfm_live.errors import CheckpointError
from rfm_live.model.config import CodecConfig, DecoderConfig, MusicGenConfig

_Value = TypeVar("_Value", int, str, bool)


class _Section:
    """One object of the configuration, read with types checked; `name` leads every error."""

    def __init__(self, name: str, content: object) -> None:
        if not isinstance(content, Mapping):
            raise CheckpointError(f"{name} is {content!r:.40}, expected an object")
        self.name = name
        self.content: Mapping[str, Any] = content

    def section(self, key: str) -> "_Section":
        return _Section(f"{self.name}: {key}", self.content.get(key))

    def get(self, key: str, default: _Value) -> _Value:
        value = self.content.get(key, default)
        if type(value) is not type(default):
            raise CheckpointError(f"{self.name}: {key} is {value!r:.40}, expected {type(default).__name__}")
        return value

    def positive(self, key: str, default: int, most: int = 1 << 16) -> int:
        value = self.get(key, default)
        if not 1 <= value <= most:
            raise CheckpointError(f"{self.name}: {key} is {value}, expected 1..{most}")
        return value

    def require(self, key: str, default: Any, *supported: Any) -> Any:
        """Answer the value if it is one of the supported ones, else refuse it."""
        value = self.content.get(key, default)
        if value not in supported:
            names = " or ".join(repr(choice) for choice in supported)
            raise CheckpointError(f"{self.name}: {key} is {value!r:.40}, supported is {names}")
        return value


def read_config(content: Mapping[str, Any], source: str) -> MusicGenConfig:
    """Turn a parsed config.json into our description. Raises `CheckpointError`; `source` names the file in it."""
    whole = _Section(source, content)
    whole.require("model_type", None, "musicgen")  # melody and flash-style relatives have other names
    text = whole.section("text_encoder")
    text.require("model_type", None, "t5")
    decoder = _read_decoder(whole.section("decoder"), text.positive("d_model", 512))
    codec = _read_codec(whole.section("audio_encoder"))
    if codec.sample_rate % codec.hop:
        raise CheckpointError(f"{source}: audio_encoder: {codec.sample_rate} Hz is no multiple of {codec.hop} samples")
    for what, ours, theirs in (
        ("codebooks", decoder.codebooks, codec.codebooks),
        ("codes per codebook", decoder.vocab, codec.codebook_size),
    ):
        if ours != theirs:
            raise CheckpointError(f"{source}: decoder has {ours} {what}, audio_encoder has {theirs}")
    return MusicGenConfig(decoder, codec, codec.sample_rate, codec.sample_rate // codec.hop, codec.hop)


def _read_decoder(section: _Section, text_width: int) -> DecoderConfig:
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
        max_positions=section.positive("max_position_embeddings", 2048),
    )
    if config.width % config.heads or config.width < 4:
        raise CheckpointError(f"{section.name}: hidden_size is {config.width}, expected n * {config.heads} heads")
    section.require("pad_token_id", config.pad_id, config.pad_id)
    section.require("bos_token_id", config.pad_id, config.pad_id)
    return config


def _read_codec(section: _Section) -> CodecConfig:
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
    ratios = section.content.get("upsampling_ratios", [8, 5, 4, 2])
    if not isinstance(ratios, list) or not ratios or not all(type(r) is int and 1 <= r <= 64 for r in ratios):
        raise CheckpointError(f"{section.name}: upsampling_ratios is {ratios!r:.40}, expected integers 1..64")
    return CodecConfig(
        sample_rate=sample_rate,
        hidden=hidden,
        filters=section.positive("num_filters", 32),
        residual_layers=section.positive("num_residual_layers", 1, most=256),
        ratios=tuple(ratios),
        kernel=section.positive("kernel_size", 7),
        last_kernel=section.positive("last_kernel_size", 7),
        residual_kernel=section.positive("residual_kernel_size", 3),
        dilation_growth=section.positive("dilation_growth_rate", 2),
        compress=section.positive("compress", 2),
        lstm_layers=section.positive("num_lstm_layers", 2, most=256),
        codebooks=_quantizers(section, sample_rate, codebook_size, tuple(ratios)),
        codebook_size=codebook_size,
        causal=section.get("use_causal_conv", True),
        pad_mode=section.require("pad_mode", "reflect", "reflect", "constant"),
        conv_shortcut=section.get("use_conv_shortcut", True),
    )


def _quantizers(section: _Section, sample_rate: int, codebook_size: int, ratios: tuple[int, ...]) -> int:
    """The number of codebooks, which EncodecConfig derives from the largest bandwidth in kbit/s."""
    bandwidths = section.content.get("target_bandwidths", [1.5, 3.0, 6.0, 12.0, 24.0])
    numbers = isinstance(bandwidths, list) and all(isinstance(b, int | float) and isfinite(b) for b in bandwidths)
    if not numbers or not bandwidths:
        raise CheckpointError(f"{section.name}: target_bandwidths is {bandwidths!r:.40}, expected numbers")
    bits_per_second = ceil(sample_rate / prod(ratios)) * max(ceil(log2(codebook_size)), 1)  # of one codebook
    return int(1000 * bandwidths[-1] // bits_per_second)
