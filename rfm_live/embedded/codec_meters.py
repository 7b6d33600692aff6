"""Meters of the embedded codec and of the losses on its codes, on held-out pieces. Used by `evaluate` only."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from rfm_live.concepts.meters import (
    Samples,
    frame_levels_db,
    interval,
    pitch_survival,
    spectral_centroid_hz,
    stft_distance,
)
from rfm_live.model.checkpoint import MusicGen
from rfm_live.model.codec_stream import StreamingDecoder
from rfm_live.model.delay import delay

CHUNK_FRAMES = 5
Codes = npt.NDArray[np.int64]


def code(model: MusicGen, clip: Samples) -> tuple[torch.Tensor, Samples]:
    """Codes [K, T] of a clip, and the clip after coding."""
    with torch.inference_mode():
        codes = model.codec.encode(torch.from_numpy(clip)[None, None])
        return codes[0], model.codec.decode(codes)[0, 0].numpy()


def codec_meters(model: MusicGen, clips: Sequence[Samples]) -> dict[str, object]:
    """What coding does to held-out clips; loudness and centroid as ratios to the original, by their medians too."""
    pairs = [(clip, code(model, clip)[1]) for clip in clips]
    loudness = [float(np.sqrt(np.square(after).mean() / np.square(clip).mean())) for clip, after in pairs]
    levels = [
        float(np.median((frame_levels_db(after) - before_db)[before_db > -50]))
        for clip, after in pairs
        for before_db in [frame_levels_db(clip)]
    ]
    centroid = [spectral_centroid_hz(after) / max(spectral_centroid_hz(clip), 1.0) for clip, after in pairs]
    return {
        "pitch_survival": interval([pitch_survival(clip, after) for clip, after in pairs]),
        "stft_distance": interval([stft_distance(clip, after) for clip, after in pairs]),
        "loudness_ratio": interval(loudness),
        "loudness_ratio_median": round(float(np.median(loudness)), 3),
        "frame_level_error_db": interval(levels),
        "centroid_ratio": interval(centroid),
        "centroid_ratio_median": round(float(np.median(centroid)), 3),
        "decoding_times_real_time": round(decoding_speed(model, code(model, clips[0])[0]), 1),
    }


def decoding_speed(model: MusicGen, codes: torch.Tensor) -> float:
    """How much faster than real time codes [K, T] are decoded in chunks of 5 frames: by the median chunk, in processor
    time, since others may share the machine.
    """
    decoder, times = StreamingDecoder(model.codec), []
    with torch.inference_mode():
        for start in range(0, codes.shape[1] - CHUNK_FRAMES, CHUNK_FRAMES):
            began = time.process_time()
            decoder.push(codes[:, start : start + CHUNK_FRAMES])
            times.append(time.process_time() - began)
    return CHUNK_FRAMES / model.config.frame_rate / float(np.median(times))


def caption_losses(model: MusicGen, clips: Sequence[Samples], captions: Sequence[str]) -> dict[str, object]:
    """Next-token loss in nats per codebook with the piece's own caption, with another piece's, and with none."""
    encoder, pad = model.text_encoder(), model.config.decoder.pad_id
    losses: dict[str, list[npt.NDArray[np.float64]]] = {"own_caption": [], "other_caption": [], "no_caption": []}
    for index, clip in enumerate(clips):
        codes, _ = code(model, clip)
        frames = codes.shape[1]
        columns = delay(codes, pad)[:, : frames + 1]
        texts = {"own_caption": captions[index], "other_caption": captions[index - 1], "no_caption": ""}
        for name, text in texts.items():
            encoded = encoder.encode(text)
            with torch.inference_mode():
                cross = None if encoded is None else model.decoder.new_cross(*encoded)
                cache = model.decoder.new_cache(1, frames)
                logits = model.decoder(columns[None, :, :-1], 0, cache, cross)[0].log_softmax(-1)  # [T, K, V]
            per_codebook = [
                -float(logits[k:, k].gather(1, columns[k, k + 1 :, None]).mean()) for k in range(columns.shape[0])
            ]
            losses[name].append(np.asarray(per_codebook))
    return {name: [round(float(value), 4) for value in np.mean(rows, axis=0)] for name, rows in losses.items()}


def baseline_losses(taught: Sequence[Codes], judged: Sequence[Codes], entries: int) -> list[float]:
    """Next-token loss in nats per codebook of who knows only repetition and pairs, learned on codes [K, T] of `taught`.

    p(b after a) = r [a = b] + s count(a, b) / count(a) + (1 - r - s) p(b), with the r and s of a grid in steps of 0.1
    that are best on `judged` itself: no worse a baseline can be had from this family.
    """
    losses = []
    for k in range(len(taught[0])):
        pairs = np.zeros((entries, entries))
        for codes in taught:
            np.add.at(pairs, (codes[k, :-1], codes[k, 1:]), 1.0)
        single = (pairs.sum(axis=0) + 0.1) / (pairs.sum() + 0.1 * entries)
        after = pairs / np.maximum(pairs.sum(axis=1, keepdims=True), 1.0)
        before, then = (np.concatenate([codes[k, part] for codes in judged]) for part in (slice(-1), slice(1, None)))
        mixtures = [
            r * (before == then) + s * after[before, then] + (1 - r - s) * single[then]
            for r in np.arange(0, 0.95, 0.1)
            for s in np.arange(0, 0.95 - r, 0.1)
        ]
        losses.append(round(min(float(-np.log(np.maximum(p, 1e-12)).mean()) for p in mixtures), 4))
    return losses
