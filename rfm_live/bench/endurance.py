"""Section "stream": frames of the whole engine for minutes, their time and the process's memory by the minute."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from rfm_live.bench.machine import other_core_busy, resident_bytes
from rfm_live.bench.report import Section
from rfm_live.bench.shapes import cache_bytes
from rfm_live.bench.timing import Laps, Stopwatch
from rfm_live.engine.player import Engine
from rfm_live.model.checkpoint import MusicGen

_FRAMES_PER_MINUTE = 3000
_CONTEXTS = 2  # the one that plays and the one in preparation
_ROWS = 2


def measure_stream(
    engine: Engine, model: MusicGen, minutes: float, device: torch.device, tell: Callable[[str], None]
) -> Section:
    """Play so many minutes of music as fast as they come, then at most one more beside a busy core.

    `tell` hears of every minute.
    """
    for name in engine.bank.names[:1]:
        engine.apply(f"/concept/{name}/eta", 1.0)
    engine.render([], 1.0)
    by_minute: list[Laps] = []
    memory = [resident_bytes()]
    frames = round(minutes * _FRAMES_PER_MINUTE)
    while frames > 0:
        by_minute.append(_played(engine, min(frames, _FRAMES_PER_MINUTE), device))
        memory.append(resident_bytes())
        frames -= _FRAMES_PER_MINUTE
        held = "" if memory[-1] is None else f", memory {memory[-1] / 1e6:.1f} MB"
        tell(f"minute {len(by_minute)}: frames of {by_minute[-1].p50_ms:.2f} ms{held}")
    with other_core_busy() as is_busy:
        busy = _played(engine, min(round(minutes * _FRAMES_PER_MINUTE), _FRAMES_PER_MINUTE), device)
    figures = _figures(by_minute, busy if is_busy else None, memory)
    columns = round(engine.window_seconds * model.config.frame_rate)
    figures["cache_bytes"] = _CONTEXTS * cache_bytes(model.config.decoder, _ROWS, columns)
    figures["minutes"] = minutes
    return _section(figures)


def _played(engine: Engine, frames: int, device: torch.device) -> Laps:
    watch = Stopwatch(device)
    for _ in range(frames):
        engine.advance()
        watch.lap()
    return Laps.of([watch.laps()], device)


def _figures(by_minute: list[Laps], busy: Laps | None, memory: list[int | None]) -> dict[str, Any]:
    everything = Laps(
        *(np.concatenate([getattr(laps, clock) for laps in by_minute], 1) for clock in ("wall", "processor", "times"))
    )
    first, last = by_minute[0], by_minute[-1]
    held = [round(size / 1e6, 1) for size in memory if size is not None]
    return {
        "frame": everything.quantiles(),
        "worst_wall_ms": round(everything.wall_ms(100), 3),
        "beside_a_busy_core": None if busy is None else busy.quantiles(),
        "real_time_factor": round(20.0 / (1000.0 * float(everything.times.mean())), 3),
        "wall_real_time_factor": round(20.0 / (1000.0 * float(everything.wall.mean())), 3),
        "p50_ms_by_minute": [round(laps.p50_ms, 3) for laps in by_minute],
        "last_minute_over_first": round(last.p50_ms / first.p50_ms, 4),
        "memory_mb": held,
        "memory_growth_mb": round(held[-1] - held[min(1, len(held) - 1)], 1) if held else None,
    }


def _section(figures: dict[str, Any]) -> Section:
    memory = figures["memory_mb"]
    held = "unknown" if not memory else f"{memory[0]:.0f} MB at the start, {memory[-1]:.0f} MB at the end"
    rows = (
        ("music", f"{figures['minutes']:g} min, {figures['real_time_factor']:.2f}x real time"),
        ("frame p50 / p95 / p99, then p50 / p99 on the wall clock", _told(figures["frame"])),
        ("the same beside a busy core", _told(figures["beside_a_busy_core"])),
        ("the longest frame on the wall clock", f"{figures['worst_wall_ms']:.2f} ms"),
        ("median of the last minute over the first's", f"{figures['last_minute_over_first']:.3f}"),
        ("memory of the process", held),
        ("growth after the first minute", "unknown" if not memory else f"{figures['memory_growth_mb']:.1f} MB"),
        ("keys and values, by their shapes", f"{figures['cache_bytes'] / 1e6:.1f} MB"),
    )
    sentences = (
        "The whole engine on the embedded checkpoint: plan, step, codec and limiter, one concept turned up,",
        "contexts changing as in play; as fast as frames come.",
    )
    return Section("A stream without end", sentences, ("what", "measured"), rows, figures)


def _told(quantiles: dict[str, float] | None) -> str:
    if quantiles is None:
        return "no other core"
    times, wall = ("p50_ms", "p95_ms", "p99_ms"), ("wall_p50_ms", "wall_p99_ms")
    return ", ".join(" / ".join(f"{quantiles[name]:.2f}" for name in names) for names in (times, wall)) + " ms"
