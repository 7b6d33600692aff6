"""Tiny random checkpoints in the transformers layout, made on the spot: what the tests load instead of a download.

Used by `conftest.py` and by every test that wants other sizes. The weights are random, the shapes and file names real.
"""

import string
from pathlib import Path
from typing import Any

import torch
from transformers import (
    EncodecFeatureExtractor,
    MusicgenConfig,
    MusicgenForConditionalGeneration,
    MusicgenProcessor,
    T5Tokenizer,
)

# T5's specials come first; then every printable ASCII character, so any plain text has an encoding, and a few words.
_WORDS = ("▁calm", "▁piano", "▁drums", "▁bright", "▁dark", "▁minor", "▁major", "ing", "er", "th")


def tiny_tokenizer() -> T5Tokenizer:
    """Make a T5 tokenizer (Unigram) whose vocabulary of about 110 pieces covers printable ASCII."""
    pieces: list[tuple[str, float]] = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(character, -4.0) for character in string.printable if not character.isspace()]
    pieces += [(word, -5.0) for word in _WORDS]
    return T5Tokenizer(vocab=pieces, extra_ids=0)


def tiny_checkpoint(
    path: Path,
    *,
    width: int = 128,
    layers: int = 3,
    heads: int = 2,
    ffn_width: int = 256,
    codebook_size: int = 64,
    codebooks: int = 4,
    text_width: int = 48,
    codec_hidden: int = 16,
    codec_filters: int = 4,
    lstm_layers: int = 2,
    causal: bool = True,
    pad_mode: str = "constant",
    conv_shortcut: bool = False,
    residual_layers: int = 1,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Path:
    """Write a random MusicGen checkpoint with its processor into `path` and return `path`.

    The codec runs at 32 kHz with ratios 8, 5, 4, 4 (640 samples per frame). Codebooks are filled with noise, because
    transformers leaves them zero and a zero codebook would hide every mistake.
    """
    bits = (codebook_size - 1).bit_length()
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    config = MusicgenConfig(
        text_encoder={
            "model_type": "t5",
            "vocab_size": len(tokenizer),
            "d_model": text_width,
            "d_kv": 16,
            "d_ff": 64,
            "num_layers": 2,
            "num_heads": 2,
        },
        audio_encoder={
            "model_type": "encodec",
            "sampling_rate": 32_000,
            "audio_channels": 1,
            "hidden_size": codec_hidden,
            "num_filters": codec_filters,
            "num_residual_layers": residual_layers,
            "upsampling_ratios": [8, 5, 4, 4],
            "codebook_size": codebook_size,
            "codebook_dim": codec_hidden,
            "target_bandwidths": [codebooks * 50 * bits / 1000],
            "num_lstm_layers": lstm_layers,
            "use_causal_conv": causal,
            "use_conv_shortcut": conv_shortcut,
            "pad_mode": pad_mode,
            "normalize": False,
        },
        decoder={
            "vocab_size": codebook_size,
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "ffn_dim": ffn_width,
            "num_codebooks": codebooks,
            "pad_token_id": codebook_size,
            "bos_token_id": codebook_size,
            "max_position_embeddings": 512,
            # The usual 0.02 gives logits so flat that greedy decoding would test little.
            "initializer_factor": 0.1,
        },
    )
    model = MusicgenForConditionalGeneration(config)
    with torch.no_grad():
        for name, buffer in model.audio_encoder.named_buffers():
            if name.endswith((".embed", ".embed_avg")):
                buffer.normal_()
        for name, parameter in model.decoder.named_parameters():
            if "layer_norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    generation = model.generation_config
    generation.decoder_start_token_id = generation.pad_token_id = generation.bos_token_id = codebook_size
    path.mkdir(parents=True, exist_ok=True)
    torch.nn.Module.to(model, dtype).save_pretrained(path)
    feature_extractor = EncodecFeatureExtractor(feature_size=1, sampling_rate=32_000)
    processor: Any = MusicgenProcessor
    processor(feature_extractor, tokenizer).save_pretrained(path)
    return path
