"""Does `rfm-live learn --dry-run` foretell what learning takes? One JSON line: foretold, measured, and their ratios.

`python -m tests.dry_run` makes a checkpoint of musicgen-small's size with random weights in a temporary folder,
asks for the forecast of all twelve notes, and then measures a larger fraction in a fresh process: `--clips` read, one
concept learned at two blocks from points drawn from them, `--pieces` of music with one of twelve knobs turned.
`--checkpoint FOLDER` takes a checkpoint that is there instead. One thread; Linux only.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rfm_live.concepts import forecast as forecasting
from rfm_live.concepts.activations import ActivationStore, ClipRecord, compute_activations
from rfm_live.concepts.calibration import Listening
from rfm_live.concepts.directions import learn_concept
from rfm_live.concepts.effect_meters import dominance_of, meter_ear, readings
from rfm_live.concepts.learning import LearningSettings, some_of
from rfm_live.concepts.shards import Shard, write_shard
from rfm_live.concepts.splits import split_clips
from rfm_live.concepts.stage import Stage, with_controls
from rfm_live.concepts.syntheory import concept_set
from rfm_live.concepts.syntheory_audio import Rendering, plan_syntheory
from rfm_live.concepts.targets import Concept, concepts_of
from rfm_live.model.checkpoint import MusicGen, load_checkpoint
from tests.loading import random_checkpoint

ROOT = Path(__file__).parent.parent
COUNT = 600
"""Clips of notes that `learn` takes unless told otherwise."""
BLOCKS = 2
PARTS = ("rendering", "reading", "learning", "listening")


def foretold(checkpoint: Path, cache: Path) -> dict[str, Any]:
    """What the command says about notes."""
    command = [sys.executable, "-m", "rfm_live", "learn", "notes", "--dry-run", "--json", "--subset", str(COUNT)]
    places = ["--checkpoint", str(checkpoint), "--cache", str(cache), "-o", str(cache.with_name("x.safetensors"))]
    result = subprocess.run([*command, *places], stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True)
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def measured(checkpoint: Path, cache: Path, clips: int, pieces: int) -> dict[str, float]:
    """Seconds of the parts at the pace of the larger fraction, and the peak of this process, which should be fresh."""
    torch.set_num_threads(1)
    model = load_checkpoint(checkpoint)
    plan = plan_syntheory("notes", cache / "syntheory", Rendering(COUNT))
    listening = Listening(seeds=(1, 2, 3))
    label = concept_set("notes").label
    task = forecasting.Task(plan.collection, plan, label, "note", LearningSettings(), listening, "auto")
    concepts = concepts_of([clip.labels[task.label] for clip in plan.collection.clips], task.name)
    work = forecasting.work_of(task, concepts, model.config.decoder.layers)

    sample = replace(plan.collection, clips=tuple(some_of(plan.collection.clips, clips)))
    files = {plan.file_of[clip.name] for clip in sample.clips}
    length = sum(plan.tracks[file].seconds for file in files & plan.missing().keys())
    began = time.perf_counter()
    plan.render(files)
    rendering, began = (time.perf_counter() - began) / length, time.perf_counter()
    store = compute_activations(model, sample, cache / "activations", task.reading)
    reading = (time.perf_counter() - began) / (4.0 * len(store.clips))
    pace = forecasting.Amounts(
        track_seconds=rendering,
        clip_seconds=reading,
        fits=fit_seconds(store, task, concepts[0], cache / "drawn.safetensors"),
        **listening_paces(model, listening, [concept.name for concept in concepts], pieces),
    )
    return {**forecasting.forecast(work, pace), "peak_bytes": forecasting.peak_bytes(), **asdict(pace)}


def fit_seconds(store: ActivationStore, task: forecasting.Task, concept: Concept, file: Path) -> float:
    """Seconds of a concept at a block, from as many points as there will be, each of half of a read clip's segments."""
    rng = np.random.default_rng(1)
    rows = np.stack([store.layer("segments", layer) for layer in range(BLOCKS)], axis=1)  # [n, 2, S, D]
    segments = np.empty((COUNT, BLOCKS, store.reading.segments, store.width), np.float32)
    for index in range(COUNT):
        picked = rows[rng.integers(len(rows))]
        chosen = rng.permutation(store.reading.segments)[: store.reading.segments // 2]
        segments[index] = picked[:, chosen].mean(axis=1)[:, None]  # [2, 1, D]
    # 600 clips span as many directions; those of a few read clips alone would make the work of RFM's row space small.
    segments += 0.1 * segments.std() * rng.standard_normal(segments.shape, np.float32)
    points = {"mean": segments.mean(axis=2), "last": segments[:, :, -1], "segments": segments}
    write_shard(file, Shard("", (), ()), points)
    records = tuple(ClipRecord(clip.name, clip.group, clip.labels) for clip in task.collection.clips)
    drawn = replace(store, folder=file.parent, clips=records, layers=BLOCKS, shards=(file.name,))
    split = split_clips(drawn.groups, drawn.labels(task.label), task.settings.held_share)
    began = time.perf_counter()
    learn_concept(drawn, concept, task.settings.probe, "mean", split, task.settings.most_points)
    return (time.perf_counter() - began) / BLOCKS


def listening_paces(model: MusicGen, listening: Listening, names: list[str], pieces: int) -> dict[str, float]:
    """Seconds of a second of music and of a hearing, over `pieces` from one opening, and of all meters on one piece."""
    stage = Stage(model, with_controls(forecasting.any_bank(model, names)), listening.play)
    play, ear = listening.play, meter_ear(dominance_of("c"), 1.0)
    began = time.perf_counter()
    heard = [stage.hear(1, {name: 1.0}) for name in names[:pieces]]
    length = play.lead_seconds + pieces * (play.settle_seconds + play.heard_seconds)
    music = (time.perf_counter() - began) / length
    readings(heard[0])  # the first time compiles
    began = time.perf_counter()
    readings(heard[-1])
    meters, began = time.perf_counter() - began, time.perf_counter()
    for samples in heard:
        ear.read(samples)
    return {
        "music_seconds": music,
        "meter_clips": meters,
        "hearings": (time.perf_counter() - began) / pieces,
    }


def compared(checkpoint: Path, place: Path, clips: int, pieces: int) -> dict[str, Any]:
    """Forecast and measurement beside each other; a ratio above 1 was foretold too long or too large."""
    told = foretold(checkpoint, place / "foretold")
    command = [sys.executable, "-m", "tests.dry_run", "--measure", str(place / "measured")]
    command += ["--checkpoint", str(checkpoint), "--clips", str(clips), "--pieces", str(pieces)]
    found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True).stdout)
    found["seconds"] = told["starting"] + sum(found[part] for part in PARTS)
    ratios = {part: round(told[part] / found[part], 3) for part in (*PARTS, "seconds", "peak_bytes")}
    return {"foretold": told, "measured": found, "ratios": ratios}


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("--clips", 32), ("--pieces", 3), ("--width", 1024), ("--layers", 24), ("--heads", 16)):
        parser.add_argument(name, type=int, default=default)
    parser.add_argument("--codec-filters", type=int, default=64)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure is not None:
        print(json.dumps(measured(chosen.checkpoint, chosen.measure, chosen.clips, chosen.pieces)))
        return
    with tempfile.TemporaryDirectory() as folder:
        place, checkpoint = Path(folder), chosen.checkpoint
        if checkpoint is None:
            checkpoint = place / "checkpoint"
            checkpoint.mkdir()
            sizes = (chosen.width, chosen.layers, chosen.heads, chosen.codec_filters)
            random_checkpoint(checkpoint, "float32 safetensors", *sizes)
        print(json.dumps(compared(checkpoint, place, chosen.clips, chosen.pieces)))


if __name__ == "__main__":
    _main()
