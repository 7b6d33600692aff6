"""The twelve note concepts of the embedded checkpoint: `python -m rfm_live.embedded.notes`.

Learns one direction per pitch class from studies (held notes and ostinatos over octaves and instruments) and from
pieces in the key of the pitch class, whose tonic is known to the composer; whole instruments are held out for the
scores. Calibration, signs and effects are those of `concepts.calibration`, heard by the chroma meter.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from rfm_live.concepts.activations import compute_activations
from rfm_live.concepts.calibration import Listening, calibrated
from rfm_live.concepts.clips import Clip, Collection, MemorySound
from rfm_live.concepts.effect_meters import METERS, dominance_of, meter_ear
from rfm_live.concepts.learning import LearningSettings, learn_directions, residual_norms, uncalibrated_bank
from rfm_live.concepts.stage import Play, Stage, control_of, with_controls
from rfm_live.embedded import CHECKPOINT, DEFAULT_PROMPT
from rfm_live.embedded.composer import INSTRUMENTS, PITCH_CLASSES, Piece, compose, draw_style, note_study
from rfm_live.embedded.render import SAMPLE_RATE_HZ, render_pieces
from rfm_live.errors import RfmError
from rfm_live.model.checkpoint import MusicGen, load_checkpoint
from rfm_live.steering.bank import ConceptBank, save_bank

CLIP_FRAMES = 256
PLAY = Play(heard_seconds=6.0, lead_seconds=3.0, prompt=DEFAULT_PROMPT)
_RENDERED_AT_ONCE = 60
_console = Console()


def note_pieces(per_class: int, seed: int) -> list[Piece]:
    """`per_class` pieces of every pitch class, half of them studies; instruments take turns."""
    pieces = []
    for pitch_class in range(12):
        for index in range(per_class):
            rng = np.random.default_rng([seed, 3, pitch_class, index])
            style = replace(draw_style(rng), tonic=pitch_class, instrument=INSTRUMENTS[index // 2 % len(INSTRUMENTS)])
            study = note_study(rng, CLIP_FRAMES, pitch_class, style.instrument)
            pieces.append(study if index % 2 == 0 else compose(rng, CLIP_FRAMES, style))
    return pieces


def note_collection(pieces: Sequence[Piece]) -> Collection:
    """The pieces as labelled sound, grouped by instrument."""
    clips = []
    for start in track(range(0, len(pieces), _RENDERED_AT_ONCE), "rendering clips", console=_console, transient=True):
        some = pieces[start : start + _RENDERED_AT_ONCE]
        for index, (piece, samples) in enumerate(zip(some, render_pieces(some), strict=True), start):
            sound = MemorySound(samples.astype(np.float32) / 32767.0, SAMPLE_RATE_HZ)
            labels: dict[str, float | str] = {"note": PITCH_CLASSES[piece.style.tonic]}
            clips.append(Clip(f"piece_{index}", piece.style.instrument.name, labels, len(samples) / 32_000, sound))
    origin = "clips of rfm_live.embedded.composer, FluidSynth with FluidR3 Mono (MIT)"
    return Collection(tuple(clips), (), origin, "Apache-2.0")


def learn_notes(model: MusicGen, per_class: int, seed: int, listening: Listening) -> ConceptBank:
    """The calibrated bank of the 12 pitch classes."""
    collection, settings = note_collection(note_pieces(per_class, seed)), LearningSettings("means")
    with tempfile.TemporaryDirectory() as folder:
        store = compute_activations(model, collection, Path(folder))
        learned = learn_directions(store, "note", "note", settings)
        bank = uncalibrated_bank(model, store, learned, settings, residual_norms(model, collection))
    ears = {f"note_{name}": meter_ear(dominance_of(name), 1.0) for name in PITCH_CLASSES}
    return calibrated(model, bank, ears, listening, lambda done, count: _console.print(f"{done} of {count}", end="\r"))


@dataclass(frozen=True)
class NoteReport:
    """Share of frames, one row per note and one column per seed: steered, unsteered, pushed in a random direction."""

    steered: npt.NDArray[np.float64]
    unsteered: npt.NDArray[np.float64]
    random: npt.NDArray[np.float64]

    def summary(self) -> dict[str, float]:
        """Means, and the two ratios of the bars."""
        steered, plain, random = float(self.steered.mean()), float(self.unsteered.mean()), float(self.random.mean())
        return {
            "steered": steered,
            "unsteered": plain,
            "random": random,
            "ratio": steered / plain,
            "random_change_over_change": abs(random - plain) / max(steered - plain, 1e-9),
            "weakest_note": float(self.steered.mean(axis=1).min()),
        }


def evaluate_notes(model: MusicGen, bank: ConceptBank, seeds: Sequence[int], play: Play) -> NoteReport:
    """Every note at 1.0 with every seed, against no steering and random directions of the same length."""
    stage = Stage(model, with_controls(bank), play)
    tables = [np.zeros((12, len(seeds))) for _ in range(3)]
    for note, name in enumerate(PITCH_CLASSES):
        concept, meter = f"note_{name}", dominance_of(name)
        for column, seed in enumerate(seeds):
            for table, knobs in zip(tables, ({concept: 1.0}, {}, {control_of(bank, concept): 1.0}), strict=True):
                table[note, column] = METERS[meter][1](stage.hear(seed, knobs))[meter]
    return NoteReport(*tables)


def learn(
    checkpoint: Annotated[Path, typer.Option(help="folder of the checkpoint")] = CHECKPOINT,
    target: Annotated[Path, typer.Option(help="bank to write")] = Path("presets/banks/embedded_notes.safetensors"),
    per_class: Annotated[int, typer.Option(help="clips per pitch class", min=4)] = 36,
    seeds: Annotated[int, typer.Option(help="pieces per knob value that calibration and report listen to", min=2)] = 4,
    seed: Annotated[int, typer.Option(help="names the clips and the generated audio")] = 100,
) -> None:
    """Learn, calibrate and report the note concepts of the embedded checkpoint."""
    torch.set_num_threads(1)
    try:
        model = load_checkpoint(checkpoint)
        bank = learn_notes(model, per_class, seed, Listening(PLAY, tuple(range(seed, seed + seeds))))
        _console.print("AUC per block, mean over notes:", np.round(bank.scores.mean(axis=0), 3))
        target.parent.mkdir(parents=True, exist_ok=True)
        save_bank(bank, target)
    except RfmError as error:
        _console.print(f"[red]{escape(str(error))}[/red]")
        raise typer.Exit(2) from None
    report = evaluate_notes(model, bank, range(seed + 50, seed + 50 + seeds), PLAY)
    _console.print(f"unit {bank.unit[0]:g}", report.summary())


if __name__ == "__main__":
    typer.run(learn)
