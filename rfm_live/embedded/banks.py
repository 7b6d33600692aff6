"""The banks of the embedded checkpoint: `python -m rfm_live.embedded.banks [SET ...]`.

Learns every concept of the composer from turns, or inherits its push from another bank, finds by ear how far knob 1
pushes and which way, and listens to the knobs on held-out seeds: one safetensors bank per set, and a report beside it.
What was learned and played is kept in `--work`, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
import typer
from rich.console import Console
from rich.markup import escape

from rfm_live.concepts.clips import Progress
from rfm_live.concepts.turning import EPOCHS
from rfm_live.embedded import CHECKPOINT
from rfm_live.embedded.bank_listening import Curve, Listener, Listening, effect, spoken, suggested_range
from rfm_live.embedded.bank_reports import bars, pair_report, picture, report
from rfm_live.embedded.heard_lessons import hear_lessons
from rfm_live.embedded.turned_banks import Teaching, taught, uncalibrated
from rfm_live.embedded.turns import concept_sets
from rfm_live.errors import RfmError, StartError
from rfm_live.experiments.measures import check_seconds
from rfm_live.model.checkpoint import MusicGen, load_checkpoint
from rfm_live.steering.bank import ConceptBank, load_bank, merged, save_bank

PAIRS = (
    (("note_c", 1.0), ("timbre_strings", 1.0)),
    (("note_g", 1.0), ("tempo", 1.0)),
    (("note_g", 1.0), ("tempo", -1.0)),
    (("drums", 1.0), ("timbre_brass", 1.0)),
    (("tempo", 1.0), ("brightness", 1.0)),
    (("tempo", -1.0), ("brightness", -1.0)),
    (("density", 1.0), ("timbre_mallets", 1.0)),
)
"""Knobs of different sets that are heard together; of those with an opposite, either end."""
GATES = {"notes": 0.6}
"""Share of the frames in which a set's pushes act, where it is not 1: in all frames notes cost more of the prompt."""
WHOLE = "embedded.safetensors"
Array = npt.NDArray[np.float32]
_console = Console()


@contextmanager
def stage(title: str) -> Iterator[Progress]:
    """Tell where the work stands, and at its end how long it took."""
    start = time.monotonic()

    def tell(done: int, count: int) -> None:
        _console.print(f"{title}: {done} of {count}, {time.monotonic() - start:.0f} s", end="\r")

    yield tell
    _console.print(f"{title}: {time.monotonic() - start:.0f} s" + " " * 20)


def chosen_sets(names: list[str] | None) -> list[str]:
    """The sets to make, all when none is named.

    Raises:
        StartError: there is no such set.
    """
    known = concept_sets()
    for name in names or []:
        if name not in known:
            raise StartError(f"set is '{name}', expected one of {', '.join(known)}")
    return list(dict.fromkeys(names or known))


def finished(bank: ConceptBank, curves: list[Curve]) -> ConceptBank:
    """The bank with what was heard of every concept on its card."""
    cards = [
        replace(card, effect=effect(curve), suggested_range=suggested_range(curve))
        for card, curve in zip(bank.cards, curves, strict=True)
    ]
    return replace(bank, cards=tuple(cards))


def inherited_pushes(folder: Path, name: str, model: MusicGen) -> Array:
    """The pushes [C, L, D] of the bank of the set `name` in `folder`, which may be one of another checkpoint.

    Raises:
        BankError: the bank cannot be read, or is of a decoder of another size.
        StartError: it holds other concepts.
    """
    file, decoder = _file(folder, name), model.config.decoder
    bank = load_bank(file, decoder.layers, decoder.width)
    if bank.names != concept_sets()[name]:
        raise StartError(f"{file}: holds {', '.join(bank.names)}, expected {', '.join(concept_sets()[name])}")
    return bank.directions * bank.layer_weights[..., None]


def make_banks(
    model: MusicGen,
    names: list[str],
    target: Path,
    work: Path,
    teaching: Teaching,
    listening: Listening,
    ancestors: Path | None = None,
    gate: float | None = None,
) -> None:
    """Make the banks `names` and their reports in the folder `target`, with the pushes of the banks in `ancestors` or
    new ones, which act in a share `gate` of the frames, 0..1, or in each set's own (`GATES`).

    Last come all the sets' concepts that are there in one bank, the one that `play` loads, and what pairs of its knobs
    do together.
    """
    target.mkdir(parents=True, exist_ok=True)
    with stage("training listeners") as report:
        lessons = hear_lessons(model, listening.lessons, work, report)
    inherited = {name: inherited_pushes(ancestors, name, model) for name in names} if ancestors else {}
    listener = Listener(model, lessons.classifiers(spoken), listening, work / "records", stage)
    for name in names:
        share = GATES.get(name, 1.0) if gate is None else gate
        bank, curves = _made(model, listener, teaching, work, name, share, inherited.get(name))
        save_bank(bank, _file(target, name))
        _write_report(target, name, bank, curves, _options(teaching, listening, share, ancestors))
    decoder = model.config.decoder
    files = [_file(target, name) for name in concept_sets()]
    whole = merged([load_bank(file, decoder.layers, decoder.width, model.sha256) for file in files if file.is_file()])
    save_bank(whole, target / WHOLE)
    _pair_report(listener, whole, target, _heard(listening))


def _made(
    model: MusicGen, listener: Listener, teaching: Teaching, work: Path, name: str, gate: float, inherited: Array | None
) -> tuple[ConceptBank, list[Curve]]:
    found = taught(model, concept_sets()[name], teaching, work, stage, inherited)
    with stage(f"bank {name}"):
        bank = listener.calibrated(uncalibrated(model, teaching, found, gate))
        curves = listener.curves(bank)
    for bar in bars(name, curves):
        _console.print(f"  {bar}", highlight=False, markup=False)
    return finished(bank, curves), curves


def _file(target: Path, name: str) -> Path:
    return target / f"embedded_{name}.safetensors"


def _options(teaching: Teaching, listening: Listening, gate: float, ancestors: Path | None) -> str:
    """How to make the same bank again, on the command line."""
    learned = f"--epochs {teaching.epochs}" if ancestors is None else f"--inherit {ancestors}"
    gated = f"--gate {gate:g} " if gate < 1.0 else ""
    return f"--turns {teaching.turns} {learned} {gated}{_heard(listening)}"


def _heard(listening: Listening) -> str:
    """What of these options tells how banks are listened to."""
    heard = f"--seeds {listening.seeds} --few {listening.few} --seconds {listening.heard_seconds:g}"
    return f"{heard} --lessons {listening.lessons}"


def _write_report(target: Path, name: str, bank: ConceptBank, curves: list[Curve], options: str) -> None:
    command = f"python -m rfm_live.embedded.banks {name} {options}"
    _file(target, name).with_suffix(".md").write_text(report(name, bank, curves, command), encoding="utf-8")
    picture(name, curves).draw(_file(target, name).with_suffix(".png"))


def _pair_report(listener: Listener, bank: ConceptBank, target: Path, options: str) -> None:
    """Listen to the pairs of knobs that the bank has, and write their report."""
    wanted = [pair for pair in PAIRS if {name for name, _ in pair} <= set(bank.names)]
    if wanted:
        with stage("pairs"):
            pairs = listener.pairs(bank, wanted)
        command = f"python -m rfm_live.embedded.banks {options}"
        (target / "embedded_pairs.md").write_text(pair_report(pairs, bank.checkpoint_sha256, command), encoding="utf-8")


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help="sets to make; all when none is named", metavar="[SET]...")
    ] = None,
    checkpoint: Annotated[Path, typer.Option(help="folder of the checkpoint")] = CHECKPOINT,
    target: Annotated[Path, typer.Option(help="folder of the banks and reports")] = Path("presets/banks"),
    work: Annotated[Path, typer.Option(help="what was learned and played, to go on from")] = Path("runs/banks"),
    turns: Annotated[int, typer.Option(help="turns per concept", min=4)] = 48,
    epochs: Annotated[int, typer.Option(help="times that the turns are learned from", min=0)] = EPOCHS,
    inherit: Annotated[
        Path | None,
        typer.Option(help="folder of banks whose pushes are kept, of the checkpoint that this one went on from"),
    ] = None,
    gate: Annotated[
        float | None,
        typer.Option(help="share of the frames in which pushes act (0.6 of notes, else 1)", min=0.05, max=1.0),
    ] = None,
    seeds: Annotated[int, typer.Option(help="held-out pieces at knob 1 and of a random push", min=2)] = 8,
    few: Annotated[int, typer.Option(help="pieces at other knob values and to find the unit", min=2)] = 4,
    seconds: Annotated[float, typer.Option(help="length of the music that is judged")] = 4.0,
    lessons: Annotated[int, typer.Option(help="pieces that teach the classifiers", min=40)] = 1500,
) -> None:
    """Learn, calibrate and report the banks of the embedded checkpoint."""
    torch.set_num_threads(1)
    try:
        wanted = chosen_sets(names)
        if few > seeds:
            raise StartError(f"few is {few}, expected 2..{seeds}, the number of seeds")
        if not seconds >= 3.0:
            raise StartError(f"seconds are {seconds:g}, expected 3 or more, which the classifiers want")
        model = load_checkpoint(checkpoint)
        check_seconds(model, seconds)
        teaching = Teaching(turns, epochs=epochs)
        make_banks(model, wanted, target, work, teaching, Listening(seeds, few, seconds, lessons), inherit, gate)
    except RfmError as error:
        _console.print(f"[red]{escape(str(error))}[/red]")
        raise typer.Exit(2) from None


if __name__ == "__main__":
    typer.run(main)
