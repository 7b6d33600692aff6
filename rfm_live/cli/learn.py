"""`rfm-live learn`: from labelled audio to a checked bank, and what its knobs can and cannot do."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfm_live.cli.bank import check_target, print_concepts
from rfm_live.cli.console import console, errors
from rfm_live.cli.progress import progress_bar
from rfm_live.embedded import LISTENING_PROMPT
from rfm_live.errors import StartError
from rfm_live.places import EMBEDDED, checkpoint_folder

if TYPE_CHECKING:
    from rfm_live.concepts.activations import ActivationStore
    from rfm_live.concepts.calibration import Listening
    from rfm_live.concepts.clips import Collection
    from rfm_live.concepts.geometry import EigenSpectrum
    from rfm_live.concepts.learning import LearningSettings
    from rfm_live.concepts.syntheory_audio import RenderingPlan
    from rfm_live.model.checkpoint import MusicGen
    from rfm_live.steering.bank import ConceptBank

SET_CONCEPTS = {
    "notes": "note",
    "intervals": "interval",
    "scales": "scale",
    "chords": "chord",
    "progressions": "progression",
    "tempos": "tempo",
    "time_signatures": "time_signature",
}
"""SynTheory's sets and what their concepts' names begin with."""
_SHOWN_PROBLEMS = 5


@dataclass(frozen=True)
class LearnOptions:
    """The options of the command, as typed."""

    what: str | None
    folders: tuple[Path, Path] | None
    classes: Path | None
    csv: Path | None
    label: str | None
    name: str | None
    published: Path | None
    subset: int
    jobs: int
    method: str
    pooling: str
    meter: str
    seeds: int
    seed: int
    checkpoint: str
    trust_pickle: bool
    cache: Path | None
    workers: int
    out: Path | None
    force: bool
    dry_run: bool
    as_json: bool


@dataclass(frozen=True)
class Source:
    """Where the clips come from; `label` is theirs, `name` what the concepts' names begin with.

    `plan` says what `collect` would render, where it does.
    """

    label: str
    name: str
    collect: Callable[[], "Collection"]
    identity: str
    plan: Callable[[], "RenderingPlan"] | None = None


def run_learn(options: LearnOptions) -> None:
    """Learn and write a bank.

    Raises:
        StartError: options that cannot be; ClipError: audio that cannot be learned from; CheckpointError, BankError.
    """
    cache = options.cache or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "rfm_live"
    source = chosen_source(options, cache)
    out = options.out or Path(f"{source.name}.safetensors")
    check_target(out, options.force)
    folder = checkpoint_folder(options.checkpoint)

    if options.dry_run and options.workers:
        raise StartError(f"--dry-run foretells one process, --workers is {options.workers}, expected 0")

    import torch

    from rfm_live.concepts.states import learning_device
    from rfm_live.model.checkpoint import load_checkpoint
    from rfm_live.steering.bank import save_bank

    settings, listening = _settings(options)
    torch.set_num_threads(1)
    began, began_work = time.monotonic(), time.process_time()
    model = load_checkpoint(folder, learning_device(), trust_pickle=options.trust_pickle)
    if options.dry_run:
        from rfm_live.cli.dry_run import tell_forecast

        tell_forecast(model, source, settings, listening, began, options)
        return
    collection = source.collect()
    place = cache / "activations" / _hash(model.sha256, source.identity)
    store = _activations(model, collection, place, options.workers)
    _tell_problems(store)

    from rfm_live.concepts.learning import ears_for, eigen_spectra, learn_directions, residual_norms, uncalibrated_bank

    with progress_bar("learning directions") as report:
        learned = learn_directions(store, source.label, source.name, settings, cache / "directions", report)
    bank = uncalibrated_bank(model, store, learned, settings, residual_norms(model, collection))
    if listening is not None:
        from rfm_live.concepts.calibration import calibrated

        with progress_bar("listening to knobs") as report:
            ears = ears_for(model, collection, store, learned, bank, options.meter)
            bank = calibrated(model, bank, ears, listening, report)
    save_bank(bank, out)
    _tell(
        bank,
        eigen_spectra(store, learned, settings),
        store,
        _End(out, time.monotonic() - began, time.process_time() - began_work, options),
    )


def _settings(options: LearnOptions) -> "tuple[LearningSettings, Listening | None]":
    """How to learn, and how to listen. Raises StartError."""
    needed = {"librosa": options.seeds > 0, "sklearn": options.method == "logistic"}
    for package, is_needed in needed.items():
        if is_needed and find_spec(package) is None:
            raise StartError(f"learning like this needs {package}: pip install 'rfm-live[train]'")

    from rfm_live.concepts.calibration import Listening
    from rfm_live.concepts.learning import LearningSettings, check_meter
    from rfm_live.concepts.stage import Play

    check_meter(options.meter)
    play = Play(prompt=LISTENING_PROMPT if options.checkpoint == EMBEDDED else "")
    seeds = tuple(range(1, options.seeds + 1))
    settings = LearningSettings(options.method, options.pooling, seed=options.seed)
    return settings, Listening(play, seeds) if seeds else None


def chosen_source(options: LearnOptions, cache: Path) -> Source:
    """The one source that the options name. Raises StartError for none, several or half of one."""
    given = [options.what, options.folders, options.classes, options.csv]
    if sum(value is not None for value in given) != 1:
        raise StartError(f"learn from one of {', '.join(SET_CONCEPTS)}, --folders, --classes or --csv")
    from rfm_live.concepts.folders import class_folders, csv_table, two_folders

    if options.folders is not None:
        if options.name is None:
            raise StartError("--folders needs --name: what the first folder has and the second has not")
        name, (with_, without) = options.name, options.folders
        identity = f"folders {with_.absolute()} {without.absolute()} {name}"
        return Source(name, name, lambda: two_folders(with_, without, name), identity)
    if options.classes is not None:
        root = options.classes
        return Source(
            "class", options.name or root.absolute().name, lambda: class_folders(root), f"classes {root.absolute()}"
        )
    if options.csv is not None:
        if options.label is None:
            raise StartError("--csv needs --label: the column to learn")
        table = options.csv
        return Source(options.label, options.name or options.label, lambda: csv_table(table), f"csv {table.absolute()}")
    return _syntheory(options, cache)


def _syntheory(options: LearnOptions, cache: Path) -> Source:
    what = options.what
    if what not in SET_CONCEPTS:
        raise StartError(f"'{what}' is no set of SynTheory, expected one of {', '.join(SET_CONCEPTS)}")
    from rfm_live.concepts.syntheory import concept_set
    from rfm_live.concepts.syntheory_audio import Rendering, plan_syntheory
    from rfm_live.concepts.syntheory_published import published_syntheory

    subset, published = options.subset or None, options.published

    def collect() -> "Collection":
        if published is not None:
            return published_syntheory(published, what, subset)
        planned = plan()
        with progress_bar("rendering tracks") as report:
            planned.render(progress=report)
        return planned.collection

    def plan() -> "RenderingPlan":
        return plan_syntheory(what, cache / "syntheory", Rendering(subset, options.seed, options.jobs))

    identity = f"syntheory {what} {published and published.absolute()} {subset} {options.seed}"
    name = options.name or SET_CONCEPTS[what]
    return Source(concept_set(what).label, name, collect, identity, plan if published is None else None)


def _activations(model: "MusicGen", collection: "Collection", folder: Path, workers: int) -> "ActivationStore":
    from rfm_live.concepts.activations import Runner, compute_activations, run_locally

    run: Runner = run_locally
    if workers:
        from rfm_live.concepts.activations_ray import run_on_ray

        run = run_on_ray(workers)
    with progress_bar("reading clips") as report:
        return compute_activations(model, collection, folder, progress=report, run=run)


def _tell_problems(store: "ActivationStore") -> None:
    for problem in store.problems[:_SHOWN_PROBLEMS]:
        errors.print(f"left out: {problem}", style="yellow", soft_wrap=True)
    if (more := len(store.problems) - _SHOWN_PROBLEMS) > 0:
        errors.print(f"left out: {more} more", style="yellow")


@dataclass(frozen=True)
class _End:
    """Where the bank was written to, how long that took by the clock and on the processor, and what was asked for."""

    out: Path
    seconds: float
    processor_seconds: float
    options: LearnOptions


def _tell(bank: "ConceptBank", spectra: "dict[str, EigenSpectrum]", store: "ActivationStore", end: _End) -> None:
    """What was learned, as a table or as JSON."""
    out, seconds, options = end.out, end.seconds, end.options

    from rfm_live.concepts.report import as_json

    told = {
        name: {
            "top_share": round(float(spectrum.shares[0]), 4),
            "effective_directions": round(spectrum.participation, 2),
        }
        for name, spectrum in spectra.items()
    }
    if options.as_json:
        problems = [str(problem) for problem in store.problems]
        whole: dict[str, Any] = {
            "file": str(out),
            "seconds": round(seconds, 1),
            "processor_seconds": round(end.processor_seconds, 1),
            "clips": len(store.clips),
        }
        whole |= {"left_out": problems, **as_json(bank), "eigen_spectra": told}
        console.print(json.dumps(whole, indent=2), soft_wrap=True)
        return
    print_concepts(bank)
    if spectra:
        shares = ", ".join(
            f"{name} {spectrum['top_share']:.0%} of {spectrum['effective_directions']:g}"
            for name, spectrum in told.items()
        )
        console.print(f"share of the top direction, and how many directions matter: {shares}", soft_wrap=True)
    console.print(
        f"wrote {out}: {len(bank.names)} concepts from {len(store.clips)} clips in {seconds:.0f} s "
        f"({end.processor_seconds:.0f} s of processor time)",
        soft_wrap=True,
    )
    named = "" if options.checkpoint == EMBEDDED else f" --checkpoint {options.checkpoint}"
    console.print(f"play them: rfm-live play{named} --bank {out}", soft_wrap=True)


def _hash(*parts: str) -> str:
    return sha256("\n".join(parts).encode()).hexdigest()[:24]
