"""`rfm-live evaluate`: one experiment on a checkpoint and its bank, to a report beside the paper's figures."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfm_live import __version__
from rfm_live.cli.console import console
from rfm_live.cli.progress import progress_bar
from rfm_live.errors import StartError
from rfm_live.places import EMBEDDED, bank_file, checkpoint_folder

if TYPE_CHECKING:
    from rfm_live.concepts.clap import Clap
    from rfm_live.concepts.sound_classifiers import SoundClassifiers
    from rfm_live.experiments.conditions import Prompt
    from rfm_live.experiments.report import Findings
    from rfm_live.experiments.setup import Setup
    from rfm_live.model.checkpoint import MusicGen

EXPERIMENTS = {
    "e1": "one direction at a time, over the knob's travel, against other methods, a random direction and words",
    "e2": "blocks, gate and strength: control against drift, and whether a gate beats a smaller knob",
    "e3": "a cross-fade over 1500 steps, heard step by step, and when the music changes hands",
    "v1": "poolings on scales and progressions",
    "v2": "two and three concepts at once: which share of its effect each keeps",
    "v3": "each block alone, and each left out",
    "v4": "the eigenvectors behind the first",
}
FIRST_SEED = 5000
"""No seed that concepts are learned or calibrated with comes near."""
_QUICK = {"seeds": 2, "seconds": 2.0, "concepts": 2, "subset": 96}


@dataclass(frozen=True)
class EvaluateOptions:
    """The options of the command, as typed."""

    experiment: str
    checkpoint: str
    bank: str | None
    concepts: tuple[str, ...]
    prompts: tuple[str, ...]
    seeds: int
    seconds: float
    learn: bool
    subset: int
    jobs: int
    listeners: int
    clap: str | None
    out: Path
    cache: Path | None
    quick: bool
    trust_pickle: bool


def run_evaluate(options: EvaluateOptions) -> None:
    """Run an experiment and write its report.

    Raises:
        StartError: options that cannot be; CheckpointError, BankError, ClipError.
    """
    if options.experiment not in EXPERIMENTS:
        raise StartError(f"experiment is '{options.experiment}', expected one of {', '.join(EXPERIMENTS)}")
    for package in ("librosa", "matplotlib", "sklearn"):
        if find_spec(package) is None:
            raise StartError(f"experiments need {package}: pip install 'rfm-live[train]'")
    setup = _setup(options)

    from rfm_live.experiments.report import written

    findings = _experiment(options.experiment)(setup)
    about = _about(options, setup)
    files = written(findings, options.out, about)
    for conclusion in findings.conclusions:
        console.print(conclusion, soft_wrap=True)
    console.print(f"wrote {', '.join(map(str, files))}", soft_wrap=True)


def _experiment(name: str) -> "Callable[[Setup], Findings]":
    from rfm_live.experiments import (
        e1_single_directions,
        e2_layer_selection,
        e3_cross_fade,
        v1_poolings,
        v2_several_concepts,
        v3_single_layers,
        v4_eigenvectors,
    )

    return {
        "e1": e1_single_directions.run,
        "e2": e2_layer_selection.run,
        "e3": e3_cross_fade.run,
        "v1": v1_poolings.run,
        "v2": v2_several_concepts.run,
        "v3": v3_single_layers.run,
        "v4": v4_eigenvectors.run,
    }[name]


def _setup(options: EvaluateOptions) -> "Setup":
    """Load and prepare all that the experiment plays with."""
    folder, bank_path = checkpoint_folder(options.checkpoint), bank_file(options.bank, options.checkpoint)
    if bank_path is None:
        raise StartError(f"checkpoint '{options.checkpoint}' has no bank of its own: name one with --bank")

    import torch

    from rfm_live.concepts.states import learning_device
    from rfm_live.experiments.conditions import Clips
    from rfm_live.experiments.lessons import Lessons
    from rfm_live.experiments.measures import check_seconds
    from rfm_live.experiments.setup import Setup
    from rfm_live.model.checkpoint import load_checkpoint
    from rfm_live.steering.bank import load_bank

    torch.set_num_threads(1)
    model = load_checkpoint(folder, learning_device(), trust_pickle=options.trust_pickle)
    decoder = model.config.decoder
    bank = load_bank(bank_path, decoder.layers, decoder.width, model.sha256)
    is_quick = options.quick
    seeds = min(options.seeds, int(_QUICK["seeds"])) if is_quick else options.seeds
    seconds = min(options.seconds, _QUICK["seconds"]) if is_quick else options.seconds
    if seeds < 2:
        raise StartError(f"{seeds} seeds, expected 2 or more")
    check_seconds(model, seconds)
    cache = options.cache or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "rfm_live"
    subset = min(options.subset, int(_QUICK["subset"])) if is_quick else options.subset
    draws = {"draws": 1, "rounds": 1} if is_quick else {}
    lessons = Lessons(model, cache, subset, jobs=options.jobs, stages=progress_bar, **draws)
    concepts = options.concepts or (bank.names[: int(_QUICK["concepts"])] if is_quick else bank.names)
    for name in concepts:
        if name not in bank.names:
            raise StartError(f"concept '{name}' is not in the bank, expected one of {', '.join(bank.names)}")
    return Setup(
        model,
        bank,
        concepts,
        Clips(_prompts(options, seeds), range(FIRST_SEED, FIRST_SEED + seeds), seconds, *_lengths(is_quick)),
        cache / "evaluation",
        lessons if options.learn else None,
        None if is_quick else _listeners(options, model, cache),
        _clap(options.clap),
        is_quick,
        progress_bar,
    )


def _lengths(is_quick: bool) -> tuple[float, float]:
    """Seconds of unsteered bars in front, and seconds after a knob has been turned that nobody listens to."""
    return (1.0, 0.5) if is_quick else (3.0, 1.0)


def _prompts(options: EvaluateOptions, seeds: int) -> "tuple[Prompt, ...]":
    """The prompts asked for; of the embedded checkpoint, captions that go round its instruments and drums."""
    from rfm_live.experiments.conditions import Prompt

    if options.prompts or options.checkpoint != EMBEDDED:
        return tuple(map(Prompt, options.prompts)) or (Prompt(""),)

    from rfm_live.embedded.heard_lessons import FRAMES
    from rfm_live.embedded.music_meters import asked_pieces, full_caption
    from rfm_live.embedded.style_classifiers import spoken_style

    styles = [piece.style for piece in asked_pieces(seeds, FRAMES, FIRST_SEED)]
    return tuple(Prompt(full_caption(style), spoken_style(style)) for style in styles)


def _listeners(options: EvaluateOptions, model: "MusicGen", cache: Path) -> "SoundClassifiers | None":
    """Classifiers of instrument and drums, taught by clips of the recipe, as rendered and as the codec returns them."""
    if options.checkpoint != EMBEDDED or not options.listeners:
        return None

    from rfm_live.embedded.heard_lessons import hear_lessons
    from rfm_live.embedded.style_classifiers import spoken_style

    with progress_bar("training listeners") as report:
        return hear_lessons(model, options.listeners, cache / "evaluation", report).classifiers(spoken_style)


def _clap(name: str | None) -> "Clap | None":
    if name is None:
        return None

    from rfm_live.concepts.clap import find_clap, load_clap

    return load_clap(find_clap(name))


def _about(options: EvaluateOptions, setup: "Setup") -> dict[str, Any]:
    """How the report was made: everything that its figures depend on."""
    clips, clap = setup.clips, setup.clap
    judges = [setup.judge(name) for name in setup.concepts]
    return {
        "command": _command(options),
        "version": __version__,
        "checkpoint": options.checkpoint,
        "checkpoint_sha256": setup.model.sha256,
        "concepts": list(setup.concepts),
        "judges": [
            f"{judge.concept}: {judge.meter}{'' if judge.is_external else ' (no external meter)'}" for judge in judges
        ],
        "learned_by": sorted({setup.bank.cards[setup.bank.names.index(name)].method for name in setup.concepts}),
        "seeds": list(clips.seeds),
        "seconds": clips.heard_seconds,
        "prompts": [prompt.text for prompt in clips.prompts],
        "listeners": options.listeners if setup.classifiers is not None else 0,
        "clap": None if clap is None else f"{clap.name} {clap.sha256[:12]}",
        "quick": setup.is_quick,
    }


def _command(options: EvaluateOptions) -> str:
    """The command that makes the report again."""
    words = ["rfm-live", "evaluate", options.experiment]
    words += [] if options.checkpoint == EMBEDDED else ["--checkpoint", options.checkpoint]
    words += [] if options.bank is None else ["--bank", options.bank]
    words += [word for name in options.concepts for word in ("--concept", name)]
    words += [word for text in options.prompts for word in ("--prompt", f'"{text}"')]
    words += ["--seeds", str(options.seeds), "--seconds", f"{options.seconds:g}", "--subset", str(options.subset)]
    words += ["--listeners", str(options.listeners)] + ([] if options.learn else ["--no-learn"])
    words += [] if options.clap is None else ["--clap", options.clap]
    return " ".join([*words, "--quick"] if options.quick else words)
