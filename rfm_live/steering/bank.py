"""The concept bank: unit directions per concept and block, learned for one checkpoint, and what is known of them.

Used by the engine (worker process), by concept learning, which makes banks, and by the CLI, which describes and merges
them. No torch: a bank is numpy arrays. The file is safetensors with JSON metadata inside it, never a pickle.
"""

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rfm_live.errors import BankError
from rfm_live.steering.concept_card import ConceptCard, card_as_json, card_from_json, is_concept_name

FORMAT, VERSION = "rfm_live bank", 2
SITE = "block_output"
PERIODS = (1, 500)

_BY_LAYER = ("scores", "mean", "spread", "layer_weights")
_MEASURED_BY_LAYER = ("other_mean", "other_spread", "residual_norm")
_BY_CONCEPT = ("unit", "gate", "period")
_TABLES = ("directions", *_BY_LAYER, *_BY_CONCEPT)
_UNIT_TOLERANCE = 1e-3  # a direction stored as fp16 is still unit within this

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ConceptBank:
    """C concepts for a decoder of L blocks and width D; raises BankError when a part contradicts another.

    `directions` [C, L, D] are unit rows. `scores` [C, L] 0..1 are the probes' on held-out groups, of the kind that the
    concept's card tells. `mean` and `spread` [C, L] describe the projections <h, q> of the clips with the concept,
    `other_mean` and `other_spread` those of the clips without; of a number (a tempo) "with" is above the median.
    `residual_norm` [C, L] is the mean length of a frame's hidden state. These three are None in banks of version 1.
    At knob 1.0 a concept adds `unit` [C] * `layer_weights` [C, L] * direction, so `unit` * weight is an absolute length
    in hidden units. `gate` [C] 0..1 and `period` [C] 1..500 frames are knob defaults. `checkpoint_sha256` is that of
    the checkpoint's weight files; `site` is where the directions are added. `cards`, one a concept, tell the rest.
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
    site: str = SITE
    other_mean: Array | None = None
    other_spread: Array | None = None
    residual_norm: Array | None = None
    cards: tuple[ConceptCard, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.directions.ndim != 3:
            raise BankError(f"directions have {self.directions.ndim} axes, expected concepts, layers, width")
        concepts, layers, _ = self.directions.shape
        _check_names(self.names, concepts)
        if not self.cards:
            object.__setattr__(self, "cards", (ConceptCard(),) * concepts)
        if len(self.cards) != concepts:
            raise BankError(f"{len(self.cards)} cards for {concepts} directions")
        present = [name for name in _MEASURED_BY_LAYER if getattr(self, name) is not None]
        if present and len(present) < len(_MEASURED_BY_LAYER):
            raise BankError(f"has {', '.join(present)}, expected {', '.join(_MEASURED_BY_LAYER)} or none of them")
        self._check_shapes({name: (concepts, layers) for name in (*_BY_LAYER, *present)})
        self._check_shapes({name: (concepts,) for name in _BY_CONCEPT})
        self._check_lengths()
        self._check_range("scores", 0.0, 1.0)
        self._check_range("gate", 0.0, 1.0)
        self._check_range("period", *PERIODS)
        for name in ("spread", "unit", *(name for name in present if name != "other_mean")):
            self._check_range(name, 0.0, np.inf)
        if self.site != SITE:
            raise BankError(f"site is {self.site!r}, expected {SITE!r}")

    def _check_shapes(self, expected: dict[str, tuple[int, ...]]) -> None:
        for name, shape in expected.items():
            if (found := getattr(self, name)).shape != shape:
                raise BankError(f"{name} has shape {list(found.shape)}, expected {list(shape)}")
            self._check_finite(name)

    def _check_finite(self, name: str) -> None:
        if not np.isfinite(getattr(self, name)).all():
            raise BankError(f"{name} holds a value that is not finite")

    def _check_lengths(self) -> None:
        self._check_finite("directions")
        lengths = np.linalg.norm(self.directions.astype(np.float64), axis=-1)  # [C, L]
        if (np.abs(lengths - 1.0) > _UNIT_TOLERANCE).any():
            concept, layer = np.unravel_index(np.abs(lengths - 1.0).argmax(), lengths.shape)
            length = lengths[concept, layer]
            raise BankError(f"direction '{self.names[concept]}' of layer {layer} has length {length:.4g}, expected 1")

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
        if not is_concept_name(name):
            raise BankError(f"concept name is {name!r}, expected lower case letters, digits and underscores")
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise BankError(f"concept names {twice} occur more than once")


def renamed(bank: ConceptBank, names: dict[str, str]) -> ConceptBank:
    """The bank with the concepts that are keys of `names` under those new names.

    Raises:
        BankError: the bank has no such concept, or a new name is taken or cannot be.
    """
    for name in names:
        if name not in bank.names:
            raise BankError(f"concept '{name}' is not in the bank, expected one of {', '.join(bank.names)}")
    return replace(bank, names=tuple(names.get(name, name) for name in bank.names))


def merged(banks: list[ConceptBank]) -> ConceptBank:
    """All concepts of `banks`, one or more, in their order; the banks are of one checkpoint and site.

    Raises:
        BankError: they are not, a name occurs twice, or some banks hold measurements that others lack.
    """
    first = banks[0]
    for other in banks[1:]:
        if (
            other.checkpoint_sha256 != first.checkpoint_sha256
            or other.directions.shape[1:] != first.directions.shape[1:]
        ):
            hashes = f"{other.checkpoint_sha256[:12]} and {first.checkpoint_sha256[:12]}"
            raise BankError(f"made for checkpoints with sha256 {hashes}, expected banks of one checkpoint")
        if other.site != first.site:
            raise BankError(f"made for the sites {other.site!r} and {first.site!r}, expected one")
        if (other.residual_norm is None) != (first.residual_norm is None):
            raise BankError("one of the banks is of version 1 and lacks residual norms: learn it again")
    stored = [*_TABLES, *(name for name in _MEASURED_BY_LAYER if getattr(first, name) is not None)]
    arrays: dict[str, Any] = {name: np.concatenate([getattr(bank, name) for bank in banks]) for name in stored}
    return replace(
        first,
        names=tuple(name for bank in banks for name in bank.names),
        cards=tuple(card for bank in banks for card in bank.cards),
        **arrays,
    )


def save_bank(bank: ConceptBank, path: Path) -> None:
    """Write the bank to one safetensors file, which takes its name when it is whole.

    Raises:
        BankError: the file cannot be written.
    """
    stored = [*_TABLES, *(name for name in _MEASURED_BY_LAYER if getattr(bank, name) is not None)]
    tensors = {name: np.ascontiguousarray(getattr(bank, name), dtype=_dtype(name)) for name in stored}
    about: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "checkpoint_sha256": bank.checkpoint_sha256,
        "site": bank.site,
        "names": list(bank.names),
        "cards": [card_as_json(card) for card in bank.cards],
    }
    about["content_sha256"] = _content_hash(about, tensors)
    part = path.with_name(path.name + ".part")
    try:
        save_file(tensors, part, metadata={"rfm_live": json.dumps(about)})
        part.replace(path)
    except (OSError, SafetensorError) as error:
        raise BankError(f"{path}: cannot be written: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def read_bank(path: Path) -> ConceptBank:
    """Read a bank for whatever checkpoint it was made. Raises BankError, which names the file and what is wrong."""
    try:
        return ConceptBank(**_read(path))
    except BankError as error:
        raise BankError(f"{path}: {error}") from error.__cause__


def load_bank(path: Path, layers: int, width: int, checkpoint_sha256: str | None = None) -> ConceptBank:
    """Read a bank for a decoder of `layers` blocks and `width`; refuse one made for another checkpoint.

    `checkpoint_sha256` None leaves the checkpoint unchecked. Raises BankError, which names the file and what is wrong.
    """
    bank = read_bank(path)
    if (bank.layers, bank.width) != (layers, width):
        raise BankError(
            f"{path}: made for {bank.layers} layers of width {bank.width}, the checkpoint has {layers} of width {width}"
        )
    if checkpoint_sha256 is not None and bank.checkpoint_sha256 != checkpoint_sha256:
        made_for = bank.checkpoint_sha256[:12]
        raise BankError(
            f"{path}: made for the checkpoint with sha256 {made_for}, this one has {checkpoint_sha256[:12]}"
        )
    return bank


def _read(path: Path) -> dict[str, Any]:
    """What a file holds, keyed as ConceptBank's fields."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            stored = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError, TypeError) as error:  # TypeError: a dtype that numpy has not
        raise BankError(f"cannot be read: {error}") from error
    try:
        about = json.loads(metadata.get("rfm_live", "null"))
    except (json.JSONDecodeError, RecursionError) as error:
        raise BankError(f"metadata is not JSON: {error}") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise BankError(f"is not a file of the format {FORMAT!r}")
    if about.get("version") not in (1, VERSION):
        raise BankError(f"version is {about.get('version')!r}, expected 1 or {VERSION}: a newer rfm-live may read it")
    if missing := sorted(set(_TABLES) - stored.keys()):
        raise BankError(f"lacks {', '.join(missing)}")
    if about["version"] == VERSION and about.pop("content_sha256", None) != _content_hash(about, stored):
        raise BankError("does not match its own checksum: it was damaged or changed by hand")
    tables = {name: stored[name] for name in (*_TABLES, *_MEASURED_BY_LAYER) if name in stored}
    return _texts(about) | {name: values.astype(_dtype(name)) for name, values in tables.items()}


def _texts(about: dict[str, Any]) -> dict[str, Any]:
    """The fields of ConceptBank that are in the metadata."""
    names = about.get("names")
    if not isinstance(names, list):
        raise BankError(f"names are {names!r}, expected a list")
    is_first = about["version"] == 1
    for name in ("checkpoint_sha256", "site", *(("origin", "licence") if is_first else ())):
        if not isinstance(about.get(name), str):
            raise BankError(f"{name} is {about.get(name)!r}, expected a text")
    if is_first:
        cards = [ConceptCard(origin=about["origin"], licence=about["licence"])] * len(names)
    elif isinstance(about.get("cards"), list) and len(about["cards"]) == len(names):
        cards = [_named_card(name, card) for name, card in zip(names, about["cards"], strict=True)]
    else:
        raise BankError(f"cards are {about.get('cards')!r:.60}, expected a list of {len(names)}")
    texts = {name: about[name] for name in ("checkpoint_sha256", "site")}
    return texts | {"names": tuple(names), "cards": tuple(cards)}


def _named_card(name: object, stored: object) -> ConceptCard:
    try:
        return card_from_json(stored)
    except BankError as error:
        raise BankError(f"concept {name!r}: {error}") from None


def _content_hash(about: dict[str, Any], tensors: dict[str, npt.NDArray[Any]]) -> str:
    """sha256 over the metadata and every array with its name, type and shape."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, values in sorted(tensors.items()):
        digest.update(f"{name} {values.dtype} {values.shape}".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _dtype(name: str) -> type[np.generic]:
    return np.int64 if name == "period" else np.float32
