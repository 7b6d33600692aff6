"""Endless play: thousands of frames past many contexts, while prompt, guidance, knobs and window change.

The reference is slow and obvious: for a step it takes a fresh cache, reads the columns of its context again and asks
for the next codes. What was read when is observed at the decoder, so a column that a context lacks or has twice shows.
Everything runs in float64, where only a mistake moves a code.
"""

import random
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from rfm_kernels.reference import combine_directions
from torch import Tensor

from rfm_live.engine.player import Engine, EngineSettings
from rfm_live.engine.stream import PromptStates, TokenStream, Window
from rfm_live.model.checkpoint import MusicGen
from rfm_live.model.config import DecoderConfig
from rfm_live.model.decoder import Decoder, KVCache
from rfm_live.model.sampling import SamplingSettings, guide, sample

CONFIG = DecoderConfig(
    width=24, layers=2, heads=2, ffn_width=48, codebooks=4, vocab=16, text_width=12, max_positions=64
)
WINDOW = Window(frames=48, prime=19, forget=7, chunk=3)
CONCEPTS = 2
STEPS = 3000


def prompt(seed: int) -> PromptStates:
    states = torch.randn(1, 3 + seed, CONFIG.text_width, generator=torch.Generator().manual_seed(seed))
    return states.double(), torch.ones(1, 3 + seed, dtype=torch.bool)


Change = tuple[str, object]
CHANGES: tuple[Change, ...] = (
    ("prompt", prompt(1)),
    ("prompt", prompt(2)),
    ("prompt", None),
    ("guidance", 1.0),
    ("guidance", 3.0),
    ("guidance", 2.0),
    ("forget", None),
    ("window", 20),
    ("window", 48),
)


@dataclass
class Observed:
    """A played stream: changes by step, and per step the reads [(step, first column, end)] of its context."""

    changes: dict[int, list[Change]]
    weights: list[np.ndarray | None] = field(default_factory=list)
    contexts: list[list[tuple[int, int, int]]] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    columns: list[np.ndarray] = field(default_factory=lambda: [np.full(CONFIG.codebooks, CONFIG.pad_id)])


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    torch.manual_seed(5)
    decoder = Decoder(CONFIG).eval().requires_grad_(False)
    decoder.embedding.weight.normal_()
    return decoder.double()


@pytest.fixture(scope="module")
def directions() -> Tensor:
    drawn = torch.randn(CONCEPTS, CONFIG.layers, CONFIG.width, generator=torch.Generator().manual_seed(6))
    return torch.nn.functional.normalize(drawn, dim=-1).double()


def changes(density: float) -> dict[int, list[Change]]:
    """What is changed before which step."""
    draw = random.Random(8)
    return {step: [draw.choice(CHANGES)] for step in range(STEPS) if draw.random() < density}


def knobs(step: int) -> np.ndarray | None:
    """Steering that comes and goes."""
    if step % 50 < 20:
        return None
    return np.array([[0.9, 0.2], [-0.4 * (step % 5), 0.5]], dtype=np.float32)


def apply(stream: TokenStream, change: Change) -> None:
    match change:
        case ("prompt", states):
            stream.set_prompt(states)  # type: ignore[arg-type]
        case ("guidance", float(guidance)):
            stream.set_settings(replace(stream.settings, guidance=guidance))
        case ("window", int(frames)):
            stream.set_window(frames)
        case _:
            stream.forget()


@pytest.fixture(scope="module")
def observed(decoder: Decoder, directions: Tensor) -> Observed:
    """3,000 steps with a change at every twelfth on average, and what the decoder was asked to read for them."""
    stream = TokenStream(decoder, directions, SamplingSettings(top_k=8, seed=3), WINDOW)
    seen = Observed(changes(1 / 12))
    calls: list[tuple[int, int]] = []
    hook = decoder.register_forward_pre_hook(lambda module, args: calls.append((args[1], args[0].shape[2])))
    context: list[tuple[int, int, int]] = []
    coming: list[tuple[int, int]] = []  # what the next context has read: (step, columns)
    try:
        for step in range(STEPS):
            for change in seen.changes.get(step, []):
                apply(stream, change)
            seen.weights.append(knobs(step))
            calls.clear()
            start = stream.context_start
            stream.step(seen.weights[step])
            assert calls[0] == (step - start, 1)
            assert sum(length for _, length in calls[1:]) <= WINDOW.chunk
            context = [*context, (step, step, step + 1)]
            for position, length in calls[1:]:
                coming = [(step, length)] if position == 0 else [*coming, (step, length)]
                assert position + length == sum(length for _, length in coming)  # in order, none twice
            seen.contexts.append(context)
            seen.starts.append(start)
            state = stream.copy_state()
            seen.columns.append(state.columns[(step + 1) % len(state.columns)].copy())
            if stream.context_start != start:
                ends = np.cumsum([stream.context_start, *(length for _, length in coming)]).tolist()
                assert ends[-1] == step + 1  # the next context lacks nothing
                context = [(s, a, b) for (s, _), a, b in zip(coming, ends[:-1], ends[1:], strict=True)]
    finally:
        hook.remove()
    return seen


def slow_codes(decoder: Decoder, directions: Tensor, seen: Observed, step: int) -> np.ndarray:
    """The codes [K] that follow column `step`: a fresh cache reads its context, in one pass from change to change."""
    cache = decoder.new_cache(2, CONFIG.max_positions)
    settings, cross, rows, struck = SamplingSettings(top_k=8, seed=3), None, 1, 0
    start, reads, logits = seen.starts[step], seen.contexts[step], torch.zeros(0)
    turns = [now for now in sorted(seen.changes) if now <= step]
    for now, following in pairwise([0, *turns, step + 1]):
        for name, value in seen.changes.get(now, []):
            if name == "prompt":
                cross = None if value is None else decoder.new_cross(*value)  # type: ignore[misc]
            elif name == "guidance":
                settings = replace(settings, guidance=value)  # type: ignore[arg-type]
            struck = now if name == "forget" else struck
        before, rows = rows, 1 if cross is None or settings.guidance == 1.0 else 2
        if rows > before:
            cache.kv[:, :, 1] = cache.kv[:, :, 0]
        elif rows < before and cross is None:
            cache.kv[:, :, 0] = cache.kv[:, :, 1]
        columns = [column for at, first, end in reads if now <= at < following for column in range(first, end)]
        if columns:
            inputs = slow_inputs(directions, seen, columns, start, struck)
            part = KVCache(cache.kv[:, :, :rows])
            logits = decoder(inputs[0].expand(rows, -1, -1), columns[0] - start, part, cross, inputs[1])
    return sample(guide(logits[:, -1].numpy(), settings.guidance), settings, step)


def slow_inputs(
    directions: Tensor, seen: Observed, columns: list[int], start: int, struck: int
) -> tuple[Tensor, Tensor]:
    """Columns [K, T] of a context that begins at `start`, and their steering [T, L, D]: none left of `struck`."""
    context = np.stack([seen.columns[column] for column in columns], axis=1)  # [K, T]
    for at, column in enumerate(columns):
        context[column - start :, at] = CONFIG.pad_id
    none = np.zeros((CONCEPTS, CONFIG.layers), np.float32)
    weights = [none if column < struck or (w := seen.weights[column]) is None else w for column in columns]
    return torch.from_numpy(context), combine_directions(torch.from_numpy(np.stack(weights)).double(), directions)


def test_every_step_is_that_of_a_fresh_cache_that_reads_the_same_columns(
    decoder: Decoder, directions: Tensor, observed: Observed
) -> None:
    swaps = [step for step in range(1, STEPS) if observed.starts[step] != observed.starts[step - 1]]
    assert len(swaps) > 80
    near = {step + offset for step in swaps for offset in (-1, 0, 1, 4)}
    with torch.inference_mode():
        for step in sorted((near | set(range(0, STEPS, 17))) & set(range(STEPS))):
            known = np.arange(CONFIG.codebooks) <= step
            expected = slow_codes(decoder, directions, observed, step)
            assert observed.columns[step + 1][known].tolist() == expected[known].tolist(), step


def test_contexts_keep_to_the_window(observed: Observed) -> None:
    lengths = [step + 1 - start for step, start in enumerate(observed.starts)]
    assert max(lengths) == WINDOW.frames
    assert min(lengths[WINDOW.frames :]) == WINDOW.forget + 1  # the columns read, and the step's own
    assert observed.starts == sorted(observed.starts)


@pytest.mark.parametrize("frames", [2, 20, 47, 48])
def test_a_window_of_any_size_comes_and_goes(decoder: Decoder, directions: Tensor, frames: int) -> None:
    stream = TokenStream(decoder, directions, SamplingSettings(top_k=8), WINDOW)
    lengths: list[int] = []
    for step in range(400):
        if step in (30, 200):
            stream.set_window(frames if step == 30 else WINDOW.frames)
        lengths.append(stream.column + 1 - stream.context_start)
        stream.step()
    assert max(lengths[100:200]) == frames
    assert max(lengths[250:]) == WINDOW.frames


def endless_sound(model: MusicGen, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Play -> samples [frames * hop] and codes [K, frames]; below the limiter's knee."""
    window = Window(frames=60, prime=24, forget=10, chunk=3)
    sampling = SamplingSettings(guidance=3.0, top_k=32, seed=1)
    engine = Engine(model, settings=EngineSettings(sampling, window, "calm piano"))
    engine.apply("/gain", -20.0)
    samples, codes = [], []
    for _ in range(frames):
        samples.append(engine.advance())
        assert engine.codes is not None
        codes.append(engine.codes)
    return np.concatenate(samples), np.stack(codes, axis=1)


def test_no_frame_is_missing_or_repeated_in_the_sound_and_it_is_the_same_again(tiny_model: MusicGen) -> None:
    frames = 700  # nineteen contexts
    samples, codes = endless_sound(tiny_model, frames)
    with torch.inference_mode():
        offline = tiny_model.codec.decode(torch.from_numpy(codes)[None])[0, 0].numpy() * 0.1
    hop = tiny_model.config.hop
    np.testing.assert_allclose(samples[hop:], offline[hop:], atol=1e-5)
    again, _ = endless_sound(tiny_model, frames)
    np.testing.assert_array_equal(again, samples)
