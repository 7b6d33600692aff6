"""Meters of what the embedded checkpoint plays unsteered, by our own engine. Used by `evaluate` only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from rfm_live.concepts.meters import (
    Samples,
    chroma,
    frame_levels_db,
    interval,
    longest_silence_seconds,
    onset_regularity,
    strongest_pitch_class,
    tonal_clarity,
)
from rfm_live.embedded import DEFAULT_PROMPT
from rfm_live.embedded.codec_meters import code
from rfm_live.embedded.composer import (
    INSTRUMENTS,
    TEMPO_WORDS,
    TEXTURE_WORDS,
    Piece,
    Style,
    compose,
    draw_style,
)
from rfm_live.embedded.render import render_pieces
from rfm_live.embedded.style_classifiers import StyleClassifiers
from rfm_live.engine.defaults import default_settings
from rfm_live.engine.player import Engine
from rfm_live.model.checkpoint import MusicGen

_ASKED = 17
_LATER, _MINUTE = 12 * 32_000, 60 * 32_000


def generate(model: MusicGen, prompt: str, seed: int, seconds: float) -> Samples:
    """Unsteered music of the engine with the checkpoint's own settings."""
    engine = Engine(model, None, default_settings(model.path, model.config, prompt=prompt, seed=seed))
    return engine.render([], seconds)


def rendered(pieces: Sequence[Piece]) -> list[Samples]:
    """The pieces as the corpus would hold them, float samples."""
    return [clip.astype(np.float32) / 32767.0 for clip in render_pieces(pieces)]


def asked_pieces(count: int, frames: int, seed: int) -> list[Piece]:
    """Held-out pieces, every other one with drums and bass; instruments come in a drawn order, each once before any
    comes again.
    """
    pieces = []
    for index in range(count):
        turn, place = divmod(index, len(INSTRUMENTS))
        order = np.random.default_rng([seed, _ASKED, turn]).permutation(len(INSTRUMENTS))
        rng = np.random.default_rng([seed, _ASKED, turn, place])
        drawn, has_drums = draw_style(rng), index % 2 == 1
        style = replace(drawn, instrument=INSTRUMENTS[order[place]], drums=has_drums, bass=has_drums)
        pieces.append(compose(rng, frames, style))
    return pieces


def full_caption(style: Style) -> str:
    """A caption that names everything the classifiers listen for."""
    tempo, density = TEMPO_WORDS[style.tempo][0], "dense" if style.dense else "sparse"
    texture, drums = TEXTURE_WORDS[style.texture][0], "with drums" if style.drums else "no drums"
    return f"{density} {tempo} {style.instrument.words[0]} {texture}, {drums}"


def caption_following(
    model: MusicGen, classifiers: StyleClassifiers, wanted: Sequence[Piece]
) -> dict[str, dict[str, list[float]]]:
    """How often the classifiers hear what was asked for: in pieces rendered from notes, in the same after coding, which
    is the best that a decoder can do, in music generated from captions of the same styles, and in that music 12 s
    later. Chance is 1 over the number of classes.
    """
    styles, corpus = [item.style for item in wanted], rendered(wanted)
    played = [
        generate(model, full_caption(item.style), seed, item.frames / 50 + _LATER / 32_000)
        for seed, item in enumerate(wanted, start=1)
    ]
    heard = {
        "corpus": corpus,
        "corpus_coded": [code(model, clip)[1] for clip in corpus],
        "generated": [clip[:-_LATER] for clip in played],
        "generated_later": [clip[_LATER:] for clip in played],
    }
    hits = {name: classifiers.hits(clips, styles) for name, clips in heard.items()}
    return {
        attribute: {name: interval([float(hit) for hit in found[attribute]]) for name, found in hits.items()}
        for attribute in hits["corpus"]
    }


def piece_meters(model: MusicGen, wanted: Sequence[Piece]) -> dict[str, object]:
    """Pieces of the lengths and captions of `wanted` beside those pieces rendered: tonality, rhythm, silence, and the
    share of pieces that the commonest pitch class dominates.
    """
    played = [generate(model, item.caption, seed, item.frames / 50) for seed, item in enumerate(wanted, start=1000)]
    corpus = rendered(wanted)
    most = [int(np.bincount(kept, minlength=12).argmax()) for kept in map(_voiced, played) if len(kept)]
    return {
        "tonal_clarity": interval([tonal_clarity(clip) for clip in played]),
        "tonal_clarity_corpus": interval([tonal_clarity(clip) for clip in corpus]),
        "onset_regularity": interval([onset_regularity(clip) for clip in played]),
        "onset_regularity_corpus": interval([onset_regularity(clip) for clip in corpus]),
        "longest_silence_seconds": round(max(longest_silence_seconds(clip) for clip in played), 2),
        "longest_silence_seconds_corpus": round(max(longest_silence_seconds(clip) for clip in corpus), 2),
        "level_db": interval([float(np.median(frame_levels_db(clip))) for clip in played]),
        "commonest_dominant_pitch_class": round(float(np.bincount(most, minlength=12).max()) / len(played), 3),
    }


def _voiced(samples: Samples) -> npt.NDArray[np.int64]:
    strongest = strongest_pitch_class(samples)
    return strongest[strongest >= 0]


def stream_meters(model: MusicGen, minutes: float) -> dict[str, object]:
    """One long unsteered stream: silence, tonality, rhythm and level of every minute, pitch-class spread."""
    stream = generate(model, DEFAULT_PROMPT, 1, minutes * 60)
    each = [stream[start : start + _MINUTE] for start in range(0, max(len(stream) - _MINUTE, 0) + 1, _MINUTE)]
    voiced = _voiced(stream)
    shares = np.bincount(voiced, minlength=12) / max(1, len(voiced))
    return {
        "minutes": minutes,
        "longest_silence_seconds": round(longest_silence_seconds(stream), 2),
        "tonal_clarity_by_minute": [round(tonal_clarity(one), 3) for one in each],
        "onset_regularity_by_minute": [round(onset_regularity(one), 3) for one in each],
        "level_db_by_minute": [round(float(np.median(frame_levels_db(one))), 1) for one in each],
        "largest_pitch_class_share": round(float(shares.max()), 3),
        "peak": round(float(np.abs(stream).max()), 3),
        "chroma_entropy_bits": round(_entropy(chroma(stream).sum(axis=1)), 2),
    }


def _entropy(weights: npt.NDArray[np.float32]) -> float:
    shares = weights / weights.sum()
    return float(-(shares * np.log2(np.maximum(shares, 1e-12))).sum())
