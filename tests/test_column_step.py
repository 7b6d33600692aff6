"""Steps of one column on a CPU: the same logits as the plain pass, and nothing read or computed that is not needed."""

import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rfm_live.engine.played import PlayedSteering
from rfm_live.engine.stream import TokenStream, Window
from rfm_live.errors import StartError
from rfm_live.model.column_step import ColumnStep, compiled
from rfm_live.model.config import DecoderConfig
from rfm_live.model.cross import CrossCache
from rfm_live.model.decoder import Decoder
from rfm_live.model.injection import Injections
from rfm_live.model.products import LEAST_PACKED, product_in
from rfm_live.model.sampling import SamplingSettings
from rfm_live.steering.frame import FrameSteering, Mode, Site

SIZES: dict[str, dict[str, Any]] = {
    "as the embedded checkpoint": {"width": 256, "layers": 3, "heads": 4, "ffn_width": 1024},
    "one head, odd feed-forward": {"width": 64, "layers": 1, "heads": 1, "ffn_width": 97},
    "packed products": {"width": 1024, "layers": 2, "heads": 16, "ffn_width": 2048},
    "weights that are fp16 values": {"width": 512, "layers": 2, "heads": 8, "ffn_width": 1024, "is_half": True},
}
ROWS = pytest.mark.parametrize("rows, text_rows", [(1, 0), (1, 1), (2, 1), (2, 2), (3, 0)])


def made(width: int, layers: int, heads: int, ffn_width: int, is_half: bool = False) -> Decoder:
    torch.manual_seed(5)
    config = DecoderConfig(width, layers, heads, ffn_width, codebooks=4, vocab=40, text_width=24, max_positions=64)
    decoder = Decoder(config).eval().requires_grad_(False)
    decoder.embedding.weight.normal_()  # made empty, for a checkpoint to fill
    for block in decoder.layers:
        for norm in (block.self_norm, block.cross_norm, block.ffn_norm):
            torch.nn.init.normal_(norm.weight, 1.0, 0.3)
            torch.nn.init.normal_(norm.bias, 0.0, 0.3)
    return decoder.half().float() if is_half else decoder


@pytest.fixture(scope="module", params=SIZES.values(), ids=list(SIZES))
def decoder(request: pytest.FixtureRequest) -> Decoder:
    return made(**request.param)


@pytest.fixture(scope="module")
def small() -> Decoder:
    return made(64, 3, 2, 128)


def text(decoder: Decoder, rows: int, tokens: int = 6, hidden: int = 0) -> CrossCache:
    states = torch.randn(rows, tokens, decoder.config.text_width, generator=torch.Generator().manual_seed(7))
    mask = torch.ones(rows, tokens, dtype=torch.bool)
    mask[:, tokens - hidden :] = False
    return decoder.new_cross(states, mask)


def columns_of(decoder: Decoder, rows: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(length)
    return torch.randint(0, decoder.config.vocab + 1, (rows, decoder.config.codebooks, length), generator=generator)


def mixed_injections(decoder: Decoder, rows: int) -> Injections:
    """Every mode at every site, some of it in the row with text only."""
    rng, (concepts, layers) = np.random.default_rng(3), (9, decoder.config.layers)
    directions = torch.randn(concepts, layers, decoder.config.width, generator=torch.Generator().manual_seed(8))
    played = PlayedSteering(torch.nn.functional.normalize(directions, dim=-1), 4)
    frame = FrameSteering(
        rng.normal(size=(concepts, layers)).astype(np.float32),
        mode=np.arange(concepts, dtype=np.int32) % len(Mode),
        site=np.arange(concepts, dtype=np.int32) // len(Site),
        is_text_only=rng.random(concepts) < 0.4,
    )
    played.record(0, frame)
    injections = played.injections(0, 1, rows)
    assert injections is not None
    return injections


def both_ways(
    decoder: Decoder, rows: int, cross: CrossCache | None, steering: Tensor | Injections | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits [B, 1, K, V] and keys and values after nine columns and a tenth: prepared, and by the plain pass."""
    before = columns_of(decoder, rows, 9)
    last = columns_of(decoder, 1, 1).expand(rows, -1, -1)
    made = []
    with torch.inference_mode():
        for precision in ("fp32", None):
            decoder._column_step, decoder._precision = None, None
            if precision is not None:
                decoder.prepare(precision)
                assert decoder._column_step is not None
            cache = decoder.new_cache(rows, 20)
            decoder(before, 0, cache, cross)
            made += [decoder(last, 9, cache, cross, steering), cache.kv]
    return made[0], made[2], made[1], made[3]


@ROWS
def test_a_prepared_step_is_the_plain_pass_but_for_rounding(decoder: Decoder, rows: int, text_rows: int) -> None:
    cross = text(decoder, text_rows) if text_rows else None
    actual, expected, cache, plain_cache = both_ways(decoder, rows, cross)
    assert expected.std() > 0.3
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(cache, plain_cache, atol=2e-5, rtol=0)


@pytest.mark.parametrize("tokens, hidden", [(1, 0), (31, 0), (32, 0), (40, 0), (9, 3), (40, 20)])
def test_texts_of_any_length_are_folded_or_not_to_the_same_logits(small: Decoder, tokens: int, hidden: int) -> None:
    cross = text(small, 1, tokens, hidden)
    assert (cross.folded is not None) == (tokens - hidden < small.config.head_width)
    actual, expected, _, _ = both_ways(small, 2, cross)
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("rows", [1, 2])
def test_a_prepared_step_is_steered_at_every_site(decoder: Decoder, rows: int) -> None:
    cross, injections = text(decoder, 1), mixed_injections(decoder, rows)
    actual, expected, _, _ = both_ways(decoder, rows, cross, injections)
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)
    unsteered, _, _, _ = both_ways(decoder, rows, cross)
    assert (actual - unsteered).abs().max() > 0.1


def test_a_zero_vector_leaves_a_prepared_step_bit_for_bit(decoder: Decoder) -> None:
    cross = text(decoder, 1)
    plain, _, _, _ = both_ways(decoder, 2, cross)
    for shape in ((), (1,), (2, 1)):
        zeros = torch.zeros(*shape, decoder.config.layers, decoder.config.width)
        assert torch.equal(both_ways(decoder, 2, cross, zeros)[0], plain)


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="TorchScript has no support for this Python")
@pytest.mark.parametrize("tokens", [6, 40])
def test_a_compiled_step_is_the_same_step_in_python_bit_for_bit(decoder: Decoder, tokens: int) -> None:
    plain, columns, cross = ColumnStep(decoder, product_in("fp32")), columns_of(decoder, 2, 9), text(decoder, 1, tokens)
    quick = compiled(plain)
    pushing = Injections.pushing(torch.randn(decoder.config.layers, decoder.config.width))
    for sites in (Injections(), pushing, mixed_injections(decoder, 2)):
        found = []
        with torch.inference_mode():
            for step in (plain, quick):
                cache = decoder.new_cache(2, 12)
                logits = [step(columns[:, :, t : t + 1], t, cache.kv, cross, sites) for t in range(9)]
                found.append((torch.stack(logits), cache.kv))
        assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
        assert found[0][0].std() > 0.3


def test_the_packed_size_is_packed() -> None:
    size = SIZES["packed products"]
    assert size["width"] * size["ffn_width"] >= LEAST_PACKED


@pytest.mark.parametrize("precision, most", [("fp16", 1e-3), ("int8", 0.3)])
def test_fewer_bytes_cost_little_of_the_logits(precision: str, most: float) -> None:
    decoder = made(512, 2, 8, 2048)
    cross, columns = text(decoder, 1), columns_of(decoder, 1, 1).expand(2, -1, -1)
    with torch.inference_mode():
        exact = decoder(columns, 0, decoder.new_cache(2, 4), cross)
        decoder.prepare(precision)
        assert decoder.precision == precision
        error = float((decoder(columns, 0, decoder.new_cache(2, 4), cross) - exact).norm() / exact.norm())
    assert 0 < error < most


def test_a_precision_that_there_is_not_is_refused(small: Decoder) -> None:
    with pytest.raises(StartError, match="precision is 'fp8', expected one of fp32, fp16, int8"):
        small.prepare("fp8")


@pytest.fixture
def stream(small: Decoder) -> TokenStream:
    directions = torch.zeros(1, small.config.layers, small.config.width)
    return TokenStream(small, directions, SamplingSettings(guidance=3.0, top_k=8), Window(40, 14, 6, 3))


def prompt(decoder: Decoder) -> tuple[Tensor, Tensor]:
    return torch.ones(1, 5, decoder.config.text_width), torch.ones(1, 5, dtype=torch.bool)


def test_a_step_reads_no_key_beyond_its_column(small: Decoder) -> None:
    small.prepare()
    column = columns_of(small, 1, 1)
    with torch.inference_mode():
        clean, spoilt = small.new_cache(1, 64), small.new_cache(1, 64)
        for cache in (clean, spoilt):
            small(columns_of(small, 1, 9), 0, cache, None)
        spoilt.kv[..., 9:, :] = torch.nan  # a masked key would still spoil the product
        assert torch.equal(small(column, 9, spoilt, None), small(column, 9, clean, None))


def test_the_row_without_text_never_meets_the_text(small: Decoder) -> None:
    small.prepare()
    cross = text(small, 1)
    assert cross.rows == 1 and cross.folded is not None
    spoilt = CrossCache(cross.keys * torch.nan, cross.values * torch.nan, None)
    column = columns_of(small, 1, 1).expand(2, -1, -1)
    with torch.inference_mode():
        logits = small(column, 0, small.new_cache(2, 4), spoilt)
        alone = small(column[:1], 0, small.new_cache(1, 4), None)
    assert logits[0].isnan().all()
    torch.testing.assert_close(logits[1], alone[0], atol=2e-5, rtol=0)


def test_a_prompt_is_projected_once(small: Decoder, stream: TokenStream, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    new_cross = Decoder.new_cross
    monkeypatch.setattr(Decoder, "new_cross", lambda self, *text: made.append(1) or new_cross(self, *text))
    stream.set_prompt(prompt(small))
    for block in small.layers:
        monkeypatch.setitem(block.cross_kv._parameters, "weight", None)  # no step may need it again
    codes = [stream.step() for _ in range(60)]  # beyond the window's end: the next context is read under it, too
    assert sum(made) == 1 and codes[-1] is not None and stream.context_start > 0


def test_rows_are_made_only_where_guidance_compares_two(small: Decoder, stream: TokenStream) -> None:
    rows: list[int] = []
    hook = small.register_forward_pre_hook(lambda module, args: rows.append(args[0].shape[0]))
    try:
        stream.step()
        stream.set_prompt(prompt(small))
        stream.step()
        stream.set_settings(SamplingSettings(guidance=1.0))
        stream.step()
        stream.set_settings(SamplingSettings(guidance=2.0))
        stream.set_prompt(None)
        stream.step()
    finally:
        hook.remove()
    assert rows == [1, 2, 1, 1]
