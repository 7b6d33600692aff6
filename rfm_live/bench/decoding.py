"""Section "decoding": codes to samples, as they come, offline, and as transformers' streamers do it.

A streamer for transformers decodes everything that it has so far, at every chunk, and plays the end of it: its work
grows with the square of the length. Ours decodes every frame once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rfm_live.bench.report import Section
from rfm_live.bench.shapes import Pair, decoder_bytes
from rfm_live.bench.timing import Floats, Laps, Stopwatch, bandwidth, in_turn, ratio
from rfm_live.model.codec_stream import StreamingDecoder

CHUNKS = (1, 5)
_FRAME_MS = 20.0


@dataclass(frozen=True)
class Clip:
    """How much is decoded in a round: `frames`, a multiple of 5; transformers' way only the first `redecoded`."""

    frames: int
    redecoded: int
    rounds: int


def decoding_section(figures: Mapping[str, dict[str, Any]]) -> Section:
    """Real-time factors of every way, from the `decoding_figures` of every codec by name."""
    rows = []
    for name, found in figures.items():
        ways = ("chunks_of_1", "chunks_of_5", "offline", "transformers_offline", "redecoding")
        floor = f"{found['bytes'] / 1e6:.1f} MB, {found['floor_factor_of_5']:.1f}x"
        rows.append((name, *(f"{found[way]:.2f}x" for way in ways), floor, f"{found['largest_error']:.1e}"))
    sentences = (
        "Seconds of music decoded in a second, in turn on the same weights. Re-decoding is what streamers for",
        "transformers do, at chunks of 5 frames: all codes so far, at every chunk. It slows down as the music",
        "goes on; the figure is for as many seconds as the JSON tells. A push must read the decoder's weights",
        "once: the floor is for chunks of 5. The error is the largest difference between streamed and offline",
        "samples.",
    )
    header = ("codec", "chunks of 1", "chunks of 5", "offline", "transformers", "re-decoding", "bytes, floor", "error")
    return Section("Decoding as it comes", sentences, header, tuple(rows), dict(figures))


def decoding_figures(pair: Pair, clip: Clip, device: torch.device) -> dict[str, Any]:
    """Measure one codec."""
    config = pair.ours.config.codec
    generator = torch.Generator().manual_seed(2)
    codes = torch.randint(0, config.codebook_size, (config.codebooks, clip.frames), generator=generator).to(device)
    ways: dict[str, Callable[[], Floats]] = {
        f"chunks_of_{chunk}": partial(_streamed, pair, codes, chunk, device) for chunk in CHUNKS
    }
    ways["offline"] = partial(_offline, pair, codes, device)
    ways["transformers_offline"] = partial(_theirs, pair, codes, [clip.frames], device)
    ends = list(range(5, clip.redecoded + 1, 5))
    ways["redecoding"] = partial(_theirs, pair, codes, ends, device)
    laps = in_turn(ways, clip.rounds, device)
    moved = decoder_bytes(config)
    speed = bandwidth(device, moved)
    found: dict[str, Any] = {
        f"chunks_of_{chunk}": _factor(laps[f"chunks_of_{chunk}"], clip.frames - 5) for chunk in CHUNKS
    }
    found |= {way: _factor(laps[way], clip.frames) for way in ("offline", "transformers_offline")}
    return found | {
        "redecoding": _factor(laps["redecoding"], clip.redecoded),
        "redecoded_seconds": clip.redecoded * _FRAME_MS / 1000.0,
        "faster_than_redecoding": round(
            ratio(laps["redecoding"], laps["chunks_of_5"]) * (clip.frames - 5) / clip.redecoded, 2
        ),
        "bytes": moved,
        "floor_factor_of_5": round(5 * _FRAME_MS / 1000.0 * speed.best / moved, 2),
        "copy_bytes_per_second": round(speed.copy),
        "read_bytes_per_second": round(speed.read),
        "largest_error": _largest_error(pair, codes),
    }


def _factor(laps: Laps, frames: int) -> float:
    """How many times faster than real time: the median over rounds."""
    return round(_FRAME_MS * frames / laps.p50_ms, 3)


def _streamed(pair: Pair, codes: Tensor, chunk: int, device: torch.device) -> Floats:
    """Push all but the first five frames, which start the stream."""
    decoder = StreamingDecoder(pair.ours.codec)
    decoder.push(codes[:, :5])
    watch = Stopwatch(device)
    for start in range(5, codes.shape[1], chunk):
        decoder.push(codes[:, start : start + chunk])
    watch.lap()
    return watch.laps()


def _offline(pair: Pair, codes: Tensor, device: torch.device) -> Floats:
    watch = Stopwatch(device)
    with torch.inference_mode():
        pair.ours.codec.decode(codes[None])
    watch.lap()
    return watch.laps()


def _theirs(pair: Pair, codes: Tensor, ends: list[int], device: torch.device) -> Floats:
    """Decode the codes up to every one of `ends`, from the beginning."""
    watch = Stopwatch(device)
    with torch.inference_mode():
        for end in ends:
            pair.reference.audio_encoder.decode(codes[None, None, :, :end], [None])
    watch.lap()
    return watch.laps()


def _largest_error(pair: Pair, codes: Tensor) -> float:
    decoder = StreamingDecoder(pair.ours.codec)
    with torch.inference_mode():
        parts = [decoder.push(codes[:, start : start + 5]) for start in range(0, codes.shape[1], 5)]
        streamed = torch.cat([*parts, decoder.flush()])
        offline = pair.ours.codec.decode(codes[None])[0, 0]
    return float((streamed - offline).abs().max() / offline.abs().max())
