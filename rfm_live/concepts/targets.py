"""From the labels of clips to what a probe learns: one concept per class against the rest, or one for a number."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rfm_live.concepts.clips import Label
from rfm_live.concepts.scores import is_binary
from rfm_live.errors import ClipError
from rfm_live.steering.concept_card import is_concept_name

Array = npt.NDArray[np.float64]

_SPELLED_OUT = {"aug": "augmented", "dim": "diminished"}
BINS = 4
"""Into how many equal parts numbers are put where a class is needed: to hold groups out."""


@dataclass(frozen=True)
class Concept:
    """One knob to be: its `name`, and what every clip has of it: `targets` [N], 1 and 0, or any numbers."""

    name: str
    targets: Array

    @property
    def score_kind(self) -> str:
        return "auc" if is_binary(self.targets) else "r2"

    @property
    def is_with(self) -> npt.NDArray[np.bool_]:
        """Which clips count as having it [N]: those of target 1, or above the median number."""
        return self.targets > (0.5 if is_binary(self.targets) else float(np.median(self.targets)))


def concepts_of(labels: Sequence[Label], name: str) -> list[Concept]:
    """The concepts of N `labels`: texts give NAME_CLASS for every class, numbers give NAME.

    Raises:
        ClipError: all labels are the same, texts and numbers are mixed, a name cannot be an address, or two are one.
    """
    if len(distinct := list(dict.fromkeys(labels))) < 2:
        raise ClipError(f"all {len(labels)} clips have the label {distinct[0]!r}, expected two classes or more")
    if all(isinstance(label, int | float) for label in labels):
        return [Concept(_checked(name), np.asarray(labels, np.float64))]
    if not all(isinstance(label, str) for label in labels):
        raise ClipError(f"labels of '{name}' are texts and numbers, expected one of both")
    named = _concept_names(sorted(str(label) for label in distinct), name)
    return [
        Concept(concept, np.asarray([label == one for label in labels], np.float64)) for concept, one in named.items()
    ]


def classes_of(labels: Sequence[Label]) -> list[Label]:
    """A class per label, for splitting: the label itself, or the quarter that a number falls into."""
    if not all(isinstance(label, int | float) for label in labels) or len(set(labels)) <= BINS:
        return list(labels)
    values = np.asarray(labels, np.float64)
    edges = np.quantile(values, np.linspace(0.0, 1.0, BINS + 1)[1:-1])
    return [float(place) for place in np.searchsorted(edges, values, side="right")]


def _concept_names(classes: Sequence[str], name: str) -> dict[str, str]:
    """Every class by the name of its concept. Raises `ClipError`."""
    named: dict[str, str] = {}
    for one in classes:
        if not (spelled := _spelled(one)):
            raise ClipError(f"class {one!r} has no letter a..z and no digit, expected one to call its concept by")
        concept = _checked(f"{name}_{spelled}")
        if concept in named:
            raise ClipError(f"classes {named[concept]!r} and {one!r} would both be '{concept}', expected names apart")
        named[concept] = one
    return named


def _spelled(label: str) -> str:
    return _SPELLED_OUT.get(label) or re.sub(r"[^a-z0-9]+", "_", label.lower()).strip("_")


def _checked(name: str) -> str:
    if not is_concept_name(name):
        raise ClipError(f"concept name is '{name}', expected a letter, then lower case letters, digits and underscores")
    return name
