"""Which external meter hears a concept: found on the concept's own clips, before anything is steered.

Used by concept learning. A meter is a number read off the samples alone, so it cannot be fooled by the direction that
it judges. The one that tells the clips with a concept from those without best is taken, where it tells them apart
clearly; a concept that no meter hears is left to the probe on generated audio, and its card says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np
import numpy.typing as npt

from rfm_live.concepts.clips import Samples
from rfm_live.concepts.harmony import PITCH_CLASSES
from rfm_live.concepts.meters import (
    frame_levels_db,
    spectral_centroid_hz,
    strongest_pitch_class,
)
from rfm_live.concepts.music_analysis import QUALITIES, chords, key, onset_rate_hz
from rfm_live.concepts.scores import auc

CLEAR_AUC = 0.8
"""From here on a meter is said to hear a concept (or from 0.2 downwards)."""

ONSET_RATE, CENTROID, FLUCTUATION, MINOR = "onset rate", "spectral centroid", "level fluctuation", "minor margin"


@dataclass(frozen=True)
class Ear:
    """What reads one concept off music: `name`, in `unit`; `sign` is 1 where more concept reads higher, else -1.

    `read` takes mono samples at 32 kHz. `is_external` is False for the probe itself. `span` is how far apart clips with
    and without the concept read: a knob that moves the music so far is at its full effect, more would only harm.
    """

    name: str
    unit: str
    sign: float
    is_external: bool
    read: Callable[[Samples], float]
    span: float = inf


def dominance_of(pitch_class: str) -> str:
    """The name of the meter of a pitch class: the share of frames in which it is the strongest."""
    return f"dominance of {pitch_class}"


def _dominances(samples: Samples) -> dict[str, float]:
    strongest = strongest_pitch_class(samples)
    shares = np.bincount(strongest[strongest >= 0], minlength=12) / max(len(strongest), 1)
    return {dominance_of(name): float(share) for name, share in zip(PITCH_CLASSES, shares, strict=True)}


def chords_of(quality: str) -> str:
    """The name of the meter of a chord quality: the share of sounding frames whose triad is of it."""
    return f"{quality} chords"


def _chord_shares(samples: Samples) -> dict[str, float]:
    found = chords(samples)
    return {chords_of(quality): found.share(quality) for quality in QUALITIES}


def _minor_margin(samples: Samples) -> dict[str, float]:
    found = key(samples)
    return {MINOR: 0.0 if found is None else found.minor_margin}


def _onset_rate(samples: Samples) -> dict[str, float]:
    return {ONSET_RATE: onset_rate_hz(samples)}


def _centroid(samples: Samples) -> dict[str, float]:
    return {CENTROID: spectral_centroid_hz(samples)}


def _fluctuation(samples: Samples) -> dict[str, float]:
    return {FLUCTUATION: float(np.std(np.maximum(frame_levels_db(samples), -60.0)))}


SHARE = "share of frames"
_Family = Callable[[Samples], dict[str, float]]
METERS: dict[str, tuple[str, _Family]] = {
    CENTROID: ("hz", _centroid),
    ONSET_RATE: ("onsets/s", _onset_rate),
    FLUCTUATION: ("db", _fluctuation),
    **{dominance_of(name): (SHARE, _dominances) for name in PITCH_CLASSES},
    **{chords_of(quality): (SHARE, _chord_shares) for quality in QUALITIES},
    MINOR: ("correlation", _minor_margin),
}
"""Unit and reader of every meter, the plainest first, which is taken among equals; a reader may read several."""


def readings(samples: Samples) -> dict[str, float]:
    """What every meter says of mono samples at 32 kHz."""
    families = dict.fromkeys(family for _, family in METERS.values())
    return {name: value for family in families for name, value in family(samples).items()}


def meter_ear(name: str, sign: float) -> Ear:
    """The meter `name` of METERS as an ear."""
    unit, family = METERS[name]
    return Ear(name, unit, sign, True, lambda samples: family(samples)[name])


def fitting_ear(
    read: Sequence[Mapping[str, float]], is_with: npt.NDArray[np.bool_], wanted: str | None = None
) -> Ear | None:
    """The meter that tells N clips with a concept from those without best, or None when none does clearly.

    A share of frames ends at 1 by itself, so it has no span.

    `read` [N] are the clips' `readings`. With `wanted`, that meter is taken in any case; only its sign is found.
    """
    names = list(METERS) if wanted is None else [wanted]
    table = np.asarray([[clip[name] for name in names] for clip in read])  # [N, meters]
    areas = auc(table[is_with], table[~is_with])
    best = int(np.abs(areas - 0.5).argmax())
    if wanted is None and abs(areas[best] - 0.5) < CLEAR_AUC - 0.5:
        return None
    ear = meter_ear(names[best], 1.0 if areas[best] >= 0.5 else -1.0)
    apart = abs(float(table[is_with, best].mean() - table[~is_with, best].mean()))
    return ear if ear.unit == SHARE else replace(ear, span=max(apart, 1e-9))
