"""Meters of the embedded checkpoint: `python -m rfm_live.embedded.evaluate` prints them and writes the model card.

Everything is measured on held-out seeds, on audio that our own engine renders, with the external meters of
`concepts.meters`; 95 % intervals are bootstrapped over clips.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import Progress

from rfm_live.embedded import CHECKPOINT
from rfm_live.embedded.card import write_card
from rfm_live.embedded.codec_meters import baseline_losses, caption_losses, code, codec_meters
from rfm_live.embedded.corpus import piece
from rfm_live.embedded.heard_lessons import FRAMES, hear_lessons
from rfm_live.embedded.music_meters import asked_pieces, caption_following, piece_meters, rendered, stream_meters
from rfm_live.embedded.note_meters import note_meters
from rfm_live.embedded.style_classifiers import StyleClassifiers, spoken_style
from rfm_live.model.checkpoint import load_checkpoint

SEED = 0
CLIP_FRAMES, PIECE_FRAMES = 500, 1500
_console = Console()


def evaluate(
    checkpoint: Annotated[Path, typer.Option(help="folder of the checkpoint")] = CHECKPOINT,
    minutes: Annotated[float, typer.Option(help="length of the unsteered stream")] = 10.0,
    clips: Annotated[int, typer.Option(help="held-out clips of 10 s for codec and losses")] = 24,
    lessons: Annotated[int, typer.Option(help="training pieces of 8 s for classifiers and baseline")] = 1500,
    work: Annotated[Path, typer.Option(help="where what is heard of those is kept")] = Path("runs/evaluation"),
    prompts: Annotated[int, typer.Option(help="prompts of which 8 s each are judged, at once and 12 s later")] = 270,
    pieces: Annotated[int, typer.Option(help="unsteered pieces of 30 s")] = 72,
) -> None:
    """Measure the checkpoint; write `meters.json` and the model card beside it."""
    torch.set_num_threads(1)
    model = load_checkpoint(checkpoint)
    held_out = [piece(SEED, "held_out", index, CLIP_FRAMES) for index in range(clips)]
    corpus, captions = rendered(held_out), [item.caption for item in held_out]
    with Progress(console=_console) as bar:
        task = bar.add_task("training listeners", total=lessons)
        taught = hear_lessons(model, lessons, work, lambda done, _: bar.update(task, completed=done))

    def losses() -> dict[str, object]:
        judged = [code(model, clip)[0].numpy() for clip in corpus]
        baseline = baseline_losses(
            [codes.astype(np.int64) for codes in taught.codes], judged, model.config.decoder.vocab
        )
        return {**caption_losses(model, corpus, captions), "repeat_and_bigram": baseline}

    def following() -> dict[str, object]:
        heard = StyleClassifiers(taught.classifiers(spoken_style))
        return dict(caption_following(model, heard, asked_pieces(prompts, FRAMES, SEED)))

    parts: dict[str, Callable[[], dict[str, object]]] = {
        "codec": lambda: codec_meters(model, corpus),
        "loss_nats": losses,
        "caption_following": following,
        "pieces": lambda: piece_meters(model, asked_pieces(pieces, PIECE_FRAMES, SEED + 1)),
        "note_auc": lambda: note_meters(model),
        "stream": lambda: stream_meters(model, minutes),
    }
    meters: dict[str, object] = {"sha256": model.sha256}
    for name, measured in parts.items():
        meters[name] = measured()
        _console.print(name, meters[name])
    (checkpoint / "meters.json").write_text(json.dumps(meters, indent=2) + "\n")
    write_card(checkpoint)


if __name__ == "__main__":
    typer.run(evaluate)
