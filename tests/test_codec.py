"""The codec, against transformers' EnCodec on the same weights: causal and not, both paddings, awkward lengths."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import MusicgenForConditionalGeneration

from rfm_live.model.checkpoint import load_checkpoint
from rfm_live.model.codec import Codec
from tests.tiny import tiny_checkpoint

VARIANTS: dict[str, dict[str, Any]] = {
    "causal constant": {"causal": True, "pad_mode": "constant"},
    "causal reflect with shortcuts": {"causal": True, "pad_mode": "reflect", "conv_shortcut": True},
    "centred constant": {"causal": False, "pad_mode": "constant", "lstm_layers": 1},
    "centred reflect": {"causal": False, "pad_mode": "reflect"},
    "dilated": {"causal": False, "pad_mode": "reflect", "residual_layers": 3, "codec_filters": 2},
}


@pytest.fixture(scope="module", params=VARIANTS.values(), ids=list(VARIANTS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Codec, Any]:
    """Our codec and transformers', with the same weights."""
    path = tiny_checkpoint(tmp_path_factory.mktemp("codec"), layers=1, **request.param)
    return load_checkpoint(path).codec, _reference(path)


def _reference(path: Path) -> Any:
    return MusicgenForConditionalGeneration.from_pretrained(path).audio_encoder.eval()


@pytest.mark.parametrize("length", [3, 639, 640, 641, 640 * 7 + 13, 640 * 20])
def test_codes_match_transformers(pair: tuple[Codec, Any], length: int) -> None:
    codec, reference = pair
    samples = torch.randn(2, 1, length, generator=torch.Generator().manual_seed(length)) * 0.3
    with torch.no_grad():
        codes = codec.encode(samples)
        assert torch.equal(codes, reference.encode(samples).audio_codes[0])
    assert codes.shape == (2, 4, -(-length // 640))


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 7, 40])
def test_samples_match_transformers(pair: tuple[Codec, Any], frames: int) -> None:
    codec, reference = pair
    codes = torch.randint(0, 64, (2, 4, frames), generator=torch.Generator().manual_seed(frames))
    with torch.no_grad():
        samples = codec.decode(codes)
        expected = reference.decode(codes[None], [None]).audio_values
    assert samples.shape == (2, 1, frames * 640)
    torch.testing.assert_close(samples, expected, atol=1e-6, rtol=0)


def test_the_codec_can_be_trained(pair: tuple[Codec, Any]) -> None:
    codec = Codec(pair[0].config)
    codec.decoder(codec.encoder(torch.randn(1, 1, 1280))).square().mean().backward()
    assert all(parameter.grad is not None for parameter in codec.parameters())
