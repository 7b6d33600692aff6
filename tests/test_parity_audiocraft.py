"""Parity with audiocraft: every tensor of the golden file, which audiocraft 1.3.0 itself computed from its checkpoint.

Tolerances are those of the fixture's README or tighter; its rounding is that of another build of the same products.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from rfm_live.engine.stream import TokenStream, Window
from rfm_live.model.checkpoint import MusicGen, load_checkpoint
from rfm_live.model.codec_stream import StreamingDecoder
from rfm_live.model.cross import CrossCache
from rfm_live.model.delay import delay
from rfm_live.model.sampling import SamplingSettings

FOLDER = Path(__file__).parent / "fixtures" / "audiocraft_tiny_a"
LOGITS = 5e-5  # absolute; logits spread by 3.2, hidden states by 4 to 7
STATES = 1e-4
RELATIVE = 1e-5  # of the waveform's peak

Golden = dict[str, Tensor]


@pytest.fixture(scope="module")
def model() -> MusicGen:
    return load_checkpoint(FOLDER)


@pytest.fixture(scope="module")
def golden() -> Golden:
    with safe_open(FOLDER / "golden.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


@pytest.fixture(scope="module")
def settings() -> dict[str, float]:
    with safe_open(FOLDER / "golden.safetensors", framework="pt") as file:
        read: dict[str, float] = json.loads(file.metadata()["settings"])
        return read


def text_states(golden: Golden) -> tuple[Tensor, Tensor]:
    """The stand-in for T5: states [1, 7, 768], all of whose tokens count."""
    states = golden["text_hidden"]
    return states, torch.ones(states.shape[:2], dtype=torch.bool)


@pytest.fixture(scope="module")
def cross(model: MusicGen, golden: Golden) -> CrossCache:
    return model.decoder.new_cross(*text_states(golden))


@pytest.fixture(scope="module")
def columns(golden: Golden) -> Tensor:
    """The teacher's columns for both rows, with text and without: [2, K, 19]."""
    return golden["teacher_sequence"].expand(2, -1, -1)


def steering(model: MusicGen, golden: Golden, settings: dict[str, float]) -> Tensor:
    """The golden vector at its block, nothing elsewhere: [L, D]."""
    vectors = torch.zeros(model.decoder.config.layers, model.decoder.config.width)
    vectors[int(settings["steer_block"])] = golden["steer_vector"]
    return vectors


def assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert expected.abs().max() > 100 * tolerance
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


def test_every_golden_tensor_is_compared_here(golden: Golden) -> None:
    source = Path(__file__).read_text()
    assert all(f'"{name}"' in source for name in golden)


def test_the_teachers_sequence_is_the_delay_pattern(model: MusicGen, golden: Golden) -> None:
    columns = delay(golden["teacher_codes"], model.decoder.config.pad_id)  # [K, 16 + K]
    assert torch.equal(columns[:, : golden["teacher_sequence"].shape[1]], golden["teacher_sequence"])


def test_what_cross_attention_reads_is_audiocrafts(model: MusicGen, golden: Golden, cross: CrossCache) -> None:
    expected = golden["cross_src"]
    assert not expected[1].any() and cross.rows == 1  # the null condition is exactly zero: a row of its own is not kept
    projection = model.decoder.text_projection
    assert projection is not None
    assert_close(projection(golden["text_hidden"]), expected[:1], 1e-5)


def test_the_first_blocks_input_is_audiocrafts(model: MusicGen, golden: Golden, columns: Tensor) -> None:
    for row in model.decoder.embed(columns, 0):
        assert_close(row, golden["block_input"], 1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("steered", [False, True])
def test_every_blocks_output_is_audiocrafts(
    model: MusicGen, golden: Golden, columns: Tensor, cross: CrossCache, settings: dict[str, float], steered: bool
) -> None:
    expected = golden["steered_hidden_states" if steered else "hidden_states"]  # [L, B, S, D]
    vectors = steering(model, golden, settings) if steered else None
    assert_close(model.decoder.hidden_states(columns, cross, vectors).transpose(0, 1), expected, STATES)


@torch.inference_mode()
@pytest.mark.parametrize("steered", [False, True])
@pytest.mark.parametrize("chunks", [[19], [1] * 19, [6, 1, 12]])
def test_logits_are_audiocrafts_in_any_chunking(
    model: MusicGen,
    golden: Golden,
    columns: Tensor,
    cross: CrossCache,
    settings: dict[str, float],
    chunks: list[int],
    steered: bool,
) -> None:
    expected = golden["steered_teacher_logits" if steered else "teacher_logits"]  # [B, K, S, V]
    vectors = steering(model, golden, settings) if steered else None
    cache, position, logits = model.decoder.new_cache(2, 19), 0, []
    for size in chunks:
        logits.append(model.decoder(columns[:, :, position : position + size], position, cache, cross, vectors))
        position += size
    assert_close(torch.cat(logits, dim=1).transpose(1, 2), expected, LOGITS)


GREEDY = ["greedy_codes", "greedy_codes_cfg1", "steered_greedy_codes"]


@torch.inference_mode()
@pytest.mark.parametrize("name", GREEDY)
def test_the_endless_stream_plays_audiocrafts_codes(
    model: MusicGen, golden: Golden, settings: dict[str, float], name: str
) -> None:
    """All but the last K - 1 frames, which in a clip hear the pad columns of its end."""
    config = model.decoder.config
    guidance = 1.0 if name.endswith("cfg1") else settings["cfg_coef"]
    directions = steering(model, golden, settings)[None]  # [1, L, D]
    stream = TokenStream(model.decoder, directions, SamplingSettings(0.0, 0, guidance), Window.fitting(100))
    stream.set_prompt(text_states(golden))
    knob = np.ones((1, config.layers), dtype=np.float32) if name.startswith("steered") else None
    expected = golden[name][:, : 1 - config.codebooks].numpy()
    codes: list[np.ndarray] = []
    while len(codes) < expected.shape[1]:
        if (frame := stream.step(knob)) is not None:
            codes.append(frame)
    np.testing.assert_array_equal(np.stack(codes, axis=1), expected)


@torch.inference_mode()
@pytest.mark.parametrize("name", GREEDY)
def test_every_code_to_the_clips_end_is_the_likeliest(
    model: MusicGen, golden: Golden, cross: CrossCache, settings: dict[str, float], name: str
) -> None:
    codes = golden[name]
    columns = delay(codes, model.decoder.config.pad_id).expand(2, -1, -1)  # [2, K, S]
    vectors = steering(model, golden, settings) if name.startswith("steered") else None
    logits = model.decoder(columns, 0, model.decoder.new_cache(2, columns.shape[2]), cross, vectors)  # [2, S, K, V]
    guided = logits[0] if name.endswith("cfg1") else logits[1] + settings["cfg_coef"] * (logits[0] - logits[1])
    for k, row in enumerate(codes):
        assert torch.equal(guided[k : k + len(row), k].argmax(-1), row)


@torch.inference_mode()
def test_latents_and_samples_are_audiocrafts(model: MusicGen, golden: Golden) -> None:
    codes, expected = golden["greedy_codes"], golden["greedy_wave"]
    assert_close(model.codec.quantizer.decode(codes[None])[0], golden["greedy_latents"], 1e-6)
    tolerance = RELATIVE * float(expected.abs().max())
    assert_close(model.codec.decode(codes[None])[0], expected, tolerance)
    decoder = StreamingDecoder(model.codec)
    streamed = [decoder.push(codes[:, frame : frame + 1]) for frame in range(codes.shape[1])]
    assert_close(torch.cat([*streamed, decoder.flush()])[None], expected, tolerance)


@torch.inference_mode()
def test_the_encoder_gives_audiocrafts_codes(model: MusicGen, golden: Golden) -> None:
    assert torch.equal(model.codec.encode(golden["wave"][None])[0], golden["wave_codes"])
