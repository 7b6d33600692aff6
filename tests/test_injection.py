"""Modes, sites and rows of steering: against the kernels' specification, forward hooks, and what stays exact."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from rfm_kernels import plain
from rfm_kernels.buffers import Injection
from torch import Tensor, nn
from transformers import MusicgenForConditionalGeneration

from rfm_live.engine.played import PlayedSteering
from rfm_live.engine.stream import TokenStream, Window
from rfm_live.model.checkpoint import MusicGen
from rfm_live.model.decoder import Decoder
from rfm_live.model.injection import Injections
from rfm_live.model.sampling import SamplingSettings, guide, sample
from rfm_live.steering.frame import FrameSteering, Mode, Site

CONCEPTS = 7
LAYERS, WIDTH = 3, 128
SETTINGS = SamplingSettings(guidance=3.0, top_k=8, seed=3)


def unit_directions() -> Tensor:
    drawn = torch.randn(CONCEPTS, LAYERS, WIDTH, generator=torch.Generator().manual_seed(6))
    return nn.functional.normalize(drawn, dim=-1)


def drawn_frame(seed: int, site: Site | None = Site.BLOCK_OUTPUT, mode: Mode | None = None) -> FrameSteering:
    """A frame with every mode at every site, or with one of them; about a third of the concepts are off."""
    rng = np.random.default_rng(seed)
    strengths = rng.normal(size=(CONCEPTS, LAYERS)) * (rng.random((CONCEPTS, 1)) < 0.7)
    return FrameSteering(
        coefficients=strengths.astype(np.float32),
        mode=rng.integers(len(Mode), size=CONCEPTS, dtype=np.int32) if mode is None else np.full(CONCEPTS, mode),
        target=rng.normal(size=(CONCEPTS, LAYERS)).astype(np.float32),
        site=rng.integers(len(Site), size=CONCEPTS, dtype=np.int32) if site is None else np.full(CONCEPTS, site),
        is_text_only=rng.random(CONCEPTS) < 0.4,
    )


def read_back(frames: list[FrameSteering | None], rows: int) -> Injections | None:
    played = PlayedSteering(unit_directions(), 20)
    for column, frame in enumerate(frames, start=15):  # around the ring's end
        played.record(column, frame)
    return played.injections(15, 15 + len(frames), rows)


def specified(frame: FrameSteering, h: Tensor, layer: int, is_text_row: bool) -> Tensor:
    """`plain.add_inject_norm`'s stream for one row h [D], which it takes as a sum with zero."""
    assert frame.mode is not None and frame.target is not None and frame.is_text_only is not None
    acts = np.ones(CONCEPTS, bool) if is_text_row else ~frame.is_text_only
    injection = Injection(
        eta=torch.from_numpy(frame.coefficients[:, layer] * acts)[None],
        gate=torch.ones(1, CONCEPTS),
        mode=torch.from_numpy(frame.mode.astype(np.int32))[None],
        target=torch.from_numpy(frame.target.T.copy())[None],
        layer_weights=torch.ones(LAYERS, CONCEPTS),
        directions=unit_directions().transpose(0, 1).contiguous(),
    )
    at = torch.tensor([layer], dtype=torch.int32)
    stream, _ = plain.add_inject_norm(h[None], torch.zeros(1, WIDTH), nn.LayerNorm(WIDTH), injection, at)
    return stream[0]


@pytest.mark.parametrize("mode", [None, *Mode])
@pytest.mark.parametrize("rows", [1, 2])
@torch.no_grad()
def test_columns_of_different_frames_are_steered_as_specified(mode: Mode | None, rows: int) -> None:
    frames = [drawn_frame(1, mode=mode), None, drawn_frame(2, mode=mode), drawn_frame(3, mode=mode)]
    injections = read_back(list(frames), rows)
    assert injections is not None and injections.block is not None
    assert injections.attention is injections.ffn is None
    h = torch.randn(rows, len(frames), WIDTH, generator=torch.Generator().manual_seed(8)) * 2
    for layer in range(LAYERS):
        steered = injections.block.inject(h, layer)
        for row in range(rows):
            for t, frame in enumerate(frames):
                expected = h[row, t] if frame is None else specified(frame, h[row, t], layer, row == 0)
                torch.testing.assert_close(steered[row, t], expected, atol=2e-5, rtol=0)
        assert torch.equal(steered[:, 1], h[:, 1])  # the frame without steering, bit for bit


def test_a_clamp_of_strength_one_reaches_its_target() -> None:
    target = np.full((CONCEPTS, LAYERS), 1.25, np.float32)
    strengths = np.zeros((CONCEPTS, LAYERS), np.float32)
    strengths[4] = 1.0
    injections = read_back([FrameSteering(strengths, np.full(CONCEPTS, Mode.CLAMP), target)], 1)
    assert injections is not None and injections.block is not None
    steered = injections.block.inject(torch.randn(1, 1, WIDTH), 2)
    assert float(steered[0, 0] @ unit_directions()[4, 2]) == pytest.approx(1.25, abs=1e-5)


def test_a_frame_that_steers_nothing_is_no_steering() -> None:
    closed = np.zeros((CONCEPTS, LAYERS), np.float32)
    assert read_back([FrameSteering(closed), None, FrameSteering(closed, np.full(CONCEPTS, Mode.BLEND))], 2) is None


def test_a_frame_for_another_bank_is_refused() -> None:
    with pytest.raises(ValueError, match=r"coefficients are \(2, 3\), expected \(7, 3\)"):
        read_back([FrameSteering(np.ones((2, 3), np.float32))], 1)
    with pytest.raises(ValueError, match=r"mode is \(4,\), expected \(2,\)"):
        FrameSteering(np.ones((2, 3), np.float32), mode=np.zeros(4, np.int32))
    with pytest.raises(ValueError, match=r"coefficients are \(3,\), expected \[C, L\]"):
        FrameSteering(np.ones(3, np.float32))


def hooked_logits(reference: nn.Module, columns: Tensor, states: Tensor, injections: Injections) -> Tensor:
    """Transformers' logits [1, T, K, V] with forward hooks at the three sites."""

    def steering(site: object, layer: int) -> Callable[..., object]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> object:
            if isinstance(output, tuple):
                return (site.inject(output[0], layer), *output[1:])  # type: ignore[attr-defined]
            return site.inject(output, layer)  # type: ignore[attr-defined]

        return hook

    for layer, block in enumerate(reference.decoder.model.decoder.layers):  # type: ignore[union-attr]
        for module, site in (
            (block.self_attn, injections.attention),
            (block.fc2, injections.ffn),
            (block, injections.block),
        ):
            module.register_forward_hook(steering(site, layer))
    rows, codebooks, length = columns.shape
    mask = torch.ones(states.shape[:2], dtype=torch.long)
    output = reference(encoder_outputs=(states,), attention_mask=mask, decoder_input_ids=columns.flatten(0, 1))
    logits: Tensor = output.logits.view(rows, codebooks, length, -1).permute(0, 2, 1, 3)
    return logits


@torch.no_grad()
def test_every_site_is_the_output_of_transformers_module_of_that_name(tiny_path: Path, tiny_model: MusicGen) -> None:
    decoder = tiny_model.decoder
    assert (decoder.config.layers, decoder.config.width) == (LAYERS, WIDTH)
    reference = MusicgenForConditionalGeneration.from_pretrained(tiny_path).eval()
    generator = torch.Generator().manual_seed(4)
    columns = torch.randint(0, decoder.config.vocab, (1, decoder.config.codebooks, 9), generator=generator)
    states = torch.randn(1, 6, decoder.config.text_width, generator=generator)
    injections = read_back([drawn_frame(seed, site=None) for seed in range(9)], 1)
    assert injections is not None
    assert all(site is not None for site in injections)
    cross = decoder.new_cross(states, torch.ones(1, 6, dtype=torch.bool))
    plain_logits = decoder(columns, 0, decoder.new_cache(1, 9), cross)
    actual = decoder(columns, 0, decoder.new_cache(1, 9), cross, injections)
    assert (actual - plain_logits).abs().max() > 0.5
    torch.testing.assert_close(actual, hooked_logits(reference, columns, states, injections), atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def prompted(tiny_model: MusicGen) -> tuple[Decoder, tuple[Tensor, Tensor]]:
    states = torch.randn(1, 5, tiny_model.decoder.config.text_width, generator=torch.Generator().manual_seed(7))
    return tiny_model.decoder, (states, torch.ones(1, 5, dtype=torch.bool))


def new_stream(prompted: tuple[Decoder, tuple[Tensor, Tensor]]) -> TokenStream:
    decoder, prompt = prompted
    stream = TokenStream(decoder, unit_directions(), SETTINGS, Window(40, 14, 6, 3))
    stream.set_prompt(prompt)
    return stream


def test_a_context_that_is_read_again_is_steered_as_it_was_played(
    prompted: tuple[Decoder, tuple[Tensor, Tensor]],
) -> None:
    decoder, prompt = prompted
    stream, frames = new_stream(prompted), [drawn_frame(seed, site=None) if seed % 3 else None for seed in range(60)]
    for frame in frames:
        stream.step(frame)
    state = stream.copy_state()
    assert state.base > 0
    where = np.arange(state.base, 60)
    columns = state.columns[where % len(state.columns)].T.copy()  # [K, T]
    for k in range(decoder.config.codebooks):
        columns[k, : k + 1] = decoder.config.pad_id
    played = PlayedSteering(unit_directions(), 60)
    for column, frame in enumerate(frames):
        played.record(column, frame)
    with torch.inference_mode():
        logits = decoder(
            torch.from_numpy(columns).expand(2, -1, -1),
            0,
            decoder.new_cache(2, len(where)),
            decoder.new_cross(*prompt),
            played.injections(state.base, 60, 2),
        )
    expected = sample(guide(logits[:, -1].numpy(), SETTINGS.guidance), SETTINGS, 59)
    assert state.columns[60 % len(state.columns)].tolist() == expected.tolist()


def test_plain_frames_are_their_coefficients(prompted: tuple[Decoder, tuple[Tensor, Tensor]]) -> None:
    by_array, by_frame = new_stream(prompted), new_stream(prompted)
    none = np.zeros(CONCEPTS, np.int32)
    for step in range(80):
        weights = drawn_frame(step).coefficients
        weights[:] *= step % 5 != 0
        codes = by_array.step(weights)
        same = by_frame.step(FrameSteering(weights, mode=none, site=none, is_text_only=none.astype(bool)))
        assert codes is same is None or codes.tolist() == same.tolist()  # type: ignore[union-attr]


def test_a_concept_for_the_row_with_text_leaves_the_other_alone(
    prompted: tuple[Decoder, tuple[Tensor, Tensor]],
) -> None:
    steered, plain_stream = new_stream(prompted), new_stream(prompted)
    strong = np.full((CONCEPTS, LAYERS), 1.5, np.float32)
    for _ in range(12):
        steered.step(FrameSteering(strong, is_text_only=np.ones(CONCEPTS, bool)))
        plain_stream.step()
        both, none = steered.copy_state(), plain_stream.copy_state()
        if both.column == 1:  # the first column is all pad in either
            assert torch.equal(both.cache[:, :, 1], none.cache[:, :, 1])
            assert not torch.equal(both.cache[:, 1:, 0], none.cache[:, 1:, 0])


def test_a_restored_stream_remembers_how_it_was_steered(prompted: tuple[Decoder, tuple[Tensor, Tensor]]) -> None:
    stream = new_stream(prompted)
    for step in range(20):
        stream.step(drawn_frame(step, site=None))
    state = stream.copy_state()
    first = [stream.step().tolist() for _ in range(40)]  # type: ignore[union-attr]
    stream.forget()
    stream.step()
    other = new_stream(prompted)
    other.restore_state(state)
    assert [other.step().tolist() for _ in range(40)] == first  # type: ignore[union-attr]
