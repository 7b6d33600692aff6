"""The README's examples: `python -m rfm_live.embedded.examples` renders each unsteered and steered, with spectrograms.

Both renderings of an example have the same prompt, seed and beginning; the knob turns at `KNOB_SECONDS`. Needs the
`train` extra.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import soundfile
import torch
import typer
from rich.console import Console

from rfm_live.concepts.meters import FRAME_SAMPLES, SAMPLE_RATE_HZ, Samples, dominance
from rfm_live.embedded import CHECKPOINT
from rfm_live.engine.defaults import default_settings
from rfm_live.engine.player import Engine
from rfm_live.model.checkpoint import MusicGen, load_checkpoint
from rfm_live.steering.bank import ConceptBank, read_bank

NOTES = Path("presets/banks/embedded_notes.safetensors")
SECONDS, KNOB_SECONDS = 8.0, 2.0
_console = Console()


@dataclass(frozen=True)
class Example:
    """One prompt and seed, and the note (concept of the bank, pitch class) that the steered rendering turns up."""

    name: str
    prompt: str
    seed: int
    concept: str
    pitch_class: int


EXAMPLES = (
    Example("marimba", "lively marimba arpeggio with drums", 3, "note_f_sharp", 6),
    Example("strings", "slow strings, held notes, no drums", 5, "note_d", 2),
    Example("piano", "medium tempo piano melody with drums", 8, "note_f", 5),
)


def render_example(model: MusicGen, bank: ConceptBank, example: Example, *, steered: bool, seconds: float) -> Samples:
    """Samples [seconds * 32000] of one example, with its knob at 1.0 from `KNOB_SECONDS` on or with none."""
    settings = default_settings(model.path, model.config, prompt=example.prompt, seed=example.seed)
    turn = (round(KNOB_SECONDS * SAMPLE_RATE_HZ / FRAME_SAMPLES), f"/concept/{example.concept}/eta", 1.0)
    return Engine(model, bank, settings).render([turn] if steered else [], seconds)


def draw_spectrograms(path: Path, example: Example, pair: dict[str, Samples]) -> None:
    """One picture: the mel spectrograms of both renderings above each other; a line shows where the knob turns."""
    import librosa
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), layout="constrained")
    for panel, (title, samples) in zip(figure.subplots(2, 1, sharex=True), pair.items(), strict=True):
        power = librosa.feature.melspectrogram(
            y=samples, sr=SAMPLE_RATE_HZ, n_fft=4096, hop_length=256, n_mels=160, fmin=40, fmax=8000
        )
        level_db = librosa.power_to_db(power, ref=np.max, top_db=70)
        seconds = len(samples) / SAMPLE_RATE_HZ
        panel.imshow(level_db, origin="lower", aspect="auto", cmap="magma", extent=(0, seconds, 0, len(level_db)))
        ticks_hz = np.asarray([110, 220, 440, 880, 1760, 3520, 7040])
        mels = librosa.mel_frequencies(n_mels=len(level_db), fmin=40, fmax=8000)
        panel.set_yticks(np.interp(ticks_hz, mels, np.arange(len(mels))), [str(value) for value in ticks_hz])
        panel.set_ylabel("Hz")
        panel.set_title(f"{title}: “{example.prompt}”", loc="left")
        if title != "unsteered":
            panel.axvline(KNOB_SECONDS, color="white", linestyle=":")
    panel.set_xlabel("seconds")
    figure.savefig(path, dpi=110)


def examples(
    folder: Annotated[Path, typer.Option(help="where the files are written")] = Path("presets/examples"),
    checkpoint: Annotated[Path, typer.Option(help="folder of the checkpoint")] = CHECKPOINT,
    notes: Annotated[Path, typer.Option("--bank", help="bank of note concepts")] = NOTES,
    seconds: Annotated[float, typer.Option(help="length of a rendering")] = SECONDS,
) -> None:
    """Render the README's examples as FLAC, unsteered and steered, and draw their spectrograms."""
    torch.set_num_threads(1)
    model, bank = load_checkpoint(checkpoint), read_bank(notes)
    folder.mkdir(parents=True, exist_ok=True)
    for example in EXAMPLES:
        titles = {"unsteered": False, f"{example.concept} = 1 from {KNOB_SECONDS:g} s on": True}
        pair = {
            title: render_example(model, bank, example, steered=steered, seconds=seconds)
            for title, steered in titles.items()
        }
        for suffix, samples in zip(("unsteered", "steered"), pair.values(), strict=True):
            soundfile.write(folder / f"{example.name}_{suffix}.flac", samples, SAMPLE_RATE_HZ, subtype="PCM_16")
            after = samples[round((KNOB_SECONDS + 1) * SAMPLE_RATE_HZ) :]
            share = dominance(after, example.pitch_class)
            _console.print(f"{example.name} {suffix}: {example.concept} strongest in {share:.0%} of the frames")
        draw_spectrograms(folder / f"{example.name}.png", example, pair)


if __name__ == "__main__":
    typer.run(examples)
