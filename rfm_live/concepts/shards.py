"""One file of activations: float16 points of a few clips, each block's in one piece. Used by `activations`.

A safetensors file. `mean` and `last` are [L, n, D], `segments` [L, n, S, D], `scale` float32 [L]: a value is its
float16 times the block's scale, a power of two, so the residual streams of large models, which leave float16's range,
fit. The metadata say what the shard was made of, which clips are in it, and which are not and why.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rfm_live.concepts.clips import Problem
from rfm_live.errors import ClipError

Array = npt.NDArray[np.float32]
_MOST = 32_768.0
"""Half of float16's range."""


@dataclass(frozen=True)
class Shard:
    """What a shard was made of, the names of its clips in order, and the clips that could not be used."""

    fingerprint: str
    names: tuple[str, ...]
    problems: tuple[Problem, ...]


def fingerprint(made_of: object) -> str:
    """A hash of plain values."""
    return sha256(json.dumps(made_of).encode()).hexdigest()


def write_shard(file: Path, shard: Shard, arrays: Mapping[str, Array]) -> None:
    """Write points [n, L, ...], whole or not at all."""
    layers = next(iter(arrays.values())).shape[1]
    largest = np.max([np.abs(array).max(axis=(0, *range(2, array.ndim)), initial=0.0) for array in arrays.values()], 0)
    scale = np.exp2(np.ceil(np.log2(np.maximum(largest / _MOST, 1.0)))).astype(np.float32)  # [L]
    stored: dict[str, npt.NDArray[np.floating]] = {"scale": scale}
    for name, array in arrays.items():
        by_layer = np.moveaxis(array, 1, 0) / scale.reshape(layers, *(1 for _ in array.shape[1:]))
        stored[name] = np.ascontiguousarray(by_layer, np.float16)  # [L, n, ...]
    _replace(file, save(stored, {"shard": json.dumps(asdict(shard))}))  # one key: the order of more would vary


def open_shard(file: Path) -> Shard:
    """What a shard says about itself. Raises `ClipError` where it is missing or broken."""
    try:
        with safe_open(file, "numpy") as opened:
            told = json.loads((opened.metadata() or {})["shard"])
        problems = tuple(Problem(**problem) for problem in told["problems"])
        return Shard(told["fingerprint"], tuple(told["names"]), problems)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ClipError(f"shard '{file}' is missing or broken: {error}") from error


def is_current(file: Path, expected: str) -> bool:
    """Whether the shard is there, whole, and made of what is `expected`."""
    try:
        return open_shard(file).fingerprint == expected
    except ClipError:
        return False


def read_layer(file: Path, pooling: str, layer: int) -> Array:
    """Points of one block, [n, D] or [n, S, D]. Raises `ClipError` where the shard is missing or broken."""
    try:
        with safe_open(file, "numpy") as opened:
            scale = opened.get_tensor("scale")[layer]
            return np.asarray(opened.get_slice(pooling)[layer] * scale, np.float32)
    except (OSError, SafetensorError, IndexError) as error:
        raise ClipError(f"shard '{file}' is missing or broken: {error}") from error


def write_text(file: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    _replace(file, text.encode())


def _replace(file: Path, content: bytes) -> None:
    part = file.with_suffix(".part")
    part.write_bytes(content)
    os.replace(part, file)
