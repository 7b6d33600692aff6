"""The concept bank: unit directions per concept and block, learned for one checkpoint, and the file that holds them.

Used by the engine (worker process), by concept learning, which writes banks, and by the CLI, which describes them. No
torch: a bank is numpy arrays. The file is safetensors with JSON metadata, never a pickle.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rfm_live.errors import BankError

FORMAT, VERSION = "rfm_live bank", 1
SITE = "block_output"
PERIODS = (1, 500)

_BY_LAYER = ("scores", "mean", "spread", "layer_weights")
_BY_CONCEPT = ("unit", "gate", "period")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_UNIT_TOLERANCE = 1e-3  # a direction stored as fp16 is still unit within this

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ConceptBank:
    """C concepts for a decoder of L blocks and width D; raises BankError when a part contradicts another.

    `directions` [C, L, D] are unit rows. `scores` [C, L] are the probes' AUC, 0..1. `mean` and `spread` [C, L] describe
    the projections the probes saw. At knob 1.0 a concept adds `unit` [C] * `layer_weights` [C, L] * direction, so
    `unit` is an absolute length in hidden units. `gate` [C] 0..1 and `period` [C] 1..500 frames are knob defaults.
    `checkpoint_sha256` is that of the checkpoint's model.safetensors; `site` is where the directions are added.
    """

    names: tuple[str, ...]
    directions: Array
    scores: Array
    mean: Array
    spread: Array
    unit: Array
    layer_weights: Array
    gate: Array
    period: npt.NDArray[np.int64]
    checkpoint_sha256: str
    origin: str = ""
    licence: str = ""
    site: str = SITE

    def __post_init__(self) -> None:
        if self.directions.ndim != 3:
            raise BankError(f"directions have {self.directions.ndim} axes, expected concepts, layers, width")
        concepts, layers, _ = self.directions.shape
        expected: dict[str, tuple[int, ...]] = {name: (concepts, layers) for name in _BY_LAYER}
        expected |= {name: (concepts,) for name in _BY_CONCEPT}
        for name, shape in expected.items():
            if (found := getattr(self, name).shape) != shape:
                raise BankError(f"{name} has shape {list(found)}, expected {list(shape)}")
        for name in ("directions", *expected):
            if not np.isfinite(getattr(self, name)).all():
                raise BankError(f"{name} holds a value that is not finite")
        _check_names(self.names, concepts)
        lengths = np.linalg.norm(self.directions.astype(np.float64), axis=-1)  # [C, L]
        if (np.abs(lengths - 1.0) > _UNIT_TOLERANCE).any():
            concept, layer = np.unravel_index(np.abs(lengths - 1.0).argmax(), lengths.shape)
            length = lengths[concept, layer]
            raise BankError(f"direction '{self.names[concept]}' of layer {layer} has length {length:.4g}, expected 1")
        self._check_range("scores", 0.0, 1.0)
        self._check_range("gate", 0.0, 1.0)
        self._check_range("period", *PERIODS)
        self._check_range("spread", 0.0, np.inf)
        self._check_range("unit", 0.0, np.inf)
        if self.site != SITE:
            raise BankError(f"site is {self.site!r}, expected {SITE!r}")

    def _check_range(self, name: str, low: float, high: float) -> None:
        values = getattr(self, name)
        if ((values < low) | (values > high)).any():
            raise BankError(f"{name} spans {values.min()}..{values.max()}, expected {low}..{high}")

    @property
    def layers(self) -> int:
        return int(self.directions.shape[1])

    @property
    def width(self) -> int:
        return int(self.directions.shape[2])

    @classmethod
    def empty(cls, layers: int, width: int) -> "ConceptBank":
        """A bank without concepts, for playing a checkpoint that has none."""
        table = np.zeros((0, layers), dtype=np.float32)
        column = np.zeros(0, dtype=np.float32)
        directions = np.zeros((0, layers, width), dtype=np.float32)
        return cls((), directions, table, table, table, column, table, column, column.astype(np.int64), "")


def _check_names(names: tuple[str, ...], concepts: int) -> None:
    if len(names) != concepts:
        raise BankError(f"{len(names)} names for {concepts} directions")
    for name in names:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise BankError(f"concept name is {name!r}, expected lower case letters, digits and underscores")
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise BankError(f"concept names {twice} occur more than once")


_TABLES = ("directions", *_BY_LAYER, *_BY_CONCEPT)
_TEXTS = ("checkpoint_sha256", "origin", "licence", "site")


def save_bank(bank: ConceptBank, path: Path) -> None:
    """Write the bank to one safetensors file."""
    about = {"format": FORMAT, "version": VERSION, "names": list(bank.names)}
    about |= {name: getattr(bank, name) for name in _TEXTS}
    tensors = {name: np.ascontiguousarray(getattr(bank, name), dtype=_dtype(name)) for name in _TABLES}
    save_file(tensors, path, metadata={"rfm_live": json.dumps(about)})


def load_bank(path: Path, layers: int, width: int, checkpoint_sha256: str | None = None) -> ConceptBank:
    """Read a bank for a decoder of `layers` blocks and `width`; refuse one made for another checkpoint.

    `checkpoint_sha256` None leaves the checkpoint unchecked. Raises BankError, which names the file and what is wrong.
    """
    try:
        about, tensors = _read(path)
        bank = ConceptBank(**about, **tensors)
        if (bank.layers, bank.width) != (layers, width):
            raise BankError(
                f"made for {bank.layers} layers of width {bank.width}, the checkpoint has {layers} of width {width}"
            )
        if checkpoint_sha256 is not None and bank.checkpoint_sha256 != checkpoint_sha256:
            made_for = bank.checkpoint_sha256[:12]
            raise BankError(f"made for the checkpoint with sha256 {made_for}, this one has {checkpoint_sha256[:12]}")
    except BankError as error:
        raise BankError(f"{path}: {error}") from error.__cause__
    return bank


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the two halves of a bank: what its metadata says and its arrays, both keyed as ConceptBank's fields."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            stored = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError, TypeError) as error:  # TypeError: a dtype that numpy has not
        raise BankError(f"cannot be read: {error}") from error
    try:
        about = json.loads(metadata.get("rfm_live", "null"))
    except json.JSONDecodeError as error:
        raise BankError(f"metadata is not JSON: {error}") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise BankError(f"is not a file of the format {FORMAT!r}")
    if about.get("version") != VERSION:
        raise BankError(f"version is {about.get('version')!r}, expected {VERSION}")
    if not isinstance(about.get("names"), list):
        raise BankError(f"names are {about.get('names')!r}, expected a list")
    for name in _TEXTS:
        if not isinstance(about.get(name), str):
            raise BankError(f"{name} is {about.get(name)!r}, expected a text")
    if missing := sorted(set(_TABLES) - stored.keys()):
        raise BankError(f"lacks {', '.join(missing)}")
    texts = {"names": tuple(about["names"])} | {name: about[name] for name in _TEXTS}
    return texts, {name: stored[name].astype(_dtype(name)) for name in _TABLES}


def _dtype(name: str) -> type[np.generic]:
    return np.int64 if name == "period" else np.float32
