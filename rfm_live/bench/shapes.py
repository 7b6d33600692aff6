"""The sizes that are measured, what a step of each must move, and models of each: ours and transformers' in one pair.

MusicGen's published sizes get random weights, for a step takes as long with any; the embedded checkpoint is the real
one. Both models of a pair have the same weights and hear the same text, and `logit_difference` shows that they do the
same work.
"""

from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rfm_live.engine.stream import PromptStates
from rfm_live.model.checkpoint import MusicGen, load_checkpoint
from rfm_live.model.config import CodecConfig, DecoderConfig
from rfm_live.model.decoder import Decoder
from rfm_live.model.objects import from_transformers
from rfm_live.model.transformers_layout import decoder_source
from rfm_live.places import EMBEDDED, checkpoint_folder

TEXT_TOKENS = 12
WEIGHT_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
"""What a weight takes in every precision of `rfm_live.model.products`."""
_POOL = 1 << 22  # random numbers that all weights are copies of
_SPREAD = 0.05


@dataclass(frozen=True)
class Size:
    """A published size of MusicGen: heads of 64, feed-forward layers of 4 * width, 4 codebooks of 2048."""

    width: int
    layers: int
    text_width: int = 768

    @property
    def config(self) -> DecoderConfig:
        """The decoder of this size."""
        heads = self.width // 64
        return DecoderConfig(self.width, self.layers, heads, 4 * self.width, 4, 2048, self.text_width)


SIZES = {"small": Size(1024, 24), "medium": Size(1536, 48), "large": Size(2048, 48)}
"""facebook/musicgen-small, -medium, -large: their config.json."""

CODEC_32KHZ = CodecConfig(
    sample_rate=32_000,
    hidden=128,
    filters=64,
    residual_layers=1,
    ratios=(8, 5, 4, 4),
    kernel=7,
    last_kernel=7,
    residual_kernel=3,
    dilation_growth=2,
    compress=2,
    lstm_layers=2,
    codebooks=4,
    codebook_size=2048,
    causal=False,
    pad_mode="reflect",
    conv_shortcut=False,
)
"""facebook/encodec_32khz, the codec of the published sizes."""


@dataclass(frozen=True)
class Pair:
    """One model twice: ours, and transformers' `reference`; `tokens` int64 [1, S] is the text that both read."""

    ours: MusicGen
    reference: Any
    tokens: Tensor

    @property
    def number_bytes(self) -> int:
        """What one number of the decoder takes."""
        return int(self.ours.decoder.embedding.weight.element_size())

    def prompt(self) -> PromptStates:
        """The text as our decoder takes it, read by the reference's own text encoder."""
        with torch.inference_mode():
            states = self.reference.text_encoder(input_ids=self.tokens).last_hidden_state
        return states, torch.ones_like(self.tokens, dtype=torch.bool)

    def in_precision(self, precision: str) -> Decoder:
        """Our decoder with the weights of its steps kept in this precision; all share what is loaded."""
        decoder = copy(self.ours.decoder)
        decoder.prepare(precision)
        return decoder

    def logit_difference(self, decoder: Decoder, columns: int = 8) -> float:
        """The largest difference of any logit over random columns, stepped one by one, as a share of their spread."""
        config = decoder.config
        generator = torch.Generator().manual_seed(3)
        shape = (1, config.codebooks, columns)
        codes = torch.randint(0, config.vocab, shape, generator=generator).to(self.tokens.device)  # [1, K, T]
        ones = torch.ones_like(self.tokens)
        with torch.inference_mode():
            cache, cross = decoder.new_cache(1, columns), decoder.new_cross(*self.prompt())
            steps = [decoder(codes[..., t : t + 1], t, cache, cross)[0] for t in range(columns)]  # T of [1, K, V]
            ours = torch.cat(steps).transpose(0, 1)  # [K, T, V]
            theirs = self.reference(
                input_ids=self.tokens, attention_mask=ones, decoder_input_ids=codes[0]
            ).logits  # [K, T, V]
        return float((ours - theirs).abs().max() / theirs.std())


def embedded_pair(device: torch.device) -> Pair:
    """The checkpoint that ships."""
    from transformers import MusicgenForConditionalGeneration

    folder = checkpoint_folder(EMBEDDED)
    reference = MusicgenForConditionalGeneration.from_pretrained(folder).eval().to(device)
    return Pair(load_checkpoint(folder, device), reference, _tokens(device))


def random_pair(
    decoder: DecoderConfig, codec: CodecConfig, device: torch.device, dtype: torch.dtype = torch.float32
) -> Pair:
    """Random weights in transformers' MusicGen, taken over into ours."""
    from transformers import MusicgenForConditionalGeneration
    from transformers.initialization import no_init_weights

    with no_init_weights():
        reference: Any = MusicgenForConditionalGeneration(_reference_config(decoder, codec))
    reference = reference.to(device, dtype).eval()
    generator = torch.Generator().manual_seed(0)
    pool = (torch.rand(_POOL, generator=generator) * 2 - 1).mul_(_SPREAD).to(device, dtype)
    with torch.no_grad():
        for name, tensor in [*reference.named_parameters(), *reference.named_buffers()]:
            if "layer_norm" in name:
                tensor.fill_(float(name.endswith("weight")))
            elif tensor.is_floating_point() and "embed_positions" not in name:
                for part in tensor.view(-1).split(_POOL):
                    part.copy_(pool[: len(part)])
    wishes = reference.generation_config
    wishes.decoder_start_token_id = wishes.pad_token_id = wishes.bos_token_id = decoder.vocab
    ours = from_transformers(reference, device=device, dtype=dtype)
    _share(ours.decoder, reference)
    return Pair(ours, reference, _tokens(device))


def _share(decoder: Decoder, reference: Any) -> None:
    """Let the reference read the decoder's own weights, so that both together take the memory of one."""
    recipe = decoder_source({}, decoder.config, "ours").recipe
    for name, weight in decoder.named_parameters():
        keys = recipe[name].keys
        for part, key in zip(weight.data.chunk(len(keys)), keys, strict=True):
            reference.get_parameter(key).data = part


def toy_codec(vocab: int) -> CodecConfig:
    """A codec of next to no cost, for measurements that are not about the codec."""
    return CodecConfig(
        **{**vars(CODEC_32KHZ), "filters": 4, "hidden": 16, "lstm_layers": 1, "causal": True, "codebook_size": vocab}
    )


def weight_bytes(config: DecoderConfig, number_bytes: int = 4) -> int:
    """What the decoder's weights take in memory."""
    width, ffn = config.width, config.ffn_width
    block = 8 * width * width + 2 * width * ffn + 6 * width
    tables = config.codebooks * ((config.vocab + 1) * width + config.vocab * width)
    text = config.width * (config.text_width + 1) if config.projects_text else 0
    return number_bytes * (config.layers * block + tables + 2 * width + text)


def step_bytes(
    config: DecoderConfig, rows: int, context: float, text_tokens: int, number_bytes: float = 4, weight_bytes: float = 4
) -> int:
    """The bytes that one step must read and write; a weight takes `weight_bytes`, any other number `number_bytes`.

    Every weight of the blocks and the heads once, whatever the number of rows; one embedding a codebook; keys and
    values of `context` columns, and the new column's. Cross-attention takes two projections and the text's keys and
    values, or, where that is less, both multiplied out for this text.
    """
    width, ffn = config.width, config.ffn_width
    block = 4 * width * width + 2 * width * ffn
    weights = config.layers * block + config.codebooks * config.vocab * width
    projected = 2 * width * width * weight_bytes + 2 * text_tokens * width * number_bytes
    multiplied = 2 * width * config.heads * text_tokens * number_bytes
    norms = (6 * config.layers + 2 + config.codebooks) * width
    remembered = 2 * rows * (context + 1) * width * config.layers
    text = config.layers * min(projected, multiplied)
    return round(weight_bytes * weights + number_bytes * (norms + remembered) + text)


def cache_bytes(config: DecoderConfig, rows: int, columns: int, number_bytes: int = 4) -> int:
    """What the keys and values of one context take in memory."""
    return number_bytes * 2 * config.layers * rows * columns * config.width


def decoder_bytes(config: CodecConfig, number_bytes: int = 4) -> int:
    """What the weights of the codec's decoder take: what one push must read."""
    channels = config.filters << len(config.ratios)
    numbers = config.hidden * channels * config.kernel + config.lstm_layers * 8 * channels * channels
    for ratio in config.ratios:
        half = channels // 2
        inner = half // config.compress
        residual = half * inner * config.residual_kernel + inner * half + half * half * config.conv_shortcut
        numbers += channels * half * 2 * ratio + config.residual_layers * residual
        channels = half
    return number_bytes * (numbers + channels * config.last_kernel)


def _tokens(device: torch.device) -> Tensor:
    return torch.arange(10, 10 + TEXT_TOKENS, device=device)[None]


def _reference_config(decoder: DecoderConfig, codec: CodecConfig) -> Any:
    from transformers import MusicgenConfig

    bits = (codec.codebook_size - 1).bit_length()
    frames = codec.sample_rate / codec.hop
    return MusicgenConfig(
        text_encoder={
            "model_type": "t5",
            "vocab_size": 64,
            "d_model": decoder.text_width,
            "d_kv": 16,
            "d_ff": 64,
            "num_layers": 1,
            "num_heads": 2,
        },
        audio_encoder={
            "model_type": "encodec",
            "sampling_rate": codec.sample_rate,
            "audio_channels": 1,
            "hidden_size": codec.hidden,
            "num_filters": codec.filters,
            "num_residual_layers": codec.residual_layers,
            "upsampling_ratios": list(codec.ratios),
            "codebook_size": codec.codebook_size,
            "codebook_dim": codec.hidden,
            "target_bandwidths": [codec.codebooks * frames * bits / 1000],
            "num_lstm_layers": codec.lstm_layers,
            "use_causal_conv": codec.causal,
            "use_conv_shortcut": codec.conv_shortcut,
            "pad_mode": codec.pad_mode,
            "normalize": False,
        },
        decoder={
            "vocab_size": decoder.vocab,
            "hidden_size": decoder.width,
            "num_hidden_layers": decoder.layers,
            "num_attention_heads": decoder.heads,
            "ffn_dim": decoder.ffn_width,
            "num_codebooks": decoder.codebooks,
            "pad_token_id": decoder.vocab,
            "bos_token_id": decoder.vocab,
        },
    )
