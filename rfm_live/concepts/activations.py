"""Clips to activations on disk: shards of pooled states that are mapped into memory, block by block. Resumable.

Used by concept learning. A folder of shards is a cache. A shard counts when it is whole and was made of the same clips,
checkpoint and reading; whatever else lies under its name is made again. So a run that was killed goes on where it was,
and after a change only what changed is computed. Memory is that of one batch and one shard, however many clips.

Shapes: N clips, L blocks, D width, S segments, n clips of a shard.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from rfm_live.concepts.clips import Clip, Collection, Label, Problem, Progress, Samples, no_progress
from rfm_live.concepts.shards import Shard, fingerprint, is_current, open_shard, read_layer, write_shard, write_text
from rfm_live.concepts.states import POOLINGS, Points, Reading, batch_size, read_points
from rfm_live.errors import ClipError
from rfm_live.model.checkpoint import MusicGen

FORMAT = 1
INDEX = "activations.json"
Array = npt.NDArray[np.float32]
DEFAULT_READING = Reading()


@dataclass(frozen=True)
class ClipRecord:
    """What is known of a clip whose activations are stored."""

    name: str
    group: str
    labels: dict[str, Label]


@dataclass(frozen=True)
class ActivationStore:
    """A folder of activations. `clips` are in the order of all arrays; `problems` are the clips left out.

    `poolings` are "mean", "last" and "segments"; the last are also what learned attention pools.
    """

    folder: Path
    clips: tuple[ClipRecord, ...]
    problems: tuple[Problem, ...]
    checkpoint_sha256: str
    reading: Reading
    origin: str
    licence: str
    layers: int
    width: int
    shards: tuple[str, ...]
    poolings: tuple[str, ...] = POOLINGS

    @property
    def groups(self) -> list[str]:
        return [clip.group for clip in self.clips]

    def labels(self, name: str) -> list[Label]:
        """The label `name` of every clip. Raises `ClipError` where a clip has none."""
        for clip in self.clips:
            if name not in clip.labels:
                raise ClipError(f"{clip.name}: no label '{name}', expected {', '.join(clip.labels)}")
        return [clip.labels[name] for clip in self.clips]

    def layer(self, pooling: str, layer: int) -> Array:
        """Points of one block, [N, D], or [N, S, D] for segments; reads that block only.

        Raises:
            ValueError: there is no such pooling or block.
            ClipError: a shard is missing or broken.
        """
        if pooling not in self.poolings or not 0 <= layer < self.layers:
            raise ValueError(f"no '{pooling}' of block {layer}, expected {self.poolings} of 0..{self.layers - 1}")
        return np.concatenate([read_layer(self.folder / name, pooling, layer) for name in self.shards])

    def rows(self, pooling: str) -> Array:
        """Points of all blocks in memory at once, [N, L, D], or [N, S, L, D] for segments. Raises as `layer` does."""
        blocks = [self.layer(pooling, layer) for layer in range(self.layers)]
        return np.stack(blocks, axis=blocks[0].ndim - 1)


@dataclass(frozen=True)
class ShardTask:
    """One shard to compute: the unit of work of every engine, the same for all, so that they agree bit by bit."""

    file: Path
    clips: tuple[Clip, ...]
    fingerprint: str
    reading: Reading


Runner = Callable[[MusicGen, Sequence[ShardTask], Callable[[int], None]], None]
"""Computes tasks with a model and tells how many more clips are done."""


def run_locally(model: MusicGen, tasks: Sequence[ShardTask], advance: Callable[[int], None]) -> None:
    """One shard after the other, in this process and on the model's device."""
    for task in tasks:
        compute_shard(model, task, advance)


def compute_activations(
    model: MusicGen,
    collection: Collection,
    folder: Path,
    reading: Reading = DEFAULT_READING,
    progress: Progress = no_progress,
    run: Runner = run_locally,
) -> ActivationStore:
    """Read all clips with the model and keep their points in `folder`; what is there already is not read again.

    Raises:
        ClipError: no clip can be used, two clips have one name, or the folder cannot be written.
    """
    _refuse_doubles(collection.clips)
    tasks = _tasks(model, collection.clips, folder, reading)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        open_tasks = [task for task in tasks if not is_current(task.file, task.fingerprint)]
        done = len(collection.clips) - sum(len(task.clips) for task in open_tasks)
        progress(done, len(collection.clips))

        def advance(count: int) -> None:
            nonlocal done
            done += count
            progress(done, len(collection.clips))

        run(model, open_tasks, advance)
        return _finish(model, collection, folder, tasks, reading)
    except OSError as error:
        raise ClipError(
            f"activations '{folder}' cannot be written: {(error.strerror or str(error)).lower()}"
        ) from error


def open_activations(folder: Path) -> ActivationStore:
    """The activations that `compute_activations` has finished in `folder`. Raises `ClipError`."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        if index["format"] != FORMAT:
            raise ClipError(f"'{folder / INDEX}' has format {index['format']!r}, expected {FORMAT}: compute it again")
        return ActivationStore(
            folder,
            tuple(ClipRecord(**clip) for clip in index["clips"]),
            tuple(Problem(**problem) for problem in index["problems"]),
            index["checkpoint_sha256"],
            Reading(**index["reading"]),
            index["origin"],
            index["licence"],
            index["layers"],
            index["width"],
            tuple(index["shards"]),
        )
    except OSError as error:
        raise ClipError(
            f"'{folder}' holds no finished activations: {(error.strerror or str(error)).lower()}"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ClipError(f"'{folder / INDEX}' is broken: {error}") from error


def compute_shard(model: MusicGen, task: ShardTask, advance: Callable[[int], None]) -> None:
    """Read the clips of one shard and write its file, whole or not at all."""
    names: list[str] = []
    problems: list[Problem] = []
    points: list[Points] = []
    for batch in _batches(model, task, problems, advance):
        found = read_points(model, torch.from_numpy(np.stack([samples for _, samples in batch])), task.reading)
        kept = _sound_rows(found, [name for name, _ in batch], problems)
        names += [batch[row][0] for row in kept]
        points.append(Points(found.mean[kept], found.last[kept], found.segments[kept]))
        advance(len(batch))
    decoder = model.config.decoder
    empty = Points(
        torch.zeros(0, decoder.layers, decoder.width),
        torch.zeros(0, decoder.layers, decoder.width),
        torch.zeros(0, decoder.layers, task.reading.segments, decoder.width),
    )
    arrays = {pooling: torch.cat([part[pooling] for part in (empty, *points)]).numpy() for pooling in POOLINGS}
    write_shard(task.file, Shard(task.fingerprint, tuple(names), tuple(problems)), arrays)


def _batches(
    model: MusicGen, task: ShardTask, problems: list[Problem], advance: Callable[[int], None]
) -> Iterator[list[tuple[str, Samples]]]:
    """Names and samples of clips in a row that have equal length, in whole frames, as many as are read at once."""
    readable = _readable(model, task, problems, advance)
    for length, run in groupby(readable, key=lambda item: len(item[1])):
        size = batch_size(model, length // model.config.hop, task.reading)
        batch: list[tuple[str, Samples]] = []
        for item in run:
            batch.append(item)
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch


def _readable(
    model: MusicGen, task: ShardTask, problems: list[Problem], advance: Callable[[int], None]
) -> Iterator[tuple[str, Samples]]:
    """Name and samples of every clip that can be read, cut to whole frames; the others become problems."""
    most = model.config.decoder.max_positions - 1  # BOS takes a position
    for clip in task.clips:
        try:
            samples = clip.read(model.config.sample_rate)
            frames = len(samples) // model.config.hop
            if not 2 * task.reading.segments <= frames <= most:
                least = 2 * task.reading.segments
                raise ClipError(f"is {frames} frames long, expected {least}..{most}")
        except ClipError as error:
            problems.append(Problem(clip.name, str(error)))
            advance(1)
            continue
        yield clip.name, samples[: frames * model.config.hop]


def _sound_rows(points: Points, names: Sequence[str], problems: list[Problem]) -> list[int]:
    """The rows whose numbers are finite; the others become problems."""
    rows = []
    for row, name in enumerate(names):
        is_finite = points.mean[row].isfinite() & points.last[row].isfinite()  # [L, D]
        if is_finite.all():
            rows.append(row)
        else:
            layer = int((~is_finite).any(dim=1).int().argmax())
            problems.append(Problem(name, f"block {layer} of the model answers NaN or infinity"))
    return rows


def _refuse_doubles(clips: Sequence[Clip]) -> None:
    seen: set[str] = set()
    for clip in clips:
        if clip.name in seen:
            raise ClipError(f"two clips are called '{clip.name}', expected names of their own")
        seen.add(clip.name)


def _tasks(model: MusicGen, clips: Sequence[Clip], folder: Path, reading: Reading) -> list[ShardTask]:
    tasks = []
    precision = [str(model.decoder.embedding.weight.dtype), str(model.codec.quantizer.codebooks.dtype)]
    for start in range(0, len(clips), reading.shard):
        part = tuple(clips[start : start + reading.shard])
        made_of = [
            FORMAT,
            model.sha256,
            precision,
            asdict(reading),
            [(clip.name, clip.sound.identity) for clip in part],
        ]
        name = folder / f"shard_{start // reading.shard:05d}.safetensors"
        tasks.append(ShardTask(name, part, fingerprint(made_of), reading))
    return tasks


def _finish(
    model: MusicGen, collection: Collection, folder: Path, tasks: Sequence[ShardTask], reading: Reading
) -> ActivationStore:
    """Write the index over all shards, which says that the folder is whole, and drop shards that are left over."""
    by_name = {clip.name: clip for clip in collection.clips}
    shards = [open_shard(task.file) for task in tasks]
    kept = [by_name[name] for shard in shards for name in shard.names]
    problems = [*collection.problems, *(problem for shard in shards for problem in shard.problems)]
    if not kept:
        why = f": {problems[0]}" if problems else ""
        raise ClipError(f"none of {len(collection.clips)} clips can be used{why}")
    content = {
        "format": FORMAT,
        "checkpoint_sha256": model.sha256,
        "reading": asdict(reading),
        "origin": collection.origin,
        "licence": collection.licence,
        "layers": model.config.decoder.layers,
        "width": model.config.decoder.width,
        "shards": [task.file.name for task in tasks],
        "clips": [{"name": clip.name, "group": clip.group, "labels": clip.labels} for clip in kept],
        "problems": [asdict(problem) for problem in problems],
    }
    write_text(folder / INDEX, json.dumps(content))
    for left_over in set(folder.glob("shard_*.safetensors")) - {task.file for task in tasks}:
        left_over.unlink()
    return open_activations(folder)
