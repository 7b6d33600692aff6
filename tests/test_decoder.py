"""The decoder, against transformers' MusicGen on the same weights; and what steering does and does not change."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import MusicgenForConditionalGeneration

from rfm_live.model.checkpoint import MusicGen, load_checkpoint
from rfm_live.model.cross import CrossCache
from rfm_live.model.decoder import Decoder, KVCache
from tests.tiny import tiny_checkpoint

SIZES: dict[str, dict[str, Any]] = {
    "one layer, one head": {"width": 64, "layers": 1, "heads": 1},
    "tiny": {"width": 128, "layers": 3, "heads": 2},
    "three heads, two codebooks": {"width": 192, "layers": 2, "heads": 3, "codebooks": 2, "ffn_width": 100},
    "deep": {"width": 256, "layers": 8, "heads": 4, "ffn_width": 512, "codebook_size": 512},
    "text as wide as the decoder": {"width": 64, "layers": 2, "heads": 1, "text_width": 64},
}


def _reference(path: Path) -> Any:
    model: torch.nn.Module = MusicgenForConditionalGeneration.from_pretrained(path)
    return model.eval()


@pytest.fixture(scope="module", params=SIZES.values(), ids=list(SIZES))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Decoder, Any]:
    """Our decoder and transformers' whole model, with the same weights."""
    path = tiny_checkpoint(tmp_path_factory.mktemp("decoder"), **request.param)
    return load_checkpoint(path).decoder, _reference(path)


def _text(decoder: Decoder, tokens: int = 9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    states = torch.randn(1, tokens, decoder.config.text_width, generator=generator)
    return states, torch.ones(1, tokens, dtype=torch.bool)


def _columns(decoder: Decoder, rows: int, length: int) -> Tensor:
    config = decoder.config
    generator = torch.Generator().manual_seed(length)
    columns = torch.randint(0, config.vocab + 1, (rows, config.codebooks, length), generator=generator)
    columns[:, :, 0] = config.pad_id
    return columns


def _expected(reference: Any, columns: Tensor, states: Tensor, mask: Tensor) -> Tensor:
    """Transformers' logits of one full pass: [B, T, K, V]."""
    rows, codebooks, length = columns.shape
    with torch.no_grad():
        logits = reference(
            encoder_outputs=(states,), attention_mask=mask.long(), decoder_input_ids=columns.flatten(0, 1)
        ).logits
    return logits.view(rows, codebooks, length, -1).permute(0, 2, 1, 3)  # type: ignore[no-any-return]


@torch.no_grad()
def _in_steps(decoder: Decoder, columns: Tensor, cross: CrossCache | None, sizes: list[int]) -> Tensor:
    """Our logits, the columns read in chunks of the given sizes: [B, T, K, V]."""
    cache = decoder.new_cache(columns.shape[0], columns.shape[2] + 3)
    logits, position = [], 0
    for size in sizes:
        logits.append(decoder(columns[:, :, position : position + size], position, cache, cross))
        position += size
    return torch.cat(logits, dim=1)


def test_logits_match_transformers_in_any_chunking(pair: tuple[Decoder, Any]) -> None:
    decoder, reference = pair
    columns = _columns(decoder, 1, 23)
    states, mask = _text(decoder)
    expected = _expected(reference, columns, states, mask)
    assert expected.std() > 0.5  # flat logits would agree for no reason
    cross = decoder.new_cross(states, mask)
    for sizes in ([23], [1] * 23, [5, 1, 1, 9, 7]):
        torch.testing.assert_close(_in_steps(decoder, columns, cross, sizes), expected, atol=1e-4, rtol=0)


def test_guidance_rows_match_transformers(pair: tuple[Decoder, Any]) -> None:
    decoder, reference = pair
    columns = _columns(decoder, 1, 17).repeat(2, 1, 1)
    states, mask = _text(decoder)
    doubled = torch.cat((states, torch.zeros_like(states))), torch.cat((mask, torch.zeros_like(mask)))
    expected = _expected(reference, columns, *doubled)
    for cross in (decoder.new_cross(states, mask), decoder.new_cross(*doubled)):
        assert cross.rows == 1
        torch.testing.assert_close(_in_steps(decoder, columns, cross, [8] + [1] * 9), expected, atol=1e-4, rtol=0)


def test_padded_prompts_match_transformers(pair: tuple[Decoder, Any]) -> None:
    decoder, reference = pair
    columns = _columns(decoder, 2, 6)
    states = torch.cat((_text(decoder, 7)[0], _text(decoder, 7)[0].flip(1)))
    mask = torch.tensor([[True] * 7, [True] * 3 + [False] * 4])
    expected = _expected(reference, columns, states, mask)
    actual = _in_steps(decoder, columns, decoder.new_cross(states, mask), [2, 1, 3])
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_zero_steering_is_the_unsteered_model(tiny_model: MusicGen) -> None:
    decoder = tiny_model.decoder
    config = decoder.config
    columns, cross = _columns(decoder, 2, 12), decoder.new_cross(*_text(decoder))
    plain = decoder(columns, 0, decoder.new_cache(2, 12), cross)
    for shape in ((), (12,), (2, 12)):
        zeros = torch.zeros(*shape, config.layers, config.width)
        assert torch.equal(decoder(columns, 0, decoder.new_cache(2, 12), cross, zeros), plain)


@torch.no_grad()
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_vector_moves_its_block_output_by_exactly_that(tiny_model: MusicGen, layer: int) -> None:
    decoder = tiny_model.decoder
    columns, cross = _columns(decoder, 1, 9), decoder.new_cross(*_text(decoder))
    steering = torch.zeros(decoder.config.layers, decoder.config.width)
    steering[layer] = torch.randn(decoder.config.width)
    plain = decoder.hidden_states(columns, cross)  # [B, L, T, D]
    steered = decoder.hidden_states(columns, cross, steering)
    assert torch.equal(steered[:, :layer], plain[:, :layer])
    assert torch.equal(steered[:, layer], plain[:, layer] + steering[layer])
    assert not torch.allclose(steered[:, layer + 1 :], plain[:, layer + 1 :]) or layer == decoder.config.layers - 1


@torch.no_grad()
def test_steering_per_column_equals_steering_step_by_step(tiny_model: MusicGen) -> None:
    decoder = tiny_model.decoder
    config = decoder.config
    columns, cross = _columns(decoder, 2, 10), decoder.new_cross(*_text(decoder))
    steering = torch.randn(10, config.layers, config.width)
    at_once = decoder(columns, 0, decoder.new_cache(2, 10), cross, steering)
    cache = decoder.new_cache(2, 10)
    steps = [decoder(columns[:, :, t : t + 1], t, cache, cross, steering[t]) for t in range(10)]
    torch.testing.assert_close(torch.cat(steps, dim=1), at_once, atol=1e-4, rtol=0)
    per_row = torch.stack((steering, torch.zeros_like(steering)))  # only the row with text
    mixed = decoder(columns, 0, decoder.new_cache(2, 10), cross, per_row)
    torch.testing.assert_close(mixed[0], at_once[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(mixed[1], decoder(columns, 0, decoder.new_cache(2, 10), cross)[1], atol=1e-4, rtol=0)


@torch.no_grad()
def test_hidden_states_are_transformers_block_outputs(tiny_path: Path, tiny_model: MusicGen) -> None:
    decoder, reference = tiny_model.decoder, _reference(tiny_path)
    columns = _columns(decoder, 1, 14)
    states, mask = _text(decoder)
    outputs: list[Tensor] = []
    for block in reference.decoder.model.decoder.layers:
        block.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    _expected(reference, columns, states, mask)
    actual = decoder.hidden_states(columns, decoder.new_cross(states, mask))
    torch.testing.assert_close(actual, torch.stack(outputs, dim=1), atol=1e-4, rtol=0)


@torch.no_grad()
def test_going_back_to_an_earlier_position_repeats_the_same_bits(tiny_model: MusicGen) -> None:
    decoder = tiny_model.decoder
    columns, cross = _columns(decoder, 1, 20), decoder.new_cross(*_text(decoder))
    cache = decoder.new_cache(1, 20)

    def run(start: int) -> list[Tensor]:
        return [decoder(columns[:, :, t : t + 1], t, cache, cross) for t in range(start, 20)]

    first = run(0)
    copy = decoder.new_cache(1, 20).copy_(cache)
    assert all(torch.equal(a, b) for a, b in zip(first[8:], run(8), strict=True))
    assert torch.equal(copy.keys, cache.keys) and torch.equal(copy.values, cache.values)


def test_a_model_without_text_needs_no_cross_cache(tiny_path: Path, tiny_model: MusicGen) -> None:
    decoder = tiny_model.decoder
    columns = _columns(decoder, 1, 8)
    states, mask = _text(decoder)
    expected = _expected(_reference(tiny_path), columns, torch.zeros_like(states), torch.zeros_like(mask))
    torch.testing.assert_close(_in_steps(decoder, columns, None, [3, 5]), expected, atol=1e-4, rtol=0)


def test_columns_beyond_the_cache_are_refused(tiny_model: MusicGen) -> None:
    decoder = tiny_model.decoder
    cache: KVCache = decoder.new_cache(1, 4)
    assert cache.keys.shape == (3, 1, 2, 4, 64) and (cache.rows, cache.length) == (1, 4)
    with pytest.raises(ValueError, match=r"columns 3\.\.4 do not fit a cache of 4"):
        decoder(_columns(decoder, 1, 2), 3, cache, None)
    with pytest.raises(ValueError, match=r"cache length is 513, expected 1\.\.512"):
        decoder.new_cache(1, 513)


def test_a_null_row_before_a_text_row_is_refused(tiny_model: MusicGen) -> None:
    states, mask = _text(tiny_model.decoder)
    with pytest.raises(ValueError, match="a row without text stands before"):
        tiny_model.decoder.new_cross(states.repeat(2, 1, 1), torch.cat((torch.zeros_like(mask), mask)))
