"""What music that has a concept reads: `python -m rfm_live.embedded.reference_turns`, a report beside the banks.

The composer's own turns to every concept of a bank, as the codec returns them, are judged by whom its knobs are judged
by. A knob may go beyond; where it stays far below, that is the decoder's or the push's doing, and where these turns are
below a bar themselves, it is the codec's or the meter's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.markup import escape

from rfm_live.concepts.array_files import keep, kept
from rfm_live.concepts.intervals import Interval, mean_interval
from rfm_live.embedded import CHECKPOINT
from rfm_live.embedded.bank_listening import spoken
from rfm_live.embedded.banks import WHOLE, stage
from rfm_live.embedded.heard_lessons import codec_digest, hear_lessons
from rfm_live.embedded.turned_banks import FORMAT
from rfm_live.embedded.turns import AFTER_FRAMES, BEFORE_FRAMES, concept_sets, draw_turns, sounded
from rfm_live.errors import RfmError
from rfm_live.experiments.measures import ClipReader, Judge, judge_of
from rfm_live.experiments.report import told
from rfm_live.model.checkpoint import MusicGen, load_checkpoint
from rfm_live.steering.bank import ConceptBank, load_bank

REPORT = "embedded_reference.md"
TURNS = 24
"""Turns that are drawn of a concept; those to its opposite do not count."""
_SEED = 9
"""Not the seed of the turns that banks are learned from."""
_console = Console()


@dataclass(frozen=True)
class Reference:
    """What the judge of a concept reads of turns to it, and in which share of them it is heard most (None: unknown)."""

    judge: Judge
    reading: Interval
    hits: Interval | None


def reference(model: MusicGen, judge: Judge, lessons: int, folder: Path) -> Reference:
    """Judge up to TURNS of the composer's turns, 3.2 s behind each, or find in `folder` what was heard of them.

    `lessons` is how many pieces have taught the judge, where it is a classifier.

    Raises:
        StartError: FluidSynth or its soundfont is missing, or the folder cannot be written.
        ValueError: no turns teach the concept.
    """
    taught_by = lessons if judge.heard_as is not None else 0
    reader = ClipReader(model)
    named = [FORMAT, codec_digest(model), taught_by, TURNS, _SEED, judge.concept, judge.meter, reader.identity]
    file = folder / f"reference_{sha256(json.dumps(named).encode()).hexdigest()[:24]}.safetensors"
    stored = kept(file)
    if stored is None:
        turns = sounded(model, draw_turns(judge.concept, TURNS, _SEED), (judge.concept,))
        records = []
        for codes in turns.codes[turns.shares[:, 0] > 0.0]:
            with torch.inference_mode():
                played = model.codec.decode(torch.from_numpy(codes[None]))[0, 0].numpy()
            records.append(reader.read(played[BEFORE_FRAMES * model.config.hop :]))
        hits = [] if judge.is_hit is None else [float(judge.is_hit(record)) for record in records]
        stored = {"readings": np.asarray(judge.values(records)), "hits": np.asarray(hits)}
        keep(stored, file)
    hits = stored["hits"].tolist()
    return Reference(judge, mean_interval(stored["readings"].tolist()), mean_interval(hits) if hits else None)


def report(bank: ConceptBank, found: Sequence[Reference], command: str) -> str:
    """The page: what every concept of a bank reads at its knobs, and in the composer's own turns to it."""
    lines = [
        "# What music that has the concepts reads",
        "",
        f"Made by `{command}`, beside the bank of the checkpoint with sha256 {bank.checkpoint_sha256[:12]}.",
        f"`composer` is what a concept's judge hears in {AFTER_FRAMES / 50:g} s behind up to {TURNS} of the composer's "
        "own turns to it, as the codec returns them; `heard most` is the share of these turns in which the concept is "
        "what is heard. 0 and 1 are the knob's, as its card has them. In brackets 95 % intervals over turns.",
        "",
        *_lines(bank, found),
        "",
        "| concept | judged by | 0 | 1 | composer | heard most |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in found:
        effect = bank.cards[bank.names.index(one.judge.concept)].effect
        at_zero, at_one = (effect.at_zero, effect.at_plus) if effect else (None, None)
        cells = [one.judge.concept, f"{one.judge.meter}, {one.judge.unit}", told(at_zero), told(at_one)]
        lines.append("| " + " | ".join([*cells, told(one.reading), told(one.hits)]) + " |")
    return "\n".join(lines) + "\n"


def _lines(bank: ConceptBank, found: Sequence[Reference]) -> list[str]:
    """A line for every set that was judged whole."""
    by_name = {one.judge.concept: one for one in found}
    sets = [(name, concepts) for name, concepts in concept_sets().items() if set(concepts) <= by_name.keys()]
    return [_line(bank, name, [by_name[concept] for concept in concepts]) for name, concepts in sets]


def _line(bank: ConceptBank, name: str, found: Sequence[Reference]) -> str:
    """Means over a set, each reading above 0 for more of its concept."""
    cards = [bank.cards[bank.names.index(one.judge.concept)] for one in found]
    knobs = [one.judge.sign * card.effect.at_plus for one, card in zip(found, cards, strict=True) if card.effect]
    own = [one.judge.sign * one.reading.value for one in found]
    line = f"- {name}: {told(float(np.mean(knobs)) if knobs else None)} at 1, composer {told(float(np.mean(own)))}"
    hits = [one.hits.value for one in found if one.hits is not None]
    return f"{line}, heard most in {np.mean(hits):.3f}" if hits else line


def main(
    checkpoint: Annotated[Path, typer.Option(help="folder of the checkpoint")] = CHECKPOINT,
    target: Annotated[Path, typer.Option(help="folder of the banks and reports")] = Path("presets/banks"),
    work: Annotated[Path, typer.Option(help="what was heard, to go on from")] = Path("runs/banks"),
    lessons: Annotated[int, typer.Option(help="pieces that teach the classifiers", min=40)] = 1500,
) -> None:
    """Judge the composer's own turns to every concept of the embedded bank, and write the report beside it."""
    torch.set_num_threads(1)
    try:
        model = load_checkpoint(checkpoint)
        decoder = model.config.decoder
        bank = load_bank(target / WHOLE, decoder.layers, decoder.width, model.sha256)
        with stage("training listeners") as tell:
            classifiers = hear_lessons(model, lessons, work, tell).classifiers(spoken)
        found = []
        with stage("listening") as tell:
            for name in bank.names:
                found.append(reference(model, judge_of(bank, name, classifiers), lessons, work))
                tell(len(found), len(bank.names))
        command = f"python -m rfm_live.embedded.reference_turns --lessons {lessons}"
        (target / REPORT).write_text(report(bank, found, command), encoding="utf-8")
        _console.print(f"wrote {target / REPORT}")
    except RfmError as error:
        _console.print(f"[red]{escape(str(error))}[/red]")
        raise typer.Exit(2) from None


if __name__ == "__main__":
    typer.run(main)
