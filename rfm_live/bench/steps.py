"""Sections "step" and "steering": one step of ours beside transformers', beside the memory floor, and steered."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from rfm_live.bench.peers import generate_laps, steered_by_hooks
from rfm_live.bench.report import Section
from rfm_live.bench.shapes import TEXT_TOKENS, WEIGHT_BYTES, Pair, step_bytes
from rfm_live.bench.timing import Bandwidth, Floats, Laps, Stopwatch, bandwidth, in_turn, ratio
from rfm_live.engine.stream import TokenStream, Window
from rfm_live.errors import StartError
from rfm_live.model.decoder import Decoder
from rfm_live.model.products import PRECISIONS
from rfm_live.model.sampling import SamplingSettings
from rfm_live.steering.frame import Coefficients

FRAME_MS = 20.0
CONCEPTS = (0, 1, 8, 32)
TOP_K = 250
_STRENGTH = 0.1
_OF_NUMBERS = {4: ("fp32",), 2: ("fp16",)}
"""The precision that a decoder was loaded in, by the bytes of a number."""


@dataclass(frozen=True)
class Extent:
    """How long to measure: `rounds` of `steps` steps each. Steps stand at the context's positions 1..`steps`."""

    rounds: int
    steps: int


def step_section(figures: Mapping[str, dict[str, Any]], guidance: float) -> Section:
    """Our step beside `generate` and the floor, from the `step_figures` of every shape by name."""
    rows = []
    for name, found in figures.items():
        for precision, one in found["ours"].items():
            rows.append(
                (
                    f"{name}, {precision}",
                    f"{one['p50_ms']:.2f} / {one['p95_ms']:.2f} / {one['p99_ms']:.2f}",
                    f"{one['transformers_ms']:.2f}",
                    f"{one['ratio']:.2f}x",
                    f"{one['real_time_factor']:.2f}x",
                    f"{one['bytes'] / 1e6:.1f} MB",
                    f"{one['floor_ms']:.2f}",
                    f"{one['share_of_floor']:.0%}",
                    f"{one['logit_difference']:.0e}",
                )
            )
    sentences = (
        f"One step makes one frame of 20 ms, under guidance {guidance:g} (two rows), top-k {TOP_K}, with sampling.",
        "In turn on the same weights; transformers is its `generate` without the step that reads the text and",
        "without the codec. The floor is the bytes that a step must move over the best bandwidth that was",
        "measured with as many bytes; the share is the floor's of our median step. The error is the largest of",
        "any logit, as a share of the logits' spread; transformers computes in the first precision.",
    )
    header = (
        "shape",
        "p50 / p95 / p99 ms",
        "transformers ms",
        "faster",
        "real time",
        "bytes",
        "floor ms",
        "share",
        "error",
    )
    return Section("A step beside transformers and beside memory", sentences, header, tuple(rows), dict(figures))


def step_figures(pair: Pair, extent: Extent, device: torch.device, guidance: float) -> dict[str, Any]:
    """Measure one shape, ours in every precision that its steps can be in on this device, each beside transformers.

    One precision at a time, so that no more than one is in memory.
    """
    theirs = partial(generate_laps, pair.reference, pair.tokens, extent.steps, guidance, TOP_K)
    ours = {}
    for precision in PRECISIONS if device.type == "cpu" and pair.number_bytes == 4 else _OF_NUMBERS[pair.number_bytes]:
        with suppress(StartError):  # no code for this CPU
            decoder = pair.in_precision(precision)
            stream = _stream(pair, decoder, extent, guidance, concepts=0)
            blocks = {"transformers": theirs, "ours": partial(_our_laps, stream, extent.steps, None, device)}
            laps = in_turn(blocks, extent.rounds, device)
            rows, context = 2 if guidance != 1.0 else 1, (extent.steps + 1) / 2
            numbers = (pair.number_bytes, WEIGHT_BYTES[precision])
            moved = step_bytes(decoder.config, rows, context, TEXT_TOKENS, *numbers)
            ours[precision] = _beside(laps["ours"], laps["transformers"], moved, bandwidth(device, moved))
            ours[precision]["logit_difference"] = pair.logit_difference(decoder)
            del decoder, stream, blocks
    return {"ours": ours, "steps": extent.rounds * extent.steps}


def _beside(ours: Laps, theirs: Laps, moved: int, speed: Bandwidth) -> dict[str, Any]:
    floor_ms = 1000.0 * moved / speed.best
    return {
        **ours.quantiles(),
        "transformers_ms": round(theirs.p50_ms, 4),
        "ratio": round(ratio(theirs, ours), 3),
        "real_time_factor": round(FRAME_MS / ours.p50_ms, 3),
        "bytes": moved,
        "copy_bytes_per_second": round(speed.copy),
        "read_bytes_per_second": round(speed.read),
        "floor_ms": round(floor_ms, 4),
        "share_of_floor": round(floor_ms / ours.p50_ms, 4),
    }


def steering_section(figures: Mapping[str, dict[str, Any]]) -> Section:
    """What steering adds to a step, from the `steering_figures` of every shape by name."""
    rows = []
    for name, found in figures.items():
        for concepts, one in found.items():
            cells = (f"{one['added_bytes']} B", f"{one['ours_ms']:.2f}", f"{one['ours_cost']:+.1%}")
            rows.append((name, concepts, *cells, f"{one['hooks_ms']:.2f}", f"{one['hooks_cost']:+.1%}"))
    sentences = (
        "Concepts that push every block's output on both rows. Ours: the token stream's step with coefficients,",
        "one step of each number of concepts in turn; 0 concepts is a step that nothing steers. Hooks:",
        "transformers' `generate` with one forward hook a concept and block. A cost is the median of the paired",
        "differences over the median step of 0 concepts. What must move beside a step's own bytes are the",
        "directions.",
    )
    header = ("shape", "concepts", "bytes", "ours ms", "cost", "hooks ms", "cost of hooks")
    return Section("What steering costs", sentences, header, tuple(rows), dict(figures))


def steering_figures(pair: Pair, extent: Extent, device: torch.device, guidance: float) -> dict[str, Any]:
    """Measure one shape: figures by number of concepts."""
    ours = _steered_laps(pair, extent, device, guidance)
    hooks = _hooked_laps(pair, extent, device, guidance)
    config = pair.ours.decoder.config
    found: dict[str, Any] = {}
    for concepts in CONCEPTS:
        found[str(concepts)] = {
            "ours_ms": round(ours[concepts].p50_ms, 4),
            "ours_cost": round(ours[concepts].cost(ours[0]), 5),
            "hooks_ms": round(hooks[concepts].p50_ms, 4),
            "hooks_cost": round(hooks[concepts].cost(hooks[0]), 5),
            "added_bytes": pair.number_bytes * concepts * config.layers * config.width,
        }
    return found


def _steered_laps(pair: Pair, extent: Extent, device: torch.device, guidance: float) -> dict[int, Laps]:
    """Step the streams in turn, one step each, so that a pair of steps stands at one position and one moment."""
    streams = {concepts: _stream(pair, pair.ours.decoder, extent, guidance, concepts) for concepts in CONCEPTS}
    starts = {concepts: stream.copy_state() for concepts, stream in streams.items()}
    layers = pair.ours.decoder.config.layers
    steering = {concepts: _coefficients(concepts, layers) for concepts in CONCEPTS}
    taken: dict[int, list[Floats]] = {concepts: [] for concepts in CONCEPTS}
    for number in range(extent.rounds + 1):
        watches = {concepts: Stopwatch(device) for concepts in CONCEPTS}
        for concepts, stream in streams.items():
            stream.restore_state(starts[concepts])
            stream.step(steering[concepts])
        for _ in range(extent.steps):
            for concepts, stream in streams.items():
                watches[concepts].restart()
                stream.step(steering[concepts])
                watches[concepts].lap()
        if number:  # the first round only warms up
            for concepts, watch in watches.items():
                taken[concepts].append(watch.laps())
    return {concepts: Laps.of(laps, device) for concepts, laps in taken.items()}


def _hooked_laps(pair: Pair, extent: Extent, device: torch.device, guidance: float) -> dict[int, Laps]:
    directions = _directions(pair, max(CONCEPTS))

    def block(concepts: int) -> Floats:
        with steered_by_hooks(pair.reference, directions[:concepts], _STRENGTH):
            return generate_laps(pair.reference, pair.tokens, extent.steps, guidance, TOP_K)

    blocks = {str(concepts): partial(block, concepts) for concepts in CONCEPTS}
    laps = in_turn(blocks, extent.rounds, device)
    return {concepts: laps[str(concepts)] for concepts in CONCEPTS}


def _stream(pair: Pair, decoder: Decoder, extent: Extent, guidance: float, concepts: int) -> TokenStream:
    """A stream under a prompt, with room for a round and no change of context within it."""
    frames = min(2 * extent.steps + 64, decoder.config.max_positions)
    settings, window = SamplingSettings(top_k=TOP_K, guidance=guidance), Window(frames, prime=8, forget=8, chunk=8)
    stream = TokenStream(decoder, _directions(pair, concepts), settings, window)
    stream.set_prompt(pair.prompt())
    return stream


def _our_laps(stream: TokenStream, steps: int, coefficients: Coefficients | None, device: torch.device) -> Floats:
    """Play `steps` steps from the stream's beginning on -> laps [steps, 2], without the first step."""
    beginning = stream.copy_state()
    stream.step(coefficients)
    watch = Stopwatch(device)
    for _ in range(steps):
        stream.step(coefficients)
        watch.lap()
    stream.restore_state(beginning)
    return watch.laps()


def _directions(pair: Pair, concepts: int) -> torch.Tensor:
    """Random unit directions [C, L, D]."""
    config, weight = pair.ours.decoder.config, pair.ours.decoder.embedding.weight
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randn(concepts, config.layers, config.width, generator=generator)
    return F.normalize(drawn, dim=-1).to(weight.device, weight.dtype)


def _coefficients(concepts: int, layers: int) -> Coefficients | None:
    return np.full((concepts, layers), _STRENGTH, dtype=np.float32) if concepts else None
