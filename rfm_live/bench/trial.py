"""A few seconds of measurement for `rfm-live doctor`: the checkpoint itself, and what the published sizes would take.

A published size that is not at hand is first held against memory: what a frame must move, over the bandwidth of this
machine. What passes is measured with random weights: a decoder of one block and one of three tell what a block takes.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace

import numpy as np
import torch

from rfm_live.bench.judgement import Demand, FrameTime, Judgement, judge, out_of_reach, too_large
from rfm_live.bench.shapes import (
    CODEC_32KHZ,
    SIZES,
    TEXT_TOKENS,
    WEIGHT_BYTES,
    cache_bytes,
    decoder_bytes,
    step_bytes,
    weight_bytes,
)
from rfm_live.bench.timing import Bandwidth, Stopwatch, bandwidth, is_timed_by_processor
from rfm_live.engine.player import Engine
from rfm_live.engine.stream import TokenStream, Window
from rfm_live.model.checkpoint import MusicGen
from rfm_live.model.codec import Codec
from rfm_live.model.codec_stream import StreamingDecoder
from rfm_live.model.config import CodecConfig, DecoderConfig
from rfm_live.model.decoder import Decoder
from rfm_live.model.products import PRECISIONS
from rfm_live.model.sampling import SamplingSettings

_ROWS = 2  # under guidance
_WARM_FRAMES, _FRAMES = 60, 300
_CODEC_FRAMES = 50
_WARM_STEPS, _STEPS = 4, 16
_CONTEXT = 750  # frames: the middle of 30 s
_PROGRAM_BYTES = 1 << 29


@dataclass(frozen=True)
class Trial:
    """One checkpoint in one precision on one device.

    `basis` is "measured", "estimated" from fewer blocks, or "floor": judged by its bytes alone. `frame` and
    `codec_ms`, a frame's part for the codec, are None where they were not needed, and `processor_ms`, what a frame
    takes of its core's time, where it was not measured; `moved_bytes` is what a frame must move at least.
    """

    checkpoint: str
    precision: str
    device: str
    basis: str
    frame: FrameTime | None
    processor_ms: float | None
    codec_ms: float | None
    moved_bytes: int
    floor_ms: float
    judgement: Judgement


@dataclass(frozen=True)
class Conditions:
    """What a checkpoint is judged under."""

    device: torch.device
    speed: Bandwidth
    buffer_ms: float
    machine_bytes: int


def conditions(device: torch.device, buffer_ms: float, machine_bytes: int) -> Conditions:
    """Measure the bandwidth of memory, beyond any cache."""
    return Conditions(device, bandwidth(device, 1 << 28, runs=3), buffer_ms, machine_bytes)


def try_checkpoint(name: str, engine: Engine, model: MusicGen, given: Conditions) -> Trial:
    """Play some frames of a checkpoint that is at hand, one concept turned up."""
    for concept in engine.bank.names[:1]:
        engine.apply(f"/concept/{concept}/eta", 0.5)
    watch = Stopwatch(given.device)
    for frame in range(_WARM_FRAMES + _FRAMES):
        if frame == _WARM_FRAMES:
            watch = Stopwatch(given.device)
        engine.advance()
        watch.lap()
    taken = _frame_time(watch)
    config, precision = model.config, model.decoder.precision or "fp32"
    moved = _step_bytes(config.decoder, WEIGHT_BYTES[precision]) + decoder_bytes(config.codec)
    demand = _demand(config.decoder, config.codec, _lookahead_ms(model.codec), precision)
    judgement = judge(taken, demand, given.buffer_ms, given.machine_bytes)
    codec_ms = _codec_ms(model.codec, given.device)
    floor_ms = _floor_ms(moved, bandwidth(given.device, moved, runs=3))
    processor_ms = 1000.0 * float(np.median(watch.laps()[:, 1])) if is_timed_by_processor(given.device) else None
    where = (name, precision, str(given.device))
    return Trial(*where, "measured", taken, processor_ms, codec_ms, moved, floor_ms, judgement)


def try_sizes(given: Conditions, precisions: Sequence[str] = PRECISIONS) -> list[Trial]:
    """Say of every published size in which precision this machine could play it: the first of `precisions` that does.

    What plays in none is told of in the last.
    """
    trials = []
    for name, size in SIZES.items():
        for precision in precisions:
            trial = _try_size(name, size.config, precision, given)
            if trial.judgement.can_play:
                break
        trials.append(trial)
    return trials


def _try_size(name: str, config: DecoderConfig, precision: str, given: Conditions) -> Trial:
    """Hold a size against memory, and estimate its frames where memory allows it."""
    moved = _step_bytes(config, WEIGHT_BYTES[precision]) + decoder_bytes(CODEC_32KHZ)
    with torch.device("meta"):
        lookahead_ms = _lookahead_ms(Codec(CODEC_32KHZ))
    demand = _demand(config, CODEC_32KHZ, lookahead_ms, precision)
    floor_ms = _floor_ms(moved, given.speed)
    where = (name, precision, str(given.device))
    reason = too_large(demand.memory_bytes, given.machine_bytes) or out_of_reach(moved, given.speed.best)
    if reason:
        judged = judge(FrameTime.steady(floor_ms), demand, given.buffer_ms)
        judgement = replace(judged, can_play=False, reason=reason, least_buffer_ms=None)
        return Trial(*where, "floor", None, None, None, moved, floor_ms, judgement)
    codec_ms = _codec_ms(Codec(CODEC_32KHZ).to(given.device).eval().requires_grad_(False), given.device)
    frame = estimated_step(config, given.device, precision).later(codec_ms)
    judgement = judge(frame, demand, given.buffer_ms, given.machine_bytes)
    return Trial(*where, "estimated", frame, None, codec_ms, moved, floor_ms, judgement)


def estimated_step(config: DecoderConfig, device: torch.device, precision: str) -> FrameTime:
    """A step of a decoder of `config`, from decoders of one block and of three; it spreads as the latter's does."""
    one, three = (_step_time(replace(config, layers=layers), device, precision) for layers in (1, 3))
    block = max(three.p50_ms - one.p50_ms, 0.0) / 2
    times = (one.p50_ms + (config.layers - 1) * block) / three.p50_ms
    return FrameTime(*(times * part for part in astuple(three)))


def _step_time(config: DecoderConfig, device: torch.device, precision: str) -> FrameTime:
    decoder = Decoder(config).to(device).eval().requires_grad_(False)
    if device.type != "cpu" and precision == "fp16":
        decoder = decoder.half()
    weight = decoder.embedding.weight
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.fill_(0.1)  # no number of fp16, which a step would keep in half the bytes
    decoder.prepare(precision)
    directions = torch.zeros(0, config.layers, config.width, device=device, dtype=weight.dtype)
    stream = TokenStream(decoder, directions, SamplingSettings(), Window(256, prime=8, forget=8))
    states = torch.zeros(1, TEXT_TOKENS, config.text_width)
    stream.set_prompt((states, torch.ones(1, TEXT_TOKENS, dtype=torch.bool)))
    for _ in range(_WARM_STEPS):
        stream.step()
    watch = Stopwatch(device)
    for _ in range(_STEPS):
        stream.step()
        watch.lap()
    return _frame_time(watch)


def _codec_ms(codec: Codec, device: torch.device) -> float:
    """The median time of a frame in a stream that is decoded frame by frame."""
    decoder = StreamingDecoder(codec)
    codes = torch.zeros(codec.config.codebooks, 1, dtype=torch.long, device=device)
    for _ in range(decoder.start_frames + 2):
        decoder.push(codes)
    watch = Stopwatch(device)
    for _ in range(_CODEC_FRAMES):
        decoder.push(codes)
        watch.lap()
    return 1000.0 * float(np.median(watch.laps()[:, 0]))


def _frame_time(watch: Stopwatch) -> FrameTime:
    milliseconds = 1000.0 * watch.laps()[:, 0]
    p50, p95, p99 = (float(value) for value in np.percentile(milliseconds, (50, 95, 99)))
    return FrameTime(p50, p95, p99, float(milliseconds.mean()))


def _step_bytes(config: DecoderConfig, number_bytes: int) -> int:
    return step_bytes(config, _ROWS, _CONTEXT, TEXT_TOKENS, weight_bytes=number_bytes)


def _floor_ms(moved_bytes: int, speed: Bandwidth) -> float:
    return 1000.0 * moved_bytes / speed.best


def _lookahead_ms(codec: Codec) -> float:
    return 1000.0 * StreamingDecoder(codec).lookahead_samples / codec.config.sample_rate


def _demand(config: DecoderConfig, codec: CodecConfig, lookahead_ms: float, precision: str) -> Demand:
    """The weights as they are loaded and as steps keep them, two contexts, the codec and the program."""
    weights = weight_bytes(config) + weight_bytes(config, WEIGHT_BYTES[precision])
    contexts = 2 * cache_bytes(config, _ROWS, 2 * _CONTEXT)
    return Demand(weights + contexts + 2 * decoder_bytes(codec) + _PROGRAM_BYTES, config.codebooks, lookahead_ms)
