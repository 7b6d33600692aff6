"""A bank's concepts once more, with other directions or other blocks: what is compared lies side by side in one bank.

Used by the experiments that compare directions or blocks. A variant keeps its concept's lengths, so that two variants
differ by where they push alone, and is called LABEL__CONCEPT.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rfm_live.errors import StartError
from rfm_live.steering.bank import ConceptBank, merged

_RANDOM = 0xE7  # keeps these draws apart from those of concept learning
_BY_CONCEPT = (
    "directions", "scores", "mean", "spread", "unit", "layer_weights", "gate", "period",
    "other_mean", "other_spread", "residual_norm",
)  # fmt: skip

Array = npt.NDArray[np.float32]


def variant_name(label: str, concept: str) -> str:
    """What the variant `label` of a concept is called."""
    return f"{label}__{concept}"


def chosen(bank: ConceptBank, concepts: Sequence[str]) -> ConceptBank:
    """The bank with only these concepts, in this order.

    Raises:
        StartError: the bank has not all of them.
    """
    for name in concepts:
        if name not in bank.names:
            raise StartError(f"concept '{name}' is not in the bank, expected one of {', '.join(bank.names)}")
    places = [bank.names.index(name) for name in concepts]
    kept: dict[str, Any] = {
        table: values[places] for table in _BY_CONCEPT if (values := getattr(bank, table)) is not None
    }
    return replace(bank, names=tuple(concepts), cards=tuple(bank.cards[place] for place in places), **kept)


def with_directions(bank: ConceptBank, label: str, vectors: Mapping[str, Array]) -> ConceptBank:
    """The bank, and behind it the variants `label` of the keys of `vectors`, unit directions [L, D] each."""
    if not vectors:
        return bank
    own = chosen(bank, list(vectors))
    names = tuple(variant_name(label, name) for name in vectors)
    return merged([bank, replace(own, names=names, directions=np.stack(list(vectors.values())).astype(np.float32))])


def with_random(bank: ConceptBank, concepts: Sequence[str], seed: int = 0) -> ConceptBank:
    """The bank, and behind it "random" variants of `concepts`: a direction of its own for each, drawn by its name."""
    vectors = {}
    for name in concepts:
        rng = np.random.default_rng([seed, _RANDOM, *name.encode()])
        drawn = rng.standard_normal((bank.layers, bank.width)).astype(np.float32)
        vectors[name] = drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)
    return with_directions(bank, "random", vectors)


def with_blocks(bank: ConceptBank, label: str, concepts: Sequence[str], is_kept: npt.NDArray[np.bool_]) -> ConceptBank:
    """The bank, and behind it the variants `label` of `concepts`, which push at the blocks `is_kept` [L] alone."""
    own = chosen(bank, concepts)
    names = tuple(variant_name(label, name) for name in concepts)
    return merged([bank, replace(own, names=names, layer_weights=np.where(is_kept, own.layer_weights, np.float32(0)))])
