"""Which way of reading concepts is best: SynTheory by probe and pooling, on instruments that nobody learned from.

`python -m rfm_live.concepts.comparison` renders the sets, reads them with a checkpoint and prints the table. A reader
reads all classes of a set at once, and the class is the largest reading. Its block, and RFM's settings, are chosen on
instruments held out of the training clips, never on the test clips. Intervals are 95 %, bootstrapped over whole test
instruments, because clips of one instrument are not independent. Where there are few instruments, as in the sets of
five clicks, each is the test once: scores are means over these tests, intervals bootstrapped over them and their clips.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from rfm_live.concepts.activations import ActivationStore, compute_activations
from rfm_live.concepts.class_readers import Chosen, Fold, Part, RfmSearch, best_linear, best_rfm
from rfm_live.concepts.clips import Label
from rfm_live.concepts.directions import POOLINGS
from rfm_live.concepts.pooling import AttentionTraining, learn_attention
from rfm_live.concepts.probes import DifferenceOfMeans, LeastSquares, Logistic, Probe, Ridge
from rfm_live.concepts.scores import is_binary, r_squared, score
from rfm_live.concepts.splits import hold_out
from rfm_live.concepts.states import Reading, learning_device
from rfm_live.concepts.syntheory import SETS, concept_set
from rfm_live.concepts.syntheory_audio import Rendering, rendered_syntheory
from rfm_live.concepts.targets import classes_of
from rfm_live.errors import ClipError, StartError
from rfm_live.model.checkpoint import load_checkpoint
from rfm_live.places import EMBEDDED, checkpoint_folder

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

LINEAR: dict[str, Probe] = {
    "linear": LeastSquares(),
    "ridge": Ridge(),
    "logistic": Logistic(),
    "means": DifferenceOfMeans(),
}
METHODS = ("rfm", *LINEAR)
RESAMPLES = 300
FEW = 7
"""Of so many groups or less, a quarter is a single one: each is the test once, and each of the others validates."""
CLIPS = 300
_console = Console(highlight=False)


@dataclass(frozen=True)
class Cell:
    """One reader on the test clips of one set.

    `score` is the mean AUC of the classes, each against the rest, or R2 for tempos, with its 95 % interval; `accuracy`
    alike, None for tempos. `layer` is the block that validation chose, of several tests the one chosen most often.
    """

    set_name: str
    pooling: str
    method: str
    layer: int
    score: tuple[float, float, float]
    accuracy: tuple[float, float, float] | None


@dataclass(frozen=True)
class Lead:
    """By how much RFM scores above the plain linear probe on the same test clips, mean-pooled: [mean, low, high]."""

    set_name: str
    score: tuple[float, float, float]
    accuracy: tuple[float, float, float] | None


@dataclass(frozen=True)
class Task:
    """One set of N clips: targets [N, O], and which clips are for test and for validation [N]; the rest is to learn."""

    targets: Array
    groups: npt.NDArray[np.str_]
    is_test: Mask
    is_validation: Mask

    @classmethod
    def all_of(cls, labels: Sequence[Label], groups: Sequence[str]) -> list[list[Task]]:
        """The tests, each with its folds: tasks with the same test clips and other validation clips.

        One test of a quarter of the groups with a quarter of the others for validation; of FEW groups or less, a test
        for each of them, in which each of the others is the validation once.

        Raises:
            ClipError: the groups are too few.
        """
        classes, known = classes_of(labels), np.asarray(groups)
        names = sorted(set(groups))
        if len(names) > FEW:
            return [[cls.of(labels, groups, hold_out(groups, classes))]]
        if len(names) < 3:
            raise ClipError(f"{len(names)} groups of clips, expected 3 or more: to learn, to validate and to test")
        return [
            [cls.of(labels, groups, known == test, known == held) for held in names if held != test] for test in names
        ]

    @classmethod
    def of(
        cls, labels: Sequence[Label], groups: Sequence[str], is_test: Mask, is_validation: Mask | None = None
    ) -> Task:
        """Of the groups that are not for test, a quarter is for validation where `is_validation` does not say which.

        Raises:
            ClipError: the groups are too few.
        """
        classes = classes_of(labels)
        if is_validation is None:
            rest = np.flatnonzero(~is_test)
            is_validation = np.zeros(len(labels), np.bool_)
            others = [groups[int(place)] for place in rest], [classes[int(place)] for place in rest]
            is_validation[rest] = hold_out(*others, seed=1)
        if all(isinstance(label, float) for label in labels):
            values = np.asarray(labels, np.float64)[:, None]
            targets = (values - values[~is_test].mean()) / values[~is_test].std()
        else:
            names = sorted(set(map(str, labels)))
            targets = np.asarray([[label == name for name in names] for label in labels], np.float64)
        return cls(targets, np.asarray(groups), is_test, is_validation)

    @property
    def is_training(self) -> Mask:
        return ~self.is_test & ~self.is_validation


def parts_of(store: ActivationStore, task: Task, layer: int, pooling: str) -> tuple[Part, Part, Array]:
    """Training and validation part, and test points [M, D], of one block."""
    sides = task.is_training, task.is_validation, task.is_test
    if pooling in ("mean", "last"):
        rows = store.layer(pooling, layer).astype(np.float64)
        train, validation, test = (rows[side] for side in sides)
        return Part(train, task.targets[sides[0]]), Part(validation, task.targets[sides[1]]), test
    segments = store.layer("segments", layer).astype(np.float64)  # [N, S, D]
    if pooling == "segments":
        points = segments[sides[0]]
        targets = np.repeat(task.targets[sides[0]], points.shape[1], axis=0)
        train = points.reshape(-1, points.shape[2])
        validation, test = (segments[side].mean(axis=1) for side in sides[1:])
        return Part(train, targets), Part(validation, task.targets[sides[1]]), test
    attention = learn_attention(segments[sides[0]], task.targets[sides[0]], AttentionTraining())
    train, validation, test = (np.stack([attention.pool(clip) for clip in segments[side]]) for side in sides)
    return Part(train, task.targets[sides[0]]), Part(validation, task.targets[sides[1]]), test


def read_test(
    store: ActivationStore, tasks: Sequence[Task], pooling: str, methods: Sequence[str], search: RfmSearch
) -> dict[str, tuple[int, Array]]:
    """Block and readings [M, O] of the test clips by every method; `tasks` are the folds of one test."""
    parts = [[parts_of(store, task, layer, pooling) for layer in range(store.layers)] for task in tasks]
    folds = [Fold([part[0] for part in layers], [part[1] for part in layers]) for layers in parts]
    read = {}
    for method in methods:
        chosen: Chosen = best_rfm(search, folds) if method == "rfm" else best_linear(LINEAR[method], folds)
        read[method] = (chosen.layer, chosen.reader(parts[0][chosen.layer][2]))
    return read


def resampled(task: Task) -> list[npt.NDArray[np.int64]]:
    """Places among the test clips: first all, then RESAMPLES bootstrap draws of whole groups (of clips, if one group).

    A draw in which a class has no clip, or all of them, is drawn again.
    """
    rng, targets = np.random.default_rng(0), task.targets[task.is_test]
    groups = task.groups[task.is_test]
    names = np.unique(groups)
    if len(names) == 1:
        groups = np.arange(len(groups)).astype(str)
        names = groups
    members = {name: np.flatnonzero(groups == name) for name in names}
    draws = [np.arange(len(groups))]
    while len(draws) <= RESAMPLES:
        draw = np.concatenate([members[name] for name in rng.choice(names, len(names))])
        if (targets[draw].std(axis=0) > 0.0).all():
            draws.append(draw)
    return draws


def scores_of(readings: Array, targets: Array, draws: Sequence[npt.NDArray[np.int64]]) -> tuple[Array, Array | None]:
    """Score of every draw, and accuracy where there are classes: [1 + RESAMPLES] each, the first of all test clips."""
    if not is_binary(targets):
        return np.asarray([r_squared(readings[draw], targets[draw]) for draw in draws]), None
    is_right = readings.argmax(axis=1) == targets.argmax(axis=1)
    areas = np.asarray([score(readings[draw], targets[draw]) for draw in draws])
    return areas, np.asarray([is_right[draw].mean() for draw in draws])


def _interval(values: Array) -> tuple[float, float, float]:
    low, high = np.percentile(values[1:], (2.5, 97.5))
    return round(float(values[0]), 4), round(float(low), 4), round(float(high), 4)


def compare_set(
    set_name: str,
    store: ActivationStore,
    poolings: Sequence[str],
    methods: Sequence[str],
    search: RfmSearch | None = None,
) -> tuple[list[Cell], Lead | None]:
    """The cells of one set, and RFM's lead over the linear probe where both are asked for."""
    tests, cells, lead = Task.all_of(store.labels(concept_set(set_name).label), store.groups), [], None
    firsts = [folds[0] for folds in tests]
    draws = [resampled(task) for task in firsts]
    search = search or RfmSearch(device=learning_device())
    if not is_binary(firsts[0].targets):
        methods = [method for method in methods if method != "logistic"]  # which knows classes only
    for pooling in poolings:
        read = [read_test(store, folds, pooling, methods, search) for folds in tests]
        found = {}
        for method in methods:
            scores = [
                scores_of(one[method][1], task.targets[task.is_test], drawn)
                for one, task, drawn in zip(read, firsts, draws, strict=True)
            ]
            areas, hits = over_tasks([first for first, _ in scores]), over_tasks([second for _, second in scores])
            assert areas is not None  # there are scores of every task
            found[method] = areas, hits
            layers = [one[method][0] for one in read]
            accuracy = None if hits is None else _interval(hits)
            cells.append(Cell(set_name, pooling, method, max(layers, key=layers.count), _interval(areas), accuracy))
        if pooling == "mean" and {"rfm", "linear"} <= found.keys():
            (areas, hits), (plain_areas, plain_hits) = found["rfm"], found["linear"]
            more = None if hits is None or plain_hits is None else _interval(hits - plain_hits)
            lead = Lead(set_name, _interval(areas - plain_areas), more)
    return cells, lead


def over_tasks(values: Sequence[Array | None]) -> Array | None:
    """Means [1 + RESAMPLES] over the tasks, each of which has as many values: first of all tasks, then of bootstrap
    draws of tasks, each with its own draw of clips. None where tasks have no values.
    """
    known = [one for one in values if one is not None]
    if not known:
        return None
    table, rng = np.stack(known), np.random.default_rng(1)  # [tasks, 1 + RESAMPLES]
    if len(known) == 1:
        return known[0]
    drawn = [table[rng.integers(len(table), size=len(table)), place].mean() for place in range(1, table.shape[1])]
    return np.asarray([table[:, 0].mean(), *drawn])


def as_table(cells: Sequence[Cell], leads: Sequence[Lead]) -> list[list[str]]:
    """Rows of text, the head first: a row per set and pooling, a column per method."""
    methods = [method for method in METHODS if any(cell.method == method for cell in cells)]
    rows = [["set", "pooling", *methods, "rfm - linear"]]
    by_set = {lead.set_name: lead for lead in leads}
    told = {(cell.set_name, cell.pooling, cell.method): _told(cell) for cell in cells}
    for key in dict.fromkeys((cell.set_name, cell.pooling) for cell in cells):
        row = [f"{key[0]} (R2)" if key[0] == "tempos" else key[0], key[1]]
        row += [told.get((*key, method), "") for method in methods]
        lead = by_set.get(key[0]) if key[1] == "mean" else None
        rows.append([*row, "" if lead is None else "{:+.3f} ({:+.3f}..{:+.3f})".format(*lead.score)])
    return rows


def _told(cell: Cell) -> str:
    mean, low, high = cell.score
    text = f"{mean:.3f} ({low:.3f}..{high:.3f})"
    return text if cell.accuracy is None else f"{text}, {cell.accuracy[0]:.0%} right"


def as_markdown(rows: Sequence[Sequence[str]]) -> str:
    """The table for a document."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def _reporter(bar: Progress, title: str) -> Callable[[int, int], None]:
    task = bar.add_task(title, total=None)
    return lambda done, count: bar.update(task, completed=done, total=count)


def _wanted(text: str) -> tuple[str, int]:
    """A set and how many of its clips. Raises StartError."""
    name, _, clips = text.partition("=")
    if clips and not clips.isdecimal():
        raise StartError(f"'{text}' is no set, expected NAME or NAME=CLIPS")
    return name, int(clips or CLIPS)


def main(
    sets: Annotated[
        list[str] | None,
        typer.Argument(help="sets of SynTheory, NAME or NAME=CLIPS; default: all seven, 300 clips each"),
    ] = None,
    pooling: Annotated[list[str] | None, typer.Option(help="repeatable; default: all")] = None,
    method: Annotated[list[str] | None, typer.Option(help="repeatable; default: all")] = None,
    checkpoint: Annotated[str, typer.Option(help="embedded, a folder, or OWNER/NAME[@REVISION]")] = EMBEDDED,
    cache: Annotated[Path, typer.Option(help="folder for sound and activations")] = Path(
        "~/.cache/rfm_live/comparison"
    ),
    skipped_seconds: Annotated[float, typer.Option(help="of every clip, left out of mean and segments")] = 0.5,
    most: Annotated[
        int, typer.Option(help="clips of a set that RFM learns from; time grows with their cube", min=2)
    ] = RfmSearch.most,
    markdown: Annotated[Path | None, typer.Option(help="file for the table in markdown")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
) -> None:
    """Compare probes and poolings on held-out instruments."""
    torch.set_num_threads(1)
    model = load_checkpoint(checkpoint_folder(checkpoint), learning_device())
    cells: list[Cell] = []
    leads: list[Lead] = []
    counts: dict[str, int] = {}
    folder, search = cache.expanduser(), RfmSearch(most=most, device=learning_device())
    with Progress(console=Console(stderr=True)) as bar:
        for name, clips in map(_wanted, sets or [member.name for member in SETS]):
            told = _reporter(bar, f"{name}: rendering")
            collection = rendered_syntheory(name, folder / "syntheory", Rendering(clips), told)
            place = folder / model.sha256[:12] / name
            told = _reporter(bar, f"{name}: reading")
            store = compute_activations(model, collection, place, Reading(skipped_seconds=skipped_seconds), told)
            counts[name] = len(store.clips)
            more, lead = compare_set(name, store, pooling or POOLINGS, method or METHODS, search)
            cells += more
            leads += [] if lead is None else [lead]
    rows = as_table(cells, leads)
    if markdown is not None:
        markdown.write_text(as_markdown(rows) + "\n")
    if as_json:
        found: dict[str, Any] = {"checkpoint_sha256": model.sha256, "clips": counts}
        found |= {"cells": [asdict(cell) for cell in cells], "leads": [asdict(lead) for lead in leads]}
        print(json.dumps(found))
        return
    table = Table(*rows[0])
    for row in rows[1:]:
        table.add_row(*row)
    _console.print(table)


if __name__ == "__main__":
    typer.run(main)
