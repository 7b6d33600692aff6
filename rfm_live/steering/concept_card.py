"""What is told about one concept of a bank beside its numbers: where it comes from, and what it was seen to do."""

import re
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from rfm_live.errors import BankError

SCORE_KINDS = ("auc", "r2")
LOWEST_KNOB, HIGHEST_KNOB = -2.0, 2.0
OVER_RANDOM = 2.0
"""A knob is heard where 1 and -1 read over so many times as far apart as a random push of its length moves them."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


def is_concept_name(name: object) -> bool:
    """Whether `name` may be part of an address: up to 64 lower case letters, digits and underscores."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


@dataclass(frozen=True)
class Effect:
    """What a knob did to generated music, read by a meter that did not teach the direction.

    `meter` names what was read, in `unit`. `at_minus`, `at_zero`, `at_plus` are its means over `seeds` pieces with the
    knob at -1, 0 and 1; `at_random` is the mean with a random direction of the same length in the knob's place.
    `standard_error` is that of at_plus - at_minus over the pieces. `is_external` is False where nothing but the probe
    itself, on the generated audio, could be asked.
    """

    meter: str
    unit: str
    is_external: bool
    at_minus: float
    at_zero: float
    at_plus: float
    at_random: float
    standard_error: float
    seeds: int

    @property
    def is_heard(self) -> bool:
        """Whether knob 1 and -1 read over two standard errors apart, and OVER_RANDOM as far as a random push moves."""
        contrast = abs(self.at_plus - self.at_minus)
        return contrast > 2.0 * self.standard_error and contrast > OVER_RANDOM * abs(self.at_random - self.at_zero)


@dataclass(frozen=True)
class ConceptCard:
    """The story of one concept.

    `method` says how the direction was found, `score_kind` what its scores are: "auc", or "r2" (below 0 counts as 0).
    `origin` and `licence` are those of the audio it was learned from. Between the two knob values of `suggested_range`
    (within -2..2) more knob was seen to be more effect; `effect` is None where nobody has measured it.
    """

    method: str = "unknown"
    score_kind: str = "auc"
    origin: str = ""
    licence: str = ""
    suggested_range: tuple[float, float] = (LOWEST_KNOB, HIGHEST_KNOB)
    effect: Effect | None = None

    def __post_init__(self) -> None:
        if self.score_kind not in SCORE_KINDS:
            raise BankError(f"score_kind is {self.score_kind!r}, expected {' or '.join(SCORE_KINDS)}")
        low, high = self.suggested_range
        if not LOWEST_KNOB <= low < high <= HIGHEST_KNOB:
            raise BankError(f"suggested_range is {low}..{high}, expected a part of {LOWEST_KNOB:g}..{HIGHEST_KNOB:g}")


_TEXTS = ("method", "score_kind", "origin", "licence")
_READINGS = ("at_minus", "at_zero", "at_plus", "at_random", "standard_error")


def card_as_json(card: ConceptCard) -> dict[str, Any]:
    """The card in JSON's types."""
    return asdict(card) | {"suggested_range": list(card.suggested_range)}


def card_from_json(stored: object) -> ConceptCard:
    """Raises BankError for anything but what `card_as_json` gives."""
    if not isinstance(stored, dict):
        raise BankError(f"card is {stored!r}, expected an object")
    _expect_keys("card", stored, {*_TEXTS, "suggested_range", "effect"})
    for name in _TEXTS:
        _expect_text(name, stored[name])
    span, effect = stored["suggested_range"], stored["effect"]
    if not (isinstance(span, list) and len(span) == 2 and all(map(_is_number, span))):
        raise BankError(f"suggested_range is {span!r}, expected two numbers")
    texts = {name: stored[name] for name in _TEXTS}
    return ConceptCard(**texts, suggested_range=(span[0], span[1]), effect=_effect(effect))


def _effect(stored: object) -> Effect | None:
    if stored is None:
        return None
    if not isinstance(stored, dict):
        raise BankError(f"effect is {stored!r}, expected an object")
    _expect_keys("effect", stored, {"meter", "unit", "is_external", "seeds", *_READINGS})
    for name in ("meter", "unit"):
        _expect_text(f"effect.{name}", stored[name])
    for name in _READINGS:
        if not _is_number(stored[name]):
            raise BankError(f"effect.{name} is {stored[name]!r}, expected a finite number")
    if not isinstance(stored["is_external"], bool):
        raise BankError(f"effect.is_external is {stored['is_external']!r}, expected true or false")
    if not isinstance(stored["seeds"], int) or stored["seeds"] < 1:
        raise BankError(f"effect.seeds is {stored['seeds']!r}, expected a whole number above 0")
    return Effect(**stored)


def _expect_keys(thing: str, stored: dict[str, Any], expected: set[str]) -> None:
    if wrong := sorted(expected ^ stored.keys()):
        raise BankError(f"{thing} has too much or too little: {', '.join(map(str, wrong))}")


def _expect_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise BankError(f"{name} is {value!r}, expected a text")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
