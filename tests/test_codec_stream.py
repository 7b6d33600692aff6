"""The streaming decoder: any chunking is the offline pass, a restored state is the same bits."""

import copy
import random
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor

from rfm_live.model.codec import Codec
from rfm_live.model.codec_stream import StreamingDecoder
from rfm_live.model.config import CodecConfig

CAUSAL = CodecConfig(
    sample_rate=32_000,
    hidden=16,
    filters=4,
    residual_layers=1,
    ratios=(8, 5, 4, 4),
    kernel=7,
    last_kernel=7,
    residual_kernel=3,
    dilation_growth=2,
    compress=2,
    lstm_layers=2,
    codebooks=4,
    codebook_size=64,
    causal=True,
    pad_mode="constant",
    conv_shortcut=False,
)
CENTRED = replace(CAUSAL, causal=False)
VARIANTS = {
    "causal constant": CAUSAL,
    "causal reflect": replace(CAUSAL, pad_mode="reflect"),
    "causal with shortcuts and dilation": replace(CAUSAL, conv_shortcut=True, residual_layers=3),
    "centred constant": CENTRED,
    "centred reflect": replace(CENTRED, pad_mode="reflect"),
    "centred with odd sizes": replace(CENTRED, pad_mode="reflect", kernel=6, residual_kernel=4, ratios=(3, 2, 5)),
    "centred with shortcuts and dilation": replace(CENTRED, conv_shortcut=True, residual_layers=3, ratios=(2, 3)),
}


def _codec(config: CodecConfig) -> Codec:
    torch.manual_seed(7)
    codec = Codec(config).requires_grad_(False)
    codec.quantizer.codebooks.normal_()
    return codec


def _codes(frames: int, seed: int = 1) -> Tensor:
    return torch.randint(0, 64, (4, frames), generator=torch.Generator().manual_seed(seed))


def _stream(decoder: StreamingDecoder, codes: Tensor, sizes: random.Random | int) -> Tensor:
    """Push `codes` in chunks of a fixed size or of random ones, then flush."""
    samples, at = [], 0
    while at < codes.shape[1]:
        size = sizes if isinstance(sizes, int) else sizes.choice((1, 1, 2, 3, 5, 11))
        samples.append(decoder.push(codes[:, at : at + size]))
        at += size
    return torch.cat([*samples, decoder.flush()])


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())
def test_any_chunking_is_the_offline_pass(config: CodecConfig) -> None:
    codec = _codec(config).double()  # in fp64 a wrong algorithm cannot hide in rounding
    decoder = StreamingDecoder(codec)
    for frames in (1, 2, 3, 4, 5, 6, 7, 8, 10, 33):
        codes = _codes(frames)
        offline = codec.decode(codes[None])[0, 0]
        for seed in range(3):
            streamed = _stream(decoder, codes, random.Random(seed))
            torch.testing.assert_close(streamed, offline, atol=1e-12, rtol=0)


GRID = [
    replace(CAUSAL, causal=causal, pad_mode=pad_mode, lstm_layers=lstm_layers, conv_shortcut=shortcut)
    for causal, pad_mode, lstm_layers, shortcut in product(
        (True, False), ("constant", "reflect"), (1, 2), (False, True)
    )
]


def _name(config: CodecConfig) -> str:
    direction, skip = "causal" if config.causal else "centred", "shortcut" if config.conv_shortcut else "identity"
    return f"{direction} {config.pad_mode} {config.lstm_layers} {skip}"


@pytest.mark.parametrize("config", GRID, ids=_name)
def test_single_precision_adds_only_rounding(config: CodecConfig) -> None:
    codec, codes = _codec(config), _codes(60)
    offline = codec.decode(codes[None])[0, 0]
    referee = copy.deepcopy(codec).double().decode(codes[None])[0, 0]
    assert referee.std() > 0.02
    tolerance = 1e-5 * float(referee.abs().max())
    for sizes in (1, 2, 3, 7, 50, random.Random(0)):
        streamed = _stream(StreamingDecoder(codec), codes, sizes)
        torch.testing.assert_close(streamed, offline, atol=tolerance, rtol=0)
        torch.testing.assert_close(streamed.double(), referee, atol=tolerance, rtol=0)


@pytest.mark.parametrize("config", GRID, ids=_name)
def test_a_started_stream_answers_every_push_with_its_own_length(config: CodecConfig) -> None:
    decoder = StreamingDecoder(_codec(config))
    assert len(decoder.push(_codes(decoder.start_frames))) == decoder.start_frames * 640 - decoder.lookahead_samples
    assert decoder.lookahead_samples == (0 if config.causal else 2402)
    for frames in (1, 2, 3, 7, 50, 1, 1):
        assert len(decoder.push(_codes(frames))) == frames * 640
    assert len(decoder.flush()) == decoder.lookahead_samples


@pytest.mark.parametrize("chunk", [1, 7, 50])
@pytest.mark.parametrize("config", GRID, ids=_name)
def test_going_back_repeats_every_bit_to_the_end(config: CodecConfig, chunk: int) -> None:
    decoder, codes = StreamingDecoder(_codec(config)), _codes(50, seed=4)
    decoder.push(_codes(9))
    state = decoder.copy_state()
    first = _stream(decoder, codes, chunk)
    for _ in range(2):
        decoder.restore_state(state)
        assert torch.equal(_stream(decoder, codes, chunk), first)


def test_the_codec_of_the_published_size_streams_exactly() -> None:
    """encodec_32khz: 64 filters, 128 latent channels, codebooks of 2048, two LSTM layers, centred, reflecting."""
    codec = _codec(replace(CENTRED, hidden=128, filters=64, codebook_size=2048, pad_mode="reflect"))
    codes = _codes(16)
    offline = codec.decode(codes[None])[0, 0]
    streamed = _stream(StreamingDecoder(codec), codes, random.Random(3))
    torch.testing.assert_close(streamed, offline, atol=1e-5 * float(offline.abs().max()), rtol=0)


def test_a_causal_codec_answers_every_frame_at_once() -> None:
    decoder = StreamingDecoder(_codec(CAUSAL))
    assert decoder.lookahead_samples == 0 and decoder.start_frames == 1
    assert [len(decoder.push(_codes(n))) for n in (1, 1, 3, 1)] == [640, 640, 1920, 640]
    assert len(decoder.flush()) == 0


def test_musicgens_own_geometry_trails_by_2402_samples() -> None:
    decoder = StreamingDecoder(_codec(replace(CENTRED, pad_mode="reflect")))
    assert decoder.lookahead_samples == 2402
    assert [len(decoder.push(_codes(1))) for _ in range(6)] == [0, 0, 0, 4 * 640 - 2402, 640, 640]
    assert len(decoder.flush()) == 2402


@pytest.mark.parametrize("config", [CAUSAL, VARIANTS["causal reflect"], VARIANTS["centred reflect"]])
@pytest.mark.parametrize("before", [0, 1, 9])
def test_a_restored_state_gives_the_same_bits(config: CodecConfig, before: int) -> None:
    decoder = StreamingDecoder(_codec(config))
    for n in range(before):
        decoder.push(_codes(1, seed=n))
    state = decoder.copy_state()
    first = [decoder.push(_codes(1, seed=100 + n)) for n in range(12)]
    for _ in range(2):
        decoder.restore_state(state)
        again = [decoder.push(_codes(1, seed=100 + n)) for n in range(12)]
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_state_moves_to_another_stream_of_the_same_codec() -> None:
    codec = _codec(CAUSAL)
    one, other = StreamingDecoder(codec), StreamingDecoder(codec)
    one.push(_codes(5))
    other.push(_codes(3, seed=2))
    other.restore_state(one.copy_state())
    assert torch.equal(one.push(_codes(2, seed=3)), other.push(_codes(2, seed=3)))


def test_a_state_is_small() -> None:
    decoder = StreamingDecoder(_codec(CAUSAL))
    decoder.push(_codes(50))
    tensors = [part for layer in decoder.copy_state().layers if layer is not None for part in layer]
    assert sum(part.untyped_storage().nbytes() for part in tensors) < 16_000


def test_a_reset_stream_starts_over() -> None:
    decoder = StreamingDecoder(_codec(CAUSAL))
    first = decoder.push(_codes(4))
    decoder.reset()
    assert torch.equal(decoder.push(_codes(4)), first)


def test_streams_of_one_codec_do_not_disturb_each_other() -> None:
    codec = _codec(CAUSAL)
    alone = StreamingDecoder(codec)
    expected = [alone.push(_codes(1, seed=n)) for n in range(4)]
    one, other = StreamingDecoder(codec), StreamingDecoder(codec)
    for n in range(4):
        other.push(_codes(2, seed=50 + n))
        assert torch.equal(one.push(_codes(1, seed=n)), expected[n])
