"""A program that reads clips with Ray, in a process of its own because Ray leaves threads and handlers behind.

`python -m tests.ray_reading CHECKPOINT FOLDER COUNT TARGET` reads with two workers, the last shard into a folder that
is not there; it prints the progress and what went wrong.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from rfm_live.concepts.activations import ShardTask, compute_activations
from rfm_live.concepts.activations_ray import run_on_ray
from rfm_live.errors import ClipError
from rfm_live.model.checkpoint import MusicGen, load_checkpoint
from tests.reading import READING, collection


def run_with_a_failure(model: MusicGen, tasks: Sequence[ShardTask], advance: Callable[[int], None]) -> None:
    """All tasks, and the first once more into nowhere."""
    run_on_ray(2)(model, [*tasks, replace(tasks[0], file=Path("/nowhere/shard.safetensors"))], advance)


def main(checkpoint: str, folder: str, count: str, target: str) -> None:
    torch.set_num_threads(1)
    told: list[int] = []
    try:
        compute_activations(
            load_checkpoint(Path(checkpoint)),
            collection(Path(folder), int(count)),
            Path(target),
            READING,
            lambda done, total: told.append(done),
            run_with_a_failure,
        )
    except ClipError as error:
        print(*told)
        print(error)


if __name__ == "__main__":
    main(*sys.argv[1:])
