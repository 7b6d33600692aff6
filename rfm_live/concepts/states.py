"""Sound to hidden states, taken as in generation, and pooled: what a probe learns from. Used by `activations`.

The codes enter the decoder behind BOS and in the delay pattern, without text, at the site where steering will add. The
state that belongs to frame t is the one that has just read frame t of the first codebook, and t - k of codebook k.

Shapes: B clips, N samples, T frames, L blocks, D width, S segments.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rfm_live.errors import ClipError
from rfm_live.model.checkpoint import MusicGen
from rfm_live.model.decoder import Decoder
from rfm_live.model.delay import delay
from rfm_live.model.injection import Injections, SiteInjection

POOLINGS = ("mean", "last", "segments")
SITES = ("block_output", "attention_output", "ffn_output")
"""Where steering may act: what a block hands on, or what its self-attention or its feed-forward layer adds."""
_STATE_BYTES = 128 << 20
"""What the states of one batch may take: the largest MusicGen's 48 blocks fill it with two clips of 4 s."""


@dataclass(frozen=True)
class Reading:
    """How sound is read: `site`, number of `segments`, and the seconds at the start in which too little has been heard.

    Mean and segments leave the skipped seconds out, but never more than half of a clip. `batch` clips are read at once,
    fewer where the model is large; `shard` of them make one file.
    """

    site: str = "block_output"
    segments: int = 8
    skipped_seconds: float = 0.5
    batch: int = 8
    shard: int = 32

    def __post_init__(self) -> None:
        if self.site not in SITES:
            raise ClipError(f"site is '{self.site}', expected {', '.join(SITES)}")
        if not self.skipped_seconds >= 0.0:
            raise ClipError(f"skipped seconds are {self.skipped_seconds:g}, expected 0 or more")
        for name, value in (("segments", self.segments), ("batch", self.batch), ("shard", self.shard)):
            if value < 1:
                raise ClipError(f"{name} is {value}, expected 1 or more")


@dataclass(frozen=True)
class Points:
    """Pooled states of B clips in float32: `mean` and `last` [B, L, D], `segments` [B, L, S, D]."""

    mean: Tensor
    last: Tensor
    segments: Tensor

    def __getitem__(self, pooling: str) -> Tensor:
        return {"mean": self.mean, "last": self.last, "segments": self.segments}[pooling]


def learning_device() -> str:
    """The device to learn on: a GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def hidden_states(model: MusicGen, samples: Tensor, site: str = "block_output") -> Tensor:
    """States [B, L, T, D] of samples [B, N] at the model's rate, one for each of the N / hop frames."""
    weight = model.decoder.embedding.weight
    codes = model.codec.encode(samples.to(weight.device, model.codec.quantizer.codebooks.dtype)[:, None])  # [B, K, T]
    frames = codes.shape[2]
    columns = torch.stack([delay(clip, model.config.decoder.pad_id) for clip in codes])  # [B, K, T + K]
    return _states_at(model.decoder, columns[:, :, : frames + 1], site)[:, :, 1:]  # the first is that of BOS


def _states_at(decoder: Decoder, columns: Tensor, site: str) -> Tensor:
    """States [B, L, T, D] of columns [B, K, T] at a site: the very rows that an injection there would be given."""
    if site == "block_output":
        return decoder.hidden_states(columns, None)
    listener = _Listener(columns.new_zeros(()))
    sites = Injections(attention=listener) if site == "attention_output" else Injections(ffn=listener)
    decoder(columns, 0, decoder.new_cache(columns.shape[0], columns.shape[2]), None, sites)
    return torch.stack(listener.heard, dim=1)  # [B, L, T, D]


class _Listener(SiteInjection):
    """An injection that keeps every block's rows [B, T, D] and changes nothing."""

    def __init__(self, push: Tensor) -> None:
        self.heard: list[Tensor] = []

    def inject(self, h: Tensor, layer: int) -> Tensor:
        self.heard.append(h)
        return h


def pooled(states: Tensor, segments: int, skipped_frames: int) -> Points:
    """All poolings of states [B, L, T, D]; the segments are as equal as `pooling.pool_segments` makes them.

    Raises:
        ClipError: there are fewer frames left than segments.
    """
    frames = states.shape[2]
    heard = states[:, :, min(skipped_frames, frames // 2) :].float()  # [B, L, T', D]
    if heard.shape[2] < segments:
        raise ClipError(f"too short: {frames} frames leave {heard.shape[2]} to pool, expected at least {segments}")
    parts = [part.mean(dim=2) for part in torch.tensor_split(heard, segments, dim=2)]
    return Points(heard.mean(dim=2), states[:, :, -1].float(), torch.stack(parts, dim=2))


def read_points(model: MusicGen, samples: Tensor, reading: Reading) -> Points:
    """The points of samples [B, N], on the CPU. Raises `ClipError` for clips that are too short to pool."""
    with torch.inference_mode():
        states = hidden_states(model, samples, reading.site)
        points = pooled(states, reading.segments, round(reading.skipped_seconds * model.config.frame_rate))
    return Points(points.mean.cpu(), points.last.cpu(), points.segments.cpu())


def batch_size(model: MusicGen, frames: int, reading: Reading) -> int:
    """How many clips of `frames` frames are read at once: `reading.batch`, or what fits the memory for their states."""
    decoder = model.config.decoder
    return max(1, min(reading.batch, _STATE_BYTES // (4 * decoder.layers * (frames + 1) * decoder.width)))
