"""Meters of the embedded checkpoint: `python -m rfm_live.embedded.evaluate` prints them and writes the model card.

Everything is measured on held-out seeds, on audio that our own engine renders, with the external meters of
`concepts.meters`; 95 % intervals are bootstrapped over clips.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
import typer
from rich.console import Console

from rfm_live.concepts.meters import (
    chroma,
    frame_levels_db,
    longest_silence_seconds,
    pitch_survival,
    strongest_pitch_class,
    tonal_clarity,
)
from rfm_live.embedded import CHECKPOINT, DEFAULT_PROMPT
from rfm_live.embedded.card import write_card
from rfm_live.embedded.composer import (
    INSTRUMENTS,
    TEMPO_WORDS,
    TEXTURE_WORDS,
    Piece,
    Style,
    compose,
    draw_style,
)
from rfm_live.embedded.corpus import piece
from rfm_live.embedded.render import render_pieces
from rfm_live.embedded.style_classifiers import StyleClassifiers
from rfm_live.engine.defaults import default_settings
from rfm_live.engine.player import Engine
from rfm_live.model.checkpoint import MusicGen, load_checkpoint
from rfm_live.model.delay import delay

HELD_OUT_SEED = 0
PROMPT_FRAMES = 400
_console = Console()
Clip = npt.NDArray[np.float32]


def interval(values: Sequence[float]) -> list[float]:
    """Mean and bootstrapped 95 % interval [mean, low, high] (1000 resamples, fixed seed)."""
    data = np.asarray(values, np.float64)
    draws = np.random.default_rng(0).choice(data, (1000, len(data))).mean(axis=1)
    return [round(float(value), 4) for value in (data.mean(), *np.percentile(draws, (2.5, 97.5)))]


def held_out_clips(count: int, frames: int) -> tuple[list[Clip], list[str]]:
    """Rendered held-out pieces as float samples, and their captions."""
    pieces = [piece(HELD_OUT_SEED, "held_out", index, frames) for index in range(count)]
    return [clip.astype(np.float32) / 32767.0 for clip in render_pieces(pieces)], [item.caption for item in pieces]


def code(model: MusicGen, clip: Clip) -> tuple[torch.Tensor, Clip]:
    """Codes [K, T] of a clip, and the clip after coding."""
    with torch.inference_mode():
        codes = model.codec.encode(torch.from_numpy(clip)[None, None])
        return codes[0], model.codec.decode(codes)[0, 0].numpy()


def codec_meters(model: MusicGen, clips: Sequence[Clip]) -> dict[str, object]:
    """Pitch survival and loudness error of the codec."""
    coded = [code(model, clip)[1] for clip in clips]
    loudness = [
        float(np.median(frame_levels_db(after)[before_db > -50] - before_db[before_db > -50]))
        for clip, after in zip(clips, coded, strict=True)
        for before_db in [frame_levels_db(clip)]
    ]
    survival = [pitch_survival(clip, after) for clip, after in zip(clips, coded, strict=True)]
    return {"pitch_survival": interval(survival), "loudness_error_db": interval(loudness)}


def caption_losses(model: MusicGen, clips: Sequence[Clip], captions: Sequence[str]) -> dict[str, object]:
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


def generate(model: MusicGen, prompt: str, seed: int, seconds: float) -> Clip:
    """Unsteered music of the engine with the checkpoint's own settings."""
    engine = Engine(model, None, default_settings(model.path, model.config, prompt=prompt, seed=seed))
    return engine.render([], seconds)


def asked_pieces(count: int) -> list[Piece]:
    """Held-out pieces whose styles go round the instruments, with and without drums; only style and caption matter."""
    pieces = []
    for index in range(count):
        rng = np.random.default_rng([HELD_OUT_SEED, 17, index])
        turn, with_drums = index % len(INSTRUMENTS), bool(index // len(INSTRUMENTS) % 2)
        style = replace(draw_style(rng), instrument=INSTRUMENTS[turn], drums=with_drums)
        pieces.append(compose(rng, PROMPT_FRAMES, style))
    return pieces


def full_caption(style: Style) -> str:
    """A caption that names everything the classifiers listen for."""
    tempo, density = TEMPO_WORDS[style.tempo][0], "dense" if style.dense else "sparse"
    texture, drums = TEXTURE_WORDS[style.texture][0], "with drums" if style.drums else "no drums"
    return f"{density} {tempo} {style.instrument.words[0]} {texture}, {drums}"


def caption_following(model: MusicGen, taught: int, asked: int) -> dict[str, object]:
    """How often classifiers hear what the prompt asked for, beside how often they are right on corpus clips.

    Learned on `taught` training pieces of 8 s, as rendered and as coded; judged on `asked` held-out pieces rendered
    from notes, and on music generated from captions of the same styles. Chance is 1 over the number of classes.
    """
    lessons = [piece(HELD_OUT_SEED, "train", index, PROMPT_FRAMES) for index in range(taught)]
    clips = [clip.astype(np.float32) / 32767.0 for clip in render_pieces(lessons)]
    coded = [code(model, clip)[1] for clip in clips]
    styles = [lesson.style for lesson in lessons]
    classifiers = StyleClassifiers.fit([*clips, *coded], [*styles, *styles])
    wanted = asked_pieces(asked)
    corpus = [clip.astype(np.float32) / 32767.0 for clip in render_pieces(wanted)]
    played = [
        generate(model, full_caption(item.style), seed, PROMPT_FRAMES / 50) for seed, item in enumerate(wanted, start=1)
    ]
    wanted_styles = [item.style for item in wanted]
    on_corpus, on_played = (classifiers.hits(heard, wanted_styles) for heard in (corpus, played))
    return {
        name: {
            "corpus": interval([float(hit) for hit in on_corpus[name]]),
            "generated": interval([float(hit) for hit in on_played[name]]),
        }
        for name in on_corpus
    }


def stream_meters(model: MusicGen, minutes: float, corpus: Sequence[Clip]) -> dict[str, object]:
    """One long unsteered stream: silence, tonal clarity at both ends beside the corpus's, pitch-class spread."""
    stream = generate(model, DEFAULT_PROMPT, 1, minutes * 60)
    minute = 60 * 32_000
    first, last = stream[:minute], stream[-minute:]
    strongest = strongest_pitch_class(stream)
    shares = np.bincount(strongest[strongest >= 0], minlength=12) / max(1, (strongest >= 0).sum())
    return {
        "minutes": minutes,
        "longest_silence_seconds": round(longest_silence_seconds(stream), 2),
        "tonal_clarity_first_minute": round(tonal_clarity(first), 3),
        "tonal_clarity_last_minute": round(tonal_clarity(last), 3),
        "tonal_clarity_corpus": interval([tonal_clarity(clip) for clip in corpus]),
        "level_db_first_and_last_minute": [round(float(np.median(frame_levels_db(part))), 1) for part in (first, last)],
        "largest_pitch_class_share": round(float(shares.max()), 3),
        "peak": round(float(np.abs(stream).max()), 3),
        "chroma_entropy_bits": round(_entropy(chroma(stream).sum(axis=1)), 2),
    }


def _entropy(weights: npt.NDArray[np.float32]) -> float:
    shares = weights / weights.sum()
    return float(-(shares * np.log2(np.maximum(shares, 1e-12))).sum())


def evaluate(
    checkpoint: Annotated[Path, typer.Option(help="folder of the checkpoint")] = CHECKPOINT,
    minutes: Annotated[float, typer.Option(help="length of the unsteered stream")] = 10.0,
    clips: Annotated[int, typer.Option(help="held-out clips of 10 s for codec and losses")] = 24,
) -> None:
    """Measure the checkpoint; write `meters.json` and the model card beside it."""
    torch.set_num_threads(1)
    model = load_checkpoint(checkpoint)
    corpus, captions = held_out_clips(clips, 500)
    meters: dict[str, object] = {"sha256": model.sha256}
    parts: dict[str, Callable[[], dict[str, object]]] = {
        "codec": lambda: codec_meters(model, corpus),
        "loss_nats": lambda: caption_losses(model, corpus, captions),
        "caption_following": lambda: caption_following(model, 360, 48),
        "stream": lambda: stream_meters(model, minutes, corpus),
    }
    for name, measured in parts.items():
        meters[name] = measured()
        _console.print(name, meters[name])
    (checkpoint / "meters.json").write_text(json.dumps(meters, indent=2) + "\n")
    write_card(checkpoint)


if __name__ == "__main__":
    typer.run(evaluate)
