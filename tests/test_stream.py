"""The token stream: every step is the slow, obvious computation of its context, past any number of windows."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from rfm_kernels.reference import combine_directions
from torch import Tensor

from rfm_live.engine.played import PlayedSteering
from rfm_live.engine.stream import TokenStream, Window
from rfm_live.errors import RfmError
from rfm_live.model.config import DecoderConfig
from rfm_live.model.cross import CrossCache
from rfm_live.model.decoder import Decoder
from rfm_live.model.sampling import SamplingSettings, guide, sample

CONFIG = DecoderConfig(
    width=24, layers=2, heads=2, ffn_width=48, codebooks=4, vocab=16, text_width=12, max_positions=64
)
WINDOW = Window(frames=40, prime=14, forget=6, chunk=3)
UNGUIDED = SamplingSettings(guidance=1.0, top_k=8, seed=3)
CONCEPTS = 2


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    torch.manual_seed(5)
    decoder = Decoder(CONFIG).eval().requires_grad_(False)
    decoder.embedding.weight.normal_()  # made empty, for a checkpoint to fill
    return decoder


@pytest.fixture(scope="module")
def directions() -> Tensor:
    drawn = torch.randn(CONCEPTS, CONFIG.layers, CONFIG.width, generator=torch.Generator().manual_seed(6))
    return torch.nn.functional.normalize(drawn, dim=-1)


@pytest.fixture(scope="module")
def prompt() -> tuple[Tensor, Tensor]:
    states = torch.randn(1, 5, CONFIG.text_width, generator=torch.Generator().manual_seed(7))
    return states, torch.tensor([[True, True, True, True, False]])


def knobs(step: int) -> np.ndarray | None:
    """Some steering that comes and goes."""
    if step % 7 < 3:
        return None
    return np.array([[0.9, 0.2], [-0.4 * (step % 5), 0.5]], dtype=np.float32)


def slow_codes(
    decoder: Decoder,
    directions: Tensor,
    cross: CrossCache | None,
    settings: SamplingSettings,
    steps: int,
    bases: Iterator[tuple[int, int]],
) -> list[list[int]]:
    """Columns 1..steps, each computed by one pass over its whole context; `bases` yields (column, context's first)."""
    columns = np.full((CONFIG.codebooks, steps + 1), CONFIG.pad_id)
    base, (change_at, next_base) = 0, next(bases)
    rows = 1 if cross is None or settings.guidance == 1.0 else 2
    for step in range(steps):
        if step == change_at:
            base, (change_at, next_base) = next_base, next(bases)
        context = columns[:, base : step + 1].copy()
        for k in range(CONFIG.codebooks):
            context[k, : k + 1] = CONFIG.pad_id
        weights = [np.zeros((CONCEPTS, CONFIG.layers), np.float32) if (c := knobs(s)) is None else c
                   for s in range(base, step + 1)]  # fmt: skip
        steering = combine_directions(torch.from_numpy(np.stack(weights)), directions)
        cache = decoder.new_cache(rows, context.shape[1])
        logits = decoder(torch.from_numpy(context).expand(rows, -1, -1), 0, cache, cross, steering)[:, -1]
        codes = sample(guide(logits.numpy(), settings.guidance), settings, step)
        for k in range(min(CONFIG.codebooks, step + 1)):
            columns[k, step + 1] = codes[k]
    frames = range(steps - CONFIG.codebooks + 1)
    return [[int(columns[k, frame + 1 + k]) for k in range(CONFIG.codebooks)] for frame in frames]


def window_swaps(window: Window) -> Iterator[tuple[int, int]]:
    end = window.frames
    while True:
        yield end, end - window.prime
        end += window.frames - window.prime


def play(stream: TokenStream, steps: int, first: int = 0) -> list[list[int]]:
    frames = [stream.step(knobs(step)) for step in range(first, first + steps)]
    return [frame.tolist() for frame in frames if frame is not None]


@pytest.mark.parametrize("guidance", [None, 1.0, 3.0])
def test_every_column_past_several_windows_is_that_of_a_pass_over_its_context(
    decoder: Decoder, directions: Tensor, prompt: tuple[Tensor, Tensor], guidance: float | None
) -> None:
    settings = SamplingSettings(guidance=guidance or 3.0, top_k=8, seed=3)
    stream = TokenStream(decoder, directions, settings, WINDOW)
    cross = None
    if guidance is not None:
        stream.set_prompt(prompt)
        cross = decoder.new_cross(*prompt)
    steps = 40 + 3 * 26 + 11  # four contexts
    expected = slow_codes(decoder, directions, cross, settings, steps, window_swaps(WINDOW))
    assert play(stream, steps) == expected


def test_the_first_complete_frame_comes_with_the_step_that_fills_the_delay(
    decoder: Decoder, directions: Tensor
) -> None:
    stream = TokenStream(decoder, directions, UNGUIDED, WINDOW)
    assert [stream.step() is None for _ in range(6)] == [True, True, True, False, False, False]
    assert stream.column == 6


def test_thousands_of_frames_repeat_and_stay_in_the_vocabulary(decoder: Decoder, directions: Tensor) -> None:
    first, second = (TokenStream(decoder, directions, UNGUIDED, WINDOW) for _ in range(2))
    codes = play(first, 2000)
    assert codes == play(second, 2000)
    assert 0 <= min(map(min, codes)) <= max(map(max, codes)) < CONFIG.vocab
    assert len({tuple(frame) for frame in codes[-500:]}) > 250


def test_a_step_reads_no_more_than_its_column_and_one_chunk(decoder: Decoder, directions: Tensor) -> None:
    read: list[int] = []
    hook = decoder.register_forward_pre_hook(lambda module, args: read.append(args[0].shape[2]))
    try:
        stream = TokenStream(decoder, directions, UNGUIDED, WINDOW)
        for step in range(200):
            if step % 37 == 0:
                stream.forget()
            read.clear()
            stream.step()
            assert read[0] == 1
            assert sum(read[1:]) <= WINDOW.chunk
            assert len(read) <= 2
    finally:
        hook.remove()


@pytest.mark.parametrize("stop", [0, 2, 10, 33, 37, 40, 63, 90])
def test_a_restored_stream_goes_on_as_the_first_time(
    decoder: Decoder, directions: Tensor, prompt: tuple[Tensor, Tensor], stop: int
) -> None:
    stream = TokenStream(decoder, directions, SamplingSettings(top_k=8), WINDOW)
    stream.set_prompt(prompt)
    if stop == 63:
        stream.forget()
    if stop == 90:
        stream.set_window(25)
    play(stream, stop)
    state = stream.copy_state()
    after = play(stream, 70, first=stop)
    stream.set_prompt(None)
    stream.set_settings(UNGUIDED)
    stream.set_window(10)
    play(stream, 5)
    other = TokenStream(decoder, directions, UNGUIDED, WINDOW)
    for restored in (stream, other, stream):
        restored.restore_state(state)
        assert play(restored, 70, first=stop) == after


def test_steering_changes_nothing_before_its_step(decoder: Decoder, directions: Tensor) -> None:
    plain, steered = (TokenStream(decoder, directions, UNGUIDED, WINDOW) for _ in range(2))
    strong = np.full((CONCEPTS, CONFIG.layers), 8.0, dtype=np.float32)
    before = [(plain.step(), steered.step()) for _ in range(30)]
    assert all(a is b is None or a.tolist() == b.tolist() for a, b in before)  # type: ignore[union-attr]
    after = [(plain.step(), steered.step(strong)) for _ in range(30)]
    assert any(a.tolist() != b.tolist() for a, b in after)  # type: ignore[union-attr]


def test_zero_coefficients_give_the_codes_of_no_steering(decoder: Decoder, directions: Tensor) -> None:
    plain, zero = (TokenStream(decoder, directions, UNGUIDED, WINDOW) for _ in range(2))
    none = np.zeros((CONCEPTS, CONFIG.layers), dtype=np.float32)
    for _ in range(100):
        a, b = plain.step(), zero.step(none)
        assert a is b is None or a.tolist() == b.tolist()  # type: ignore[union-attr]


def test_a_buffer_that_is_turned_again_is_remembered_as_it_was_at_every_column(directions: Tensor) -> None:
    concepts, layers = directions.shape[:2]
    played, values = PlayedSteering(directions, 4), (0.5, 0.5, -0.2, 0.0)
    buffer = np.zeros((concepts, layers), np.float32)
    for column, value in enumerate(values):
        buffer[:] = value
        played.record(column, buffer)
    for column, value in enumerate(values[:3]):
        acting = played.injections(column, column + 1, 2)
        assert acting is not None and acting.block is not None
        torch.testing.assert_close(acting.block.push[:, 0, 0], value * directions.sum(0))
    assert played.frame(0) is played.frame(1)
    assert played.injections(3, 4, 2) is None


@pytest.mark.parametrize("pressed", [0, 3, 20, 25, 38, 39])
def test_forget_goes_on_from_a_short_context_without_the_past_steering(
    decoder: Decoder, directions: Tensor, pressed: int
) -> None:
    stream = TokenStream(decoder, directions, UNGUIDED, WINDOW)
    strong = np.full((CONCEPTS, CONFIG.layers), 2.0, dtype=np.float32)
    for _ in range(pressed):
        stream.step(strong)
    stream.forget()
    # Two steps read the six columns; a press that leaves no room before the window's end acts after the swap there.
    swap_at = (pressed if pressed + 2 <= 40 else 40) + 2
    for _ in range(swap_at - pressed):
        stream.step()
    columns = np.full((CONFIG.codebooks, swap_at + 1), CONFIG.pad_id)
    state = stream.copy_state()
    for column in range(swap_at + 1):
        columns[:, column] = state.columns[column]
    base = max(swap_at - 6, 0)
    assert state.base == base
    for step in range(swap_at, swap_at + 10):
        context = columns[:, base:].copy()
        for k in range(CONFIG.codebooks):
            context[k, : k + 1] = CONFIG.pad_id
        logits = decoder(torch.from_numpy(context)[None], 0, decoder.new_cache(1, context.shape[1]), None, None)
        expected = sample(logits[0, -1].numpy(), UNGUIDED, step)
        stream.step()
        codes = stream.copy_state().columns[stream.column % len(state.columns)]
        known = np.arange(CONFIG.codebooks) <= step
        assert codes[known].tolist() == expected[known].tolist()
        columns = np.concatenate([columns, codes[:, None]], axis=1)


def test_a_prompt_and_its_guidance_can_come_and_go_between_steps(
    decoder: Decoder, directions: Tensor, prompt: tuple[Tensor, Tensor]
) -> None:
    stream = TokenStream(decoder, directions, SamplingSettings(top_k=8), WINDOW)
    plain = TokenStream(decoder, directions, SamplingSettings(top_k=8), WINDOW)
    assert play(stream, 20) == play(plain, 20)
    stream.set_prompt(prompt)
    prompted, unprompted = play(stream, 30, 20), play(plain, 30, 20)
    assert prompted != unprompted
    stream.set_settings(UNGUIDED)
    play(stream, 30, 50)
    stream.set_settings(SamplingSettings(top_k=8))
    play(stream, 30, 80)
    stream.set_prompt(None)
    stream.forget()
    play(stream, 60, 110)
    assert stream.column == 170


def test_without_a_text_row_of_its_own_the_past_is_the_one_that_was_played(
    decoder: Decoder, directions: Tensor, prompt: tuple[Tensor, Tensor]
) -> None:
    # Prompt given and taken back before any step: the row without text must go on as if nothing had happened.
    stream, plain = (TokenStream(decoder, directions, SamplingSettings(top_k=8), WINDOW) for _ in range(2))
    play(stream, 35), play(plain, 35)
    stream.set_prompt(prompt)
    stream.set_prompt(None)
    assert play(stream, 40, 35) == play(plain, 40, 35)


def test_a_window_that_cannot_be_primed_in_time_is_refused() -> None:
    for wrong in ((40, 30, 6, 2), (10, 0, 0, 1), (40, 10, 20, 4), (40, 10, 5, 0)):
        with pytest.raises(RfmError):
            Window(*wrong)


def test_a_window_longer_than_the_decoder_s_positions_is_refused(decoder: Decoder, directions: Tensor) -> None:
    with pytest.raises(RfmError, match="65 frames exceeds 64 positions"):
        TokenStream(decoder, directions, UNGUIDED, Window(65, 14, 6, 3))


def test_a_window_that_the_stream_has_no_cache_for_is_refused(decoder: Decoder, directions: Tensor) -> None:
    stream = TokenStream(decoder, directions, UNGUIDED, WINDOW)
    for frames in (1, 41):
        with pytest.raises(RfmError, match=rf"window is {frames} frames, expected 2\.\.40"):
            stream.set_window(frames)


@pytest.mark.parametrize("window", [WINDOW, Window(), Window(100, 50, 1, 1), Window(7, 5, 5, 3)])
def test_a_resized_window_is_a_window(window: Window) -> None:
    for frames in range(2, window.frames + 1):
        resized = window.resized(frames)
        assert resized.frames == frames
        assert resized.prime <= window.prime and resized.chunk == window.chunk
    assert window.resized(window.frames) == window


@pytest.mark.parametrize("positions", [8, 64, 512, 2048])
def test_a_window_fits_any_decoder(positions: int) -> None:
    window = Window.fitting(positions)
    assert window.frames == min(positions, 1500)
