"""The twelve note concepts of the embedded checkpoint: `python -m rfm_live.embedded.notes`.

Learns one direction per pitch class from studies (held notes and ostinatos over octaves and instruments) and from
pieces in the key of the pitch class, calibrates the knob on generated audio with the chroma meter, and writes the bank
with its report. The tonic of every training clip is known to the composer, and the flute is held out for the scores.

Calibration: a block's push at knob 1.0 is `unit` times the distance of the class means there. `unit` is the smallest of
`UNITS` that reaches 95 % of the best dominance that any of them reaches.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
import typer
from rich.console import Console

from rfm_live.concepts.activations import mean_activations
from rfm_live.concepts.directions import Directions, difference_of_means
from rfm_live.concepts.meters import strongest_pitch_class
from rfm_live.embedded import CHECKPOINT, DEFAULT_PROMPT
from rfm_live.embedded.composer import INSTRUMENTS, PITCH_CLASSES, Piece, compose, draw_style, note_study
from rfm_live.embedded.render import render_pieces
from rfm_live.engine.defaults import default_settings
from rfm_live.engine.player import Engine
from rfm_live.model.checkpoint import MusicGen, load_checkpoint
from rfm_live.steering.bank import ConceptBank, save_bank
from rfm_live.steering.concept_card import ConceptCard

CLIP_FRAMES = 256
HELD_OUT_INSTRUMENT = "flute"
UNITS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
CARD = ConceptCard(
    method="difference of class means",
    origin="clips of rfm_live.embedded.composer, FluidSynth with FluidR3 Mono (MIT)",
    licence="Apache-2.0",
)
_console = Console()


def note_clips(per_class: int, seed: int) -> tuple[list[Piece], npt.NDArray[np.int64]]:
    """`per_class` pieces of every pitch class, half of them studies, and their labels; instruments take turns."""
    pieces, labels = [], []
    for pitch_class in range(12):
        for index in range(per_class):
            rng = np.random.default_rng([seed, 3, pitch_class, index])
            style = replace(draw_style(rng), tonic=pitch_class, instrument=INSTRUMENTS[index // 2 % len(INSTRUMENTS)])
            is_study = index % 2 == 0
            study = note_study(rng, CLIP_FRAMES, pitch_class, style.instrument)
            pieces.append(study if is_study else compose(rng, CLIP_FRAMES, style))
            labels.append(pitch_class)
    return pieces, np.asarray(labels)


def learn_directions(model: MusicGen, per_class: int, seed: int) -> Directions:
    """Directions of the 12 pitch classes, scored on clips of the held-out instrument."""
    pieces, labels = note_clips(per_class, seed)
    clips = [clip for start in range(0, len(pieces), 60) for clip in render_pieces(pieces[start : start + 60])]
    activations = mean_activations(model, clips)
    held = np.asarray([piece.style.instrument.name == HELD_OUT_INSTRUMENT for piece in pieces])
    return difference_of_means(activations[~held], labels[~held], activations[held], labels[held])


def note_bank(model: MusicGen, directions: Directions, unit: float) -> ConceptBank:
    """The bank in which knob 1.0 is `unit` times the distance of the class means at every block."""
    count = len(PITCH_CLASSES)
    return ConceptBank(
        names=tuple(f"note_{name}" for name in PITCH_CLASSES),
        directions=directions.vectors,
        scores=directions.scores,
        mean=directions.mean,
        spread=directions.spread,
        unit=np.full(count, unit, np.float32),
        layer_weights=directions.distance,
        gate=np.ones(count, np.float32),
        period=np.ones(count, np.int64),
        checkpoint_sha256=model.sha256,
        cards=(CARD,) * count,
    )


def random_bank(bank: ConceptBank, seed: int) -> ConceptBank:
    """The same bank with random unit directions: the control of every experiment."""
    vectors = np.random.default_rng(seed).standard_normal(bank.directions.shape).astype(np.float32)
    return replace(bank, directions=vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


@dataclass(frozen=True)
class Play:
    """How every clip of an evaluation is played: unsteered at first, the knob turned at `knob_seconds`, as on stage.

    Shares are taken from one second after the knob to the end.
    """

    seconds: float = 10.0
    knob_seconds: float = 3.0
    prompt: str = DEFAULT_PROMPT


def pitch_class_shares(
    model: MusicGen, bank: ConceptBank, concept: str | None, seed: int, play: Play
) -> npt.NDArray[np.float64]:
    """Share [12] of 20 ms frames in which each pitch class is the strongest, with one knob at 1.0 or none."""
    engine = Engine(model, bank, default_settings(model.path, model.config, prompt=play.prompt, seed=seed))
    events = [] if concept is None else [(round(play.knob_seconds * 50), f"/concept/{concept}/eta", 1.0)]
    strongest = strongest_pitch_class(engine.render(events, play.seconds))[round((play.knob_seconds + 1) * 50) :]
    return np.bincount(strongest[strongest >= 0], minlength=12) / len(strongest)


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


def evaluate_notes(
    model: MusicGen, bank: ConceptBank, seeds: Sequence[int], play: Play, *, control: bool = True
) -> NoteReport:
    """Every note at 1.0 with every seed, against no steering and random directions of the same length."""
    rows = [pitch_class_shares(model, bank, None, seed, play) for seed in seeds]
    unsteered = np.stack(rows, axis=1)  # [12, S]
    steered, random = np.zeros_like(unsteered), np.full_like(unsteered, np.nan)
    other = random_bank(bank, 0)
    for note, concept in enumerate(bank.names):
        for column, seed in enumerate(seeds):
            steered[note, column] = pitch_class_shares(model, bank, concept, seed, play)[note]
            if control:
                random[note, column] = pitch_class_shares(model, other, concept, seed, play)[note]
    return NoteReport(steered, unsteered, random)


def calibrate(model: MusicGen, directions: Directions, seed: int, play: Play) -> tuple[float, dict[float, float]]:
    """The unit of the bank, and the mean dominance of four notes that every candidate reached."""
    reached = {}
    for unit in UNITS:
        bank = note_bank(model, directions, unit)
        shares = [pitch_class_shares(model, bank, bank.names[note], seed + note, play)[note] for note in (0, 3, 7, 10)]
        reached[unit] = float(np.mean(shares))
        _console.print(f"unit {unit}: dominance {reached[unit]:.3f}")
    full = 0.95 * max(reached.values())
    return next(unit for unit in UNITS if reached[unit] >= full), reached


def learn(
    checkpoint: Annotated[Path, typer.Option(help="folder of the checkpoint")] = CHECKPOINT,
    target: Annotated[Path, typer.Option(help="bank to write; the report stands beside it")] = Path(
        "presets/banks/embedded_notes.safetensors"
    ),
    per_class: Annotated[int, typer.Option(help="clips per pitch class")] = 36,
    seeds: Annotated[int, typer.Option(help="seeds per note of the report")] = 4,
    seed: Annotated[int, typer.Option(help="names the clips and the generated audio")] = 100,
) -> None:
    """Learn, calibrate and report the note concepts of the embedded checkpoint."""
    torch.set_num_threads(1)
    model, play = load_checkpoint(checkpoint), Play()
    directions = learn_directions(model, per_class, seed)
    _console.print("AUC per block, mean over notes:", np.round(directions.scores.mean(axis=0), 3))
    unit, reached = calibrate(model, directions, seed, play)
    bank = note_bank(model, directions, unit)
    target.parent.mkdir(parents=True, exist_ok=True)
    save_bank(bank, target)
    report = evaluate_notes(model, bank, range(seed + 50, seed + 50 + seeds), play)
    summary = report.summary()
    details = {
        "summary": summary,
        "unit": unit,
        "dominance_by_unit": {str(key): value for key, value in reached.items()},
        "auc_per_block": directions.scores.mean(axis=0).tolist(),
        "steered": report.steered.mean(axis=1).tolist(),
        "unsteered": report.unsteered.mean(axis=1).tolist(),
        "random": report.random.mean(axis=1).tolist(),
        "clips_per_class": per_class,
        "seeds": seeds,
        "seconds": play.seconds,
        "knob_at_seconds": play.knob_seconds,
        "prompt": play.prompt,
    }
    target.with_suffix(".json").write_text(json.dumps(details, indent=2) + "\n")
    _console.print(summary)


if __name__ == "__main__":
    typer.run(learn)
