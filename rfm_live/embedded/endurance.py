"""Endless play, measured: `python -m rfm_live.embedded.endurance --minutes 30`. Ends with one JSON line.

One long unsteered stream of the engine, past many contexts. What must hold: the music changes context when it should,
and there the next codes are those of a fresh cache that reads the same columns; no frame is missing or repeated, and
the samples are the codec's for exactly those frames; where a context takes over, the signal bends no more than
elsewhere; the last minute is as loud and as tonal as the first, and the minutes between show no trend; and a second
run gives the same samples. Exit code 1 when one of these fails.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import numpy.typing as npt
import torch
import typer
from rich.progress import track

from rfm_live.concepts.meters import frame_levels_db, longest_silence_seconds, tonal_clarity
from rfm_live.embedded import CHECKPOINT, DEFAULT_PROMPT
from rfm_live.engine.defaults import default_settings
from rfm_live.engine.limiter import Limiter
from rfm_live.engine.player import Engine, EngineSettings
from rfm_live.engine.prompts import Prompts
from rfm_live.model.checkpoint import MusicGen, load_checkpoint
from rfm_live.model.codec_stream import StreamingDecoder
from rfm_live.model.delay import delay
from rfm_live.model.sampling import guide, sample

LEVEL_DB, CLARITY = 6.0, 0.15  # how far the last minute may be from the first
SIGMAS = 3.0  # how far chance may take a statistic
SAMPLE_TOLERANCE = 1e-5
_CHUNK = 50  # frames; the live decoder takes them one by one
_STEPS_BETWEEN = 60  # steps checked against a fresh cache that are no change of context

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Stream:
    """What was played: samples [N * hop], codes [K, N], the context's first column at every step [N + K - 1]."""

    samples: Samples
    codes: npt.NDArray[np.int64]
    context_starts: npt.NDArray[np.int64]
    seconds: float

    @property
    def swaps(self) -> npt.NDArray[np.int64]:
        """The steps that are the first in a new context."""
        return np.flatnonzero(np.diff(self.context_starts)) + 1


def play(model: MusicGen, settings: EngineSettings, frames: int, title: str) -> Stream:
    """Play `frames` frames of a checkpoint whose codec is causal, from the start, without any control."""
    engine = Engine(model, None, settings)
    hop = engine.hop
    codebooks = model.config.decoder.codebooks
    samples = np.zeros(frames * hop, np.float32)
    codes = np.zeros((codebooks, frames), np.int64)
    starts = np.zeros(frames + codebooks, np.int64)  # the first frame takes K steps, in the first context
    began = time.perf_counter()
    for frame in track(range(frames), title):
        samples[frame * hop : (frame + 1) * hop] = engine.advance()
        newest = engine.codes
        assert newest is not None
        codes[:, frame] = newest
        starts[frame + codebooks] = cast(int, engine.status()["context_start"])
    return Stream(samples, codes, starts[:-1], time.perf_counter() - began)


def wrong_swaps(stream: Stream, settings: EngineSettings) -> int:
    """How many changes of context are not where the window says: every `frames - prime` columns, `prime` left."""
    window = settings.window
    assert window is not None
    expected = range(window.frames, len(stream.context_starts), window.frames - window.prime)
    starts = [stream.context_starts[step] == step - window.prime for step in stream.swaps]
    return len(set(expected) ^ set(stream.swaps.tolist())) + starts.count(False)


@torch.inference_mode()
def wrong_codes(model: MusicGen, settings: EngineSettings, stream: Stream) -> tuple[int, int]:
    """Compare steps, those after every change of context among them, with a fresh cache -> (compared, different)."""
    decoder, pad = model.decoder, model.config.decoder.pad_id
    columns = delay(torch.from_numpy(stream.codes), pad)  # [K, N + K]
    codebooks = columns.shape[0]
    states = Prompts(model).states(settings.prompt)
    cross = None if states is None else decoder.new_cross(*states)
    rows = 1 if cross is None or settings.sampling.guidance == 1.0 else 2
    last = columns.shape[1] - codebooks  # later columns are those of a clip's end
    between = np.random.default_rng(0).integers(codebooks, last, _STEPS_BETWEEN)
    steps = sorted({int(step) for step in (*stream.swaps, *between) if step < last})
    different = 0
    for step in track(steps, "fresh caches"):
        start = int(stream.context_starts[step])
        context = columns[:, start : step + 1].clone()
        for k in range(codebooks):
            context[k, : k + 1] = pad
        cache = decoder.new_cache(rows, context.shape[1])
        logits = decoder(context.expand(rows, -1, -1), 0, cache, cross)[:, -1]
        codes = sample(guide(logits.numpy(), settings.sampling.guidance), settings.sampling, step)
        different += not np.array_equal(codes, columns[:, step + 1].numpy())
    return len(steps), different


def largest_sample_error(model: MusicGen, stream: Stream) -> float:
    """Largest difference between what was played and the frames decoded again in larger chunks and limited."""
    decoder, limiter, hop = StreamingDecoder(model.codec), Limiter(model.config.sample_rate), model.config.hop
    worst = 0.0
    for first in track(range(0, stream.codes.shape[1], _CHUNK), "decoding again"):
        pushed = decoder.push(torch.from_numpy(stream.codes[:, first : first + _CHUNK]))
        played = stream.samples[first * hop : (first + _CHUNK) * hop]
        worst = max(worst, float(np.abs(limiter.process(pushed.numpy()) - played).max()))
    return worst


def bends(stream: Stream, hop: int, codebooks: int) -> dict[str, float]:
    """Largest |second difference| in the K frames where a new context comes in, beside all other runs of K frames.

    The codes of a frame come from K steps, so a change of context spreads over that many frames.
    """
    curve = np.abs(np.diff(stream.samples, 2, prepend=np.zeros(2, np.float32)))  # [N * hop]
    by_frame = curve.reshape(-1, hop).max(axis=1)  # [N]
    runs = np.lib.stride_tricks.sliding_window_view(by_frame, codebooks).max(axis=1)  # [N - K + 1]
    first = stream.swaps - (codebooks - 1)  # the step that completes frame f is f + K - 1
    first = first[first < len(runs)]
    near = np.zeros(len(runs), np.bool_)
    for offset in range(1 - codebooks, codebooks):
        near[np.clip(first + offset, 0, len(runs) - 1)] = True
    elsewhere = np.sort(runs[~near])
    ranks = np.searchsorted(elsewhere, runs[first]) / len(elsewhere)  # 0..1, uniform when a swap is like any place
    return {
        "bend_at_swaps_median": round(float(np.median(runs[first])), 4),
        "bend_elsewhere_median": round(float(np.median(elsewhere)), 4),
        "bend_at_swaps_max": round(float(runs[first].max()), 4),
        "bend_elsewhere_max": round(float(elsewhere[-1]), 4),
        "bend_mean_rank": round(float(ranks.mean()), 3),
        "bend_mean_rank_limit": round(0.5 + SIGMAS * (1 / 12 / len(ranks)) ** 0.5, 3),
    }


def minutes_of(samples: Samples, rate: int) -> list[Samples]:
    """The stream in whole minutes; in thirds where it is shorter than three."""
    length = min(60 * rate, len(samples) // 3)
    return [samples[at : at + length] for at in range(0, len(samples) - length + 1, length)]


def ends(values: Sequence[float]) -> dict[str, float]:
    """First and last of the minutes' values, their spread, and their trend: Spearman's rank correlation with time."""
    order = np.argsort(np.argsort(values))
    trend = np.corrcoef(order, np.arange(len(values)))[0, 1]
    told = {"first": values[0], "last": values[-1], "spread": np.std(values, ddof=1), "trend": trend}
    return {name: round(float(value), 3) for name, value in told.items()}


def is_steady(values: dict[str, float], most: float, minutes: int) -> bool:
    """Whether last and first differ by no more than `most`, and no trend shows (which needs more than ten minutes).

    Without a trend the rank correlation of n values has the standard deviation 1 / sqrt(n - 1).
    """
    is_near = abs(values["last"] - values["first"]) <= most
    return is_near and abs(values["trend"]) <= SIGMAS / (minutes - 1) ** 0.5


def statistics(samples: Samples, rate: int) -> dict[str, Any]:
    """Level and tonal clarity of the minutes; silence and peak of the whole."""
    minutes = minutes_of(samples, rate)
    return {
        "parts": len(minutes),
        "level_db": ends([float(np.median(frame_levels_db(part))) for part in minutes]),
        "tonal_clarity": ends([tonal_clarity(part) for part in track(minutes, "tonal clarity")]),
        "longest_silence_seconds": round(longest_silence_seconds(samples), 2),
        "peak": round(float(np.abs(samples).max()), 3),
    }


def verdict(found: dict[str, Any]) -> dict[str, bool]:
    """Each thing that must hold, and whether it does."""
    return {
        "contexts change where the window says": found["wrong_swaps"] == 0 != found["swaps"],
        "codes are those of fresh caches": found["wrong_codes"] == 0,
        "samples are those of the frames": found["largest_sample_error"] <= SAMPLE_TOLERANCE,
        "swaps bend no more than elsewhere": (
            found["bend_at_swaps_max"] <= found["bend_elsewhere_max"]
            and found["bend_mean_rank"] <= found["bend_mean_rank_limit"]
        ),
        "the last minute is as loud as the first": is_steady(found["level_db"], LEVEL_DB, found["parts"]),
        "the last minute is as tonal as the first": is_steady(found["tonal_clarity"], CLARITY, found["parts"]),
        "a second run is the same": found.get("identical_again", True),
    }


def measure(
    minutes: Annotated[float, typer.Option(help="length of the stream", min=1.0)] = 30.0,
    seed: Annotated[int, typer.Option(help="names the music", min=0)] = 1,
    again: Annotated[bool, typer.Option(help="play it a second time and compare")] = True,
    checkpoint: Annotated[Path, typer.Option(help="folder of a checkpoint with a causal codec")] = CHECKPOINT,
) -> None:
    """Play for so many minutes of music and measure. Ends with one JSON line."""
    torch.set_num_threads(1)
    model = load_checkpoint(checkpoint)
    if not model.config.codec.causal:
        raise typer.BadParameter(f"{checkpoint}: its codec is centred, expected a causal one")
    settings = default_settings(checkpoint, model.config, prompt=DEFAULT_PROMPT, seed=seed)
    hop, rate = model.config.hop, model.config.sample_rate
    frames = round(minutes * 60 * model.config.frame_rate)
    stream = play(model, settings, frames, "playing")
    compared, different = wrong_codes(model, settings, stream)
    found: dict[str, Any] = {
        "minutes": minutes,
        "seed": seed,
        "checkpoint_sha256": model.sha256,
        "samples_sha256": hashlib.sha256(stream.samples.tobytes()).hexdigest(),
        "frames": frames,
        "real_time_factor": round(minutes * 60 / stream.seconds, 2),
        "swaps": len(stream.swaps),
        "wrong_swaps": wrong_swaps(stream, settings),
        "steps_compared": compared,
        "wrong_codes": different,
        "largest_sample_error": largest_sample_error(model, stream),
        **bends(stream, hop, model.config.decoder.codebooks),
        **statistics(stream.samples, rate),
    }
    if again:
        second = play(load_checkpoint(checkpoint), settings, frames, "playing again")
        found["identical_again"] = bool(np.array_equal(second.samples, stream.samples))
    found["holds"] = verdict(found)
    print(json.dumps(found))
    if not all(found["holds"].values()):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(measure)
