"""A program that reads the sound files of a folder into activations: what tests kill, or measure the memory of.

`python -m tests.reading CHECKPOINT FOLDER COUNT TARGET` reads COUNT clips, taking the files of FOLDER in turns, in
shards of 8, and prints its peak memory in KiB, that after the first 50 clips and that at the end.
"""

import resource
import sys
from pathlib import Path

import torch

from rfm_live.concepts.activations import Reading, compute_activations
from rfm_live.concepts.clips import Clip, Collection, SoundFile
from rfm_live.model.checkpoint import load_checkpoint

READING = Reading(segments=4, skipped_seconds=0.1, batch=4, shard=8)


def collection(folder: Path, count: int) -> Collection:
    """`count` clips of a quarter of a second."""
    files = sorted(folder.glob("*.wav"))
    clips = (
        Clip(
            f"clip{index:04d}",
            files[index % len(files)].name,
            {"even": 1.0 - index % 2},
            0.25,
            SoundFile(file, 0.0, 0.25),
        )
        for index, file in ((index, files[index % len(files)]) for index in range(count))
    )
    return Collection(tuple(clips), (), "tones", "none")


def main(checkpoint: str, folder: str, count: str, target: str) -> None:
    torch.set_num_threads(1)
    model = load_checkpoint(Path(checkpoint))
    compute_activations(model, collection(Path(folder), 50), Path(target, "first"), READING)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    compute_activations(model, collection(Path(folder), int(count)), Path(target), READING)
    print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


if __name__ == "__main__":
    main(*sys.argv[1:])
