"""Parity with transformers' MusicGen on the same stored weights: text, logits, greedy music, samples, pipeline.

Every checkpoint is saved by transformers, in fp32, fp16 or bf16, and read back by both sides. Both compute in fp32, and
our own decoder in float64 is the referee: each side stays within 1e-4 of it, and every greedy choice is clear by more
than rounding, so equal tokens are no luck of one machine.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import MusicgenForConditionalGeneration, pipeline

from rfm_live.engine.stream import TokenStream, Window
from rfm_live.model.checkpoint import MusicGen, load_checkpoint
from rfm_live.model.delay import delay
from rfm_live.model.sampling import SamplingSettings
from tests.oracle import greedy_music
from tests.tiny import tiny_checkpoint, tiny_tokenizer

FRAMES = 502
TOLERANCE = 1e-4
CLEAR = 5e-5  # by so much the greedy choice must win in float64; both sides' rounding is an order below
LONG = "dark drums and a bright piano in a minor key, 90 bpm, then a calmer bridge with strings and a low bell"


@dataclass(frozen=True)
class Case:
    """One checkpoint, stored in `dtype`, and how it is played."""

    sizes: dict[str, Any]
    guidance: float
    prompt: str
    dtype: torch.dtype = torch.float32


CASES = {
    "one layer, one head": Case({"width": 64, "layers": 1, "heads": 1}, 1, "calm"),
    "four heads, long prompt": Case({"width": 64, "layers": 2, "heads": 4}, 3, LONG),
    "two codebooks in fp16": Case(
        {"width": 96, "layers": 3, "heads": 3, "codebooks": 2, "ffn_width": 100}, 3, "a", torch.float16
    ),
    "bf16, long prompt": Case({"width": 128, "layers": 2, "heads": 2}, 1, LONG, torch.bfloat16),
    "text as wide as the decoder": Case(
        {"width": 48, "layers": 6, "heads": 2, "text_width": 48, "seed": 3}, 3, "calm piano", torch.bfloat16
    ),
    "deep": Case({"width": 256, "layers": 6, "heads": 4, "ffn_width": 512, "codebook_size": 512}, 3, "bright minor"),
    "five heads, MusicGen's codec": Case(
        {"width": 40, "layers": 3, "heads": 5, "causal": False, "pad_mode": "reflect"}, 2.5, "x, 120 bpm", torch.float16
    ),
}


@dataclass(frozen=True)
class Performance:
    """One case played greedily: our codes [K, FRAMES]; transformers' codes [K, T], T > FRAMES, and their samples."""

    case: Case
    path: Path
    model: MusicGen
    reference: Any
    our_codes: Tensor
    their_codes: Tensor
    their_samples: Tensor


@pytest.fixture(scope="module", params=CASES.values(), ids=list(CASES))
def performance(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Performance:
    case: Case = request.param
    path = tiny_checkpoint(tmp_path_factory.mktemp("parity"), dtype=case.dtype, **case.sizes)
    reference: Any = MusicgenForConditionalGeneration.from_pretrained(path, dtype=torch.float32).eval()
    model = load_checkpoint(path)
    tokens = tiny_tokenizer()(case.prompt, return_tensors="pt")
    codes, samples = greedy_music(reference, tokens, FRAMES, case.guidance)
    return Performance(case, path, model, reference, stream_codes(model, case), codes, samples)


@torch.inference_mode()
def stream_codes(model: MusicGen, case: Case) -> Tensor:
    """What our endless stream plays greedily in its first window: codes [K, FRAMES]."""
    config = model.config.decoder
    directions = torch.zeros(0, config.layers, config.width)
    stream = TokenStream(model.decoder, directions, SamplingSettings(0.0, 0, case.guidance), Window.fitting(512))
    stream.set_prompt(model.text_encoder().encode(case.prompt))
    codes: list[np.ndarray] = []
    while len(codes) < FRAMES:
        if (frame := stream.step()) is not None:
            codes.append(frame)
    return torch.from_numpy(np.stack(codes, axis=1))


def rows_and_text(performance: Performance, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The columns [B, K, S], states [B, S', text_width] and mask [B, S'] of the case's guidance: one row or two."""
    encoded = performance.model.text_encoder().encode(performance.case.prompt)
    assert encoded is not None
    states, mask = encoded
    if performance.case.guidance == 1:
        return columns[None], states, mask
    doubled = torch.cat((states, torch.zeros_like(states))), torch.cat((mask, torch.zeros_like(mask)))
    return columns.expand(2, -1, -1), *doubled


@torch.inference_mode()
def our_logits(model: MusicGen, columns: Tensor, states: Tensor, mask: Tensor) -> Tensor:
    """One pass of our decoder over [B, K, S] -> [B, S, K, V]."""
    cross = model.decoder.new_cross(states, mask)
    return model.decoder(columns, 0, model.decoder.new_cache(columns.shape[0], columns.shape[2]), cross)


def test_greedy_music_is_transformers_music(performance: Performance) -> None:
    theirs = performance.their_codes[:, :FRAMES]
    assert theirs.shape[1] == FRAMES >= 500
    assert torch.equal(performance.our_codes, theirs)
    assert torch.unique(theirs, dim=1).shape[1] > 50  # frames: not stuck on a few


def test_samples_are_transformers_samples(performance: Performance) -> None:
    with torch.inference_mode():
        ours = performance.model.codec.decode(performance.their_codes[None])[0, 0]
    torch.testing.assert_close(ours, performance.their_samples, atol=1e-6, rtol=0)


def test_text_states_are_transformers_states(performance: Performance) -> None:
    encoded = performance.model.text_encoder().encode(performance.case.prompt)
    assert encoded is not None
    tokens = tiny_tokenizer()(performance.case.prompt, return_tensors="pt")
    with torch.inference_mode():
        expected = performance.reference.text_encoder(**tokens).last_hidden_state
    torch.testing.assert_close(encoded[0], expected, atol=1e-6, rtol=0)
    assert encoded[1].all() and encoded[1].shape == tokens.input_ids.shape


def test_logits_of_both_sides_are_those_of_the_float64_referee(performance: Performance) -> None:
    config = performance.model.config.decoder
    played = delay(performance.their_codes[:, :FRAMES], config.pad_id)[:, :FRAMES]  # [K, S]
    columns, states, mask = rows_and_text(performance, played)
    with torch.inference_mode():
        theirs = performance.reference(
            encoder_outputs=(states,), attention_mask=mask.long(), decoder_input_ids=columns.flatten(0, 1)
        ).logits
    theirs = theirs.view(*columns.shape, -1).permute(0, 2, 1, 3)  # [B, S, K, V]
    ours = our_logits(performance.model, columns, states, mask)
    referee = our_logits(load_checkpoint(performance.path, dtype=torch.float64), columns, states, mask)
    assert theirs.std() > 0.5  # flat logits would agree for no reason
    for side in (ours, theirs):
        torch.testing.assert_close(side, referee, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)

    guided = referee[0] if len(referee) == 1 else referee[1] + performance.case.guidance * (referee[0] - referee[1])
    for k in range(config.codebooks):
        best = guided[k:, k].topk(2)  # [S - k, 2]: column s chooses the codes of column s + 1
        assert torch.equal(best.indices[:-1, 0], played[k, k + 1 :])
        assert (best.values[:, 0] - best.values[:, 1]).min() > CLEAR


def test_the_pipeline_of_transformers_plays_a_checkpoint_that_we_play(tiny_path: Path, tiny_model: MusicGen) -> None:
    player = pipeline("text-to-audio", model=str(tiny_path), dtype=torch.float32)
    answer = player("calm piano", generate_kwargs={"do_sample": False, "guidance_scale": 3.0, "max_new_tokens": 36})
    case = Case({}, 3.0, "calm piano")
    ours = stream_codes(tiny_model, case)[:, :30]
    with torch.inference_mode():
        samples = tiny_model.codec.decode(ours[None])[0, 0].numpy()
    assert answer["sampling_rate"] == tiny_model.config.sample_rate
    np.testing.assert_allclose(np.ravel(answer["audio"])[: len(samples)], samples, atol=1e-6)
