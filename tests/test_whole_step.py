"""The step as one unit: the plain stream's codes, whatever changes between steps; on a GPU, captured and replayed."""

import numpy as np
import pytest
import torch
from torch import Tensor

from rfm_live.engine.stream import TokenStream, Window
from rfm_live.model import whole_step
from rfm_live.model.config import DecoderConfig
from rfm_live.model.decoder import Decoder
from rfm_live.model.sampling import SamplingSettings
from rfm_live.model.whole_step import WholeStep, bucket_of
from rfm_live.steering.frame import FrameSteering, Mode
from tests.kernel_cases import IS_INTERPRETED

CONFIG = DecoderConfig(
    width=24, layers=3, heads=2, ffn_width=48, codebooks=4, vocab=16, text_width=12, max_positions=64
)
WINDOW = Window(frames=40, prime=14, forget=6, chunk=3)
SETTINGS = SamplingSettings(top_k=8, seed=3)
CONCEPTS = 5
GPU = [
    pytest.param("cpu"),
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(
                IS_INTERPRETED or not torch.cuda.is_available(), reason="needs a CUDA device and TRITON_INTERPRET=0"
            ),
        ],
    ),
]


@pytest.fixture(autouse=True)
def small_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_step, "BUCKETS", (8, 16, 32))
    monkeypatch.setattr(whole_step, "TEXT_ROOM", 16)


def new_decoder(device: str = "cpu") -> Decoder:
    torch.manual_seed(5)
    decoder = Decoder(CONFIG).eval().requires_grad_(False)
    decoder.embedding.weight.normal_()  # made empty, for a checkpoint to fill
    return decoder.to(device)


def unit_directions() -> Tensor:
    drawn = torch.randn(CONCEPTS, CONFIG.layers, CONFIG.width, generator=torch.Generator().manual_seed(6))
    return torch.nn.functional.normalize(drawn, dim=-1)


def prompt(tokens: int, hidden: int = 0) -> tuple[Tensor, Tensor]:
    states = torch.randn(1, tokens, CONFIG.text_width, generator=torch.Generator().manual_seed(tokens))
    mask = torch.ones(1, tokens, dtype=torch.bool)
    mask[:, tokens - hidden :] = False
    return states, mask


def knobs(step: int) -> np.ndarray | None:
    """Steering that comes, moves, is held and goes."""
    if step % 11 < 4:
        return None
    weights = np.random.default_rng(step // 2).normal(size=(CONCEPTS, CONFIG.layers))
    return weights.astype(np.float32)


def change(stream: TokenStream, step: int) -> None:
    """Everything a performer may do to a stream, now and then."""
    match step:
        case 10 | 95:
            stream.set_prompt(prompt(5, hidden=2))
        case 40:
            stream.set_prompt(prompt(20))  # longer than the room for a text: plain steps
        case 45:
            stream.set_settings(SamplingSettings(temperature=0.0, seed=3))
        case 52:
            stream.set_settings(SamplingSettings(top_k=0, top_p=0.7, guidance=1.0, seed=4))
        case 60:
            stream.set_settings(SamplingSettings(temperature=1.3, top_k=9, guidance=5.0, seed=2**40))
        case 70:
            stream.set_prompt(None)
        case 80:
            stream.forget()
        case 110:
            stream.set_window(20)
        case 140:
            stream.set_window(40)


def play(stream: TokenStream, first: int, steps: int) -> list[list[int]]:
    played = []
    for step in range(first, first + steps):
        change(stream, step)
        frame = stream.step(knobs(step))
        played.append([] if frame is None else frame.tolist())
    return played


def pair(device: str = "cpu") -> tuple[TokenStream, TokenStream]:
    """A stream whose steps are one unit, and a plain one."""
    decoder, directions = new_decoder(device), unit_directions().to(device)
    unit, plain = (TokenStream(decoder, directions, SETTINGS, WINDOW, as_one_unit=unit) for unit in (True, False))
    return unit, plain


@pytest.mark.parametrize("device", GPU)
def test_codes_are_the_plain_stream_s_through_every_change_and_window(device: str) -> None:
    unit, plain = pair(device)
    assert play(unit, 0, 260) == play(plain, 0, 260)
    assert unit.context_start == plain.context_start > 150


@pytest.mark.skipif(not IS_INTERPRETED, reason="TRITON_INTERPRET is not 1: Triton compiles for a GPU")
def test_with_triton_s_kernels_the_codes_are_the_same() -> None:
    fused = pytest.importorskip("rfm_kernels.fused")
    unit, plain = pair()
    assert unit._whole is not None
    unit._whole._kernels = fused  # as on CUDA, in Triton's interpreter
    for stream in (unit, plain):
        stream.set_prompt(prompt(5))
    for step in (15, 16, 26):  # steered, held, not steered; the interpreter takes its time
        unit.step(knobs(step)), plain.step(knobs(step))
    assert unit.copy_state().columns.tolist() == plain.copy_state().columns.tolist()


@pytest.mark.parametrize("stop", [3, 8, 41, 64])
def test_a_restored_stream_goes_on_as_the_first_time(stop: int) -> None:
    unit, plain = pair()
    play(unit, 0, stop), play(plain, 0, stop)
    state = unit.copy_state()
    after = play(unit, stop, 30)
    assert after == play(plain, stop, 30)
    other, _ = pair()
    for restored in (unit, other):
        restored.restore_state(state)
        assert play(restored, stop, 30) == after


def test_modes_that_depend_on_the_row_leave_the_unit_and_come_back() -> None:
    unit, plain = pair()
    codes = []
    for stream in (unit, plain):
        stream.set_prompt(prompt(6))
        played = []
        for step in range(60):
            weights = knobs(step)
            if weights is not None and step % 3 == 0:
                played.append(stream.step(FrameSteering(weights, mode=np.full(CONCEPTS, Mode.BLEND))))
            else:
                played.append(stream.step(weights))
        codes.append([frame.tolist() for frame in played if frame is not None])
    assert codes[0] == codes[1]


@torch.inference_mode()
def test_what_steered_before_leaves_an_unsteered_step_bit_for_bit() -> None:
    decoder, column = new_decoder(), np.array([3, 7, 1, 0])
    caches = [decoder.new_cache(2, 40) for _ in range(2)]
    used, fresh = (WholeStep(decoder, unit_directions(), [cache]) for cache in caches)
    cross, strong = decoder.new_cross(*prompt(5)), np.full((CONCEPTS, CONFIG.layers), 3.0, np.float32)
    steered = used.codes(column, 0, 9, caches[0], cross, strong, SETTINGS)
    kv = caches[0].kv.clone()
    codes = [
        step.codes(column, 0, 9, cache, cross, None, SETTINGS)
        for step, cache in zip((used, fresh), caches, strict=True)
    ]
    assert codes[0].tolist() == codes[1].tolist() and torch.equal(caches[0].kv, caches[1].kv)
    assert not torch.equal(kv, caches[1].kv) and steered.shape == (CONFIG.codebooks,)


@pytest.mark.parametrize("device", GPU)
def test_a_play_of_any_length_makes_nothing_that_was_not_made_at_its_start(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    make = WholeStep._made
    monkeypatch.setattr(WholeStep, "_made", lambda self, run: made.append(run) or make(self, run))
    unit, _ = pair(device)
    assert len(made) == 2 * 4 * 3  # caches, buckets, and: no text, a text alone, a text under guidance
    play(unit, 0, 260)
    for step in range(60):
        unit.set_settings(SamplingSettings(temperature=0.5 + step % 3, top_k=step % 5, guidance=1 + step % 3))
        if step % 9 == 0:
            unit.set_prompt(prompt(1 + step % 16))
        unit.step(knobs(step))
    assert len(made) == 2 * 4 * 3


def test_every_form_that_was_made_is_played(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: set[object] = set()
    run = WholeStep._run
    monkeypatch.setattr(WholeStep, "_run", lambda self, cache, form: ran.add(form) or run(self, cache, form))
    unit, _ = pair()
    assert unit._whole is not None and ran == set()
    for text, guidance in ((None, 3.0), (prompt(4), 1.0), (prompt(4), 3.0)):
        unit.set_prompt(text)
        unit.set_settings(SamplingSettings(top_k=8, guidance=guidance))
        for _ in range(90):  # through both caches
            unit.step()
    assert {form for form in unit._whole._forms if form.bucket > 8} <= ran  # no context takes over that is shorter


def test_a_step_beyond_the_longest_bucket_attends_to_the_whole_cache() -> None:
    assert [bucket_of(columns, 40) for columns in (1, 8, 9, 32, 33, 40)] == [8, 8, 16, 32, 40, 40]
    assert bucket_of(5, 6) == 6


def test_a_text_of_two_rows_is_refused() -> None:
    decoder = new_decoder()
    states, mask = prompt(5)
    cross = decoder.new_cross(states.repeat(2, 1, 1), mask.repeat(2, 1))
    cache = decoder.new_cache(2, 8)
    step = WholeStep(decoder, unit_directions(), [cache])
    with pytest.raises(ValueError, match="a text of 2 rows, expected 1"):
        step.codes(np.zeros(4, np.int64), 0, 0, cache, cross, None, SETTINGS)
