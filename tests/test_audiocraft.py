"""audiocraft's layout: its exported files give a model, with every hyper-parameter from the file at hand."""

import hashlib
from pathlib import Path

import pytest
import torch

from rfm_live.engine.defaults import default_settings
from rfm_live.model.checkpoint import MusicGen, load_checkpoint

FIXTURE = Path(__file__).parent / "fixtures" / "audiocraft_tiny_a"
FILES = ("compression_state_dict.bin", "state_dict.bin")


@pytest.fixture(scope="module")
def model() -> MusicGen:
    return load_checkpoint(FIXTURE)


def test_the_description_is_that_of_the_experiment(model: MusicGen) -> None:
    decoder, codec = model.config.decoder, model.config.codec
    assert (decoder.width, decoder.layers, decoder.heads, decoder.ffn_width) == (64, 3, 4, 256)
    assert (decoder.codebooks, decoder.vocab, decoder.pad_id, decoder.text_width) == (4, 128, 128, 768)
    assert (codec.filters, codec.ratios, codec.hidden, codec.lstm_layers) == (4, (8, 5, 4, 4), 32, 2)
    assert (codec.causal, codec.pad_mode, codec.conv_shortcut) == (False, "reflect", False)
    assert (model.config.sample_rate, model.config.frame_rate, model.config.hop) == (32_000, 50, 640)
    assert (model.config.guidance, model.config.segment_seconds) == (3.0, 30.0)


def test_the_defaults_of_play_are_audiocrafts(model: MusicGen) -> None:
    settings = default_settings(FIXTURE, model.config)
    assert (settings.sampling.top_k, settings.sampling.guidance, settings.sampling.temperature) == (128, 3.0, 1.0)
    assert settings.window is not None and settings.window.frames == 1500


def test_the_hash_is_that_of_both_files_by_name(model: MusicGen) -> None:
    assert model.sha256 == hashlib.sha256(b"".join((FIXTURE / name).read_bytes() for name in FILES)).hexdigest()


def test_a_referee_in_double_precision_holds_the_same_numbers(model: MusicGen) -> None:
    referee = load_checkpoint(FIXTURE, dtype=torch.float64, codec_dtype=torch.float64)
    assert referee.decoder.heads.weight.dtype == referee.codec.quantizer.codebooks.dtype == torch.float64
    assert torch.equal(referee.decoder.blocks[1].qkv.weight.float(), model.decoder.blocks[1].qkv.weight)
    codes = torch.randint(128, (1, 4, 9), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(referee.codec.decode(codes).float(), model.codec.decode(codes), atol=1e-5, rtol=1e-5)
