"""The corpus on disk: rendered pieces as one memory-mapped int16 file and their captions. Used by the recipe only.

Piece `i` of a split is drawn from `default_rng([seed, split, i])`, so the same seed gives the same data whatever the
order or the number of runs, and an interrupted rendering goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rfm_live.embedded.composer import Piece, Style, compose, draw_style
from rfm_live.embedded.render import FRAME_SAMPLES, render_pieces

PIECE_FRAMES = 1500
BATCH = 20
SPLITS = {"train": 0, "held_out": 1}


@dataclass(frozen=True)
class Corpus:
    """`samples` int16 [N, frames * 640], one caption and one style per piece."""

    samples: np.ndarray
    captions: list[str]
    styles: list[Style]


def piece(seed: int, split: str, index: int, frames: int = PIECE_FRAMES) -> Piece:
    """Piece `index` of `split` ("train" or "held_out")."""
    return compose(np.random.default_rng([seed, SPLITS[split], index]), frames)


def style(seed: int, split: str, index: int) -> Style:
    """The style of `piece(seed, split, index)`: the first thing that is drawn."""
    return draw_style(np.random.default_rng([seed, SPLITS[split], index]))


def describe(item: Piece) -> dict[str, object]:
    """The style of a piece in plain values, for meters and classifiers."""
    style = item.style
    return {
        "instrument": style.instrument.name,
        "tonic": style.tonic,
        "mode": style.mode,
        "tempo": style.tempo,
        "texture": style.texture,
        "dense": style.dense,
        "drums": style.drums,
    }


def render_corpus(
    folder: Path, split: str, count: int, seed: int, progress: Callable[[int, int], None] = lambda done, total: None
) -> Corpus:
    """Render `count` pieces of `split` into `folder` (resumable) and open them.

    `progress(done, total)` is called after every batch.
    """
    folder.mkdir(parents=True, exist_ok=True)
    audio, texts = folder / f"{split}.i16", folder / f"{split}.jsonl"
    length = PIECE_FRAMES * FRAME_SAMPLES
    written = len(texts.read_text().splitlines()) if texts.exists() else 0
    done = min(written, audio.stat().st_size // (length * 2)) if audio.exists() else 0
    if done < count:
        _append(audio, texts, split, done, count, seed, progress)
    rows = [json.loads(line) for line in texts.read_text().splitlines()[:count]]
    samples = np.memmap(audio, np.int16, "r", shape=(count, length))
    styles = [style(seed, split, index) for index in range(count)]
    return Corpus(samples, [row["caption"] for row in rows], styles)


def _append(
    audio: Path, texts: Path, split: str, done: int, count: int, seed: int, progress: Callable[[int, int], None]
) -> None:
    """Render pieces `done` .. `count` - 1 behind the `done` that are whole; a torn tail of either file is cut off
    first.
    """
    kept = texts.read_text().splitlines(keepends=True)[:done] if texts.exists() else []
    with audio.open("ab") as sound, texts.open("w") as lines:
        sound.truncate(done * PIECE_FRAMES * FRAME_SAMPLES * 2)
        lines.writelines(kept)
        while done < count:
            pieces = [piece(seed, split, index) for index in range(done, min(done + BATCH, count))]
            for item, clip in zip(pieces, render_pieces(pieces), strict=True):
                sound.write(clip.tobytes())
                lines.write(json.dumps({"caption": item.caption, **describe(item)}) + "\n")
            sound.flush()
            lines.flush()
            done += len(pieces)
            progress(done, count)
