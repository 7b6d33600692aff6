"""Shards of activations computed by Ray: on this machine's cores, or on a cluster. Used by `rfm-live learn`.

Each worker loads the checkpoint once and computes whole shards, with one torch thread for each of its cores; so two
workers write the bytes that one process with as many threads writes. The workers read the audio and write the shards
themselves: on a cluster both folders, and the checkpoint's, must have the same path everywhere.
"""

from __future__ import annotations

import importlib
import os
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from rfm_live.concepts.activations import Runner, ShardTask, compute_shard
from rfm_live.errors import ClipError, StartError
from rfm_live.model.checkpoint import MusicGen, load_checkpoint


class _Worker:
    """A process that loads the checkpoint for its first shard, so that a failure is told as what it was."""

    def __init__(self, checkpoint: Path, device: str) -> None:
        torch.set_num_threads(1)
        self._checkpoint, self._device = checkpoint, device
        self._model: MusicGen | None = None

    def compute(self, task: ShardTask) -> int:
        """Write one shard; answers how many clips it has."""
        if self._model is None:
            self._model = load_checkpoint(self._checkpoint, self._device)
        compute_shard(self._model, task, lambda count: None)
        return len(task.clips)


def run_on_ray(workers: int, gpus_each: float = 0.0) -> Runner:
    """A runner for `compute_activations` with that many worker processes of one core, each with `gpus_each` GPUs.

    With RAY_ADDRESS in the environment the workers run on that cluster, otherwise on a Ray of this process's own, which
    ends with the work.

    Raises (when it runs):
        StartError: Ray is not installed.
        ClipError: the model was not loaded from a folder, or a worker failed.
    """
    if workers < 1:
        raise ClipError(f"workers are {workers}, expected 1 or more")

    def run(model: MusicGen, tasks: Sequence[ShardTask], advance: Callable[[int], None]) -> None:
        if not tasks:
            return
        if model.path is None:
            raise ClipError("Ray's workers load the checkpoint from a folder, and this model came from memory")
        ray = _import_ray()
        is_own = not ray.is_initialized()
        if is_own:
            _start(ray, workers)
        try:
            kind = ray.remote(num_cpus=1, num_gpus=gpus_each)(_Worker)
            count = min(workers, len(tasks))
            actors = [kind.remote(model.path.absolute(), "cuda" if gpus_each else "cpu") for _ in range(count)]
            _share_out(ray, actors, tasks, advance)
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            raise ClipError(f"a Ray worker failed: {' '.join(str(cause).split())[:300]}") from error
        finally:
            if is_own:
                ray.shutdown()

    return run


def _start(ray: ModuleType, workers: int) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers
    options: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    if "RAY_ADDRESS" not in os.environ:
        options["num_cpus"] = workers
    ray.init(**options)


def _share_out(
    ray: ModuleType, actors: Sequence[Any], tasks: Sequence[ShardTask], advance: Callable[[int], None]
) -> None:
    """Give every idle worker the next task until all are done. After a failure those in work are still finished."""
    waiting = deque(tasks)
    busy = {actor.compute.remote(waiting.popleft()): actor for actor in actors}
    failure: Exception | None = None
    while busy:
        (answer,), _ = ray.wait(list(busy))
        actor = busy.pop(answer)
        try:
            advance(ray.get(answer))
        except ray.exceptions.RayError as error:
            failure = failure or error
            waiting.clear()
        if waiting:
            busy[actor.compute.remote(waiting.popleft())] = actor
    if failure is not None:
        raise failure


def _import_ray() -> ModuleType:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise StartError("the engine ray needs the package ray: pip install 'rfm-live[ray]'") from error
