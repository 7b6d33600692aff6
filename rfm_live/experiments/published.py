"""The figures of the MusicRFM paper (Zhao et al., arXiv 2510.19127, ICLR 2026) that experiments are put beside.

Dominance and onsets are of external meters, from the paper's later version.
"""

from __future__ import annotations

from dataclasses import dataclass

NOTE = (
    "MusicGen-large, gate 0.3, exponential layer weights with kappa 0.95. The paper's eta is an absolute length, its "
    "accuracy that of a probe of the steering probe's own family, and it does not say what its FD and MMD embed: only "
    "trends can be compared."
)
ETAS = (0.15, 0.30, 0.45, 0.60)


@dataclass(frozen=True)
class Steering:
    """One category at ETAS: distances, CLAP score, and the probe's accuracy (None: not defined), with its chance."""

    fd: tuple[float, ...]
    mmd: tuple[float, ...]
    clap: tuple[float, ...]
    accuracy: tuple[float, ...] | None
    chance: float | None


SINGLE = {
    "note": Steering(
        (0.113, 0.130, 0.138, 0.180),
        (0.052, 0.127, 0.217, 0.476),
        (0.315, 0.311, 0.318, 0.303),
        (0.231, 0.461, 0.684, 0.824),
        0.083,
    ),
    "chord": Steering(
        (0.116, 0.114, 0.110, 0.119),
        (0.063, 0.086, 0.040, 0.095),
        (0.324, 0.326, 0.319, 0.326),
        (0.271, 0.288, 0.320, 0.344),
        0.25,
    ),
    "interval": Steering(
        (0.110, 0.128, 0.169, 0.232),
        (0.078, 0.119, 0.400, 0.817),
        (0.315, 0.324, 0.311, 0.307),
        (0.121, 0.156, 0.187, 0.223),
        0.083,
    ),
    "scale": Steering(
        (0.114, 0.115, 0.114, 0.119),
        (0.052, 0.075, 0.061, 0.081),
        (0.318, 0.328, 0.322, 0.324),
        (0.154, 0.157, 0.161, 0.176),
        0.143,
    ),
    "progression": Steering(
        (0.131, 0.142, 0.173, 0.207),
        (0.157, 0.233, 0.443, 0.650),
        (0.315, 0.309, 0.296, 0.297),
        (0.070, 0.079, 0.096, 0.114),
        0.053,
    ),
    "tempo": Steering(
        (0.122, 0.150, 0.206, 0.377), (0.112, 0.324, 0.717, 1.880), (0.328, 0.325, 0.307, 0.280), None, None
    ),
    "time_signature": Steering(
        (0.162, 0.264, 0.402, 0.492),
        (0.356, 1.046, 1.980, 2.647),
        (0.320, 0.317, 0.278, 0.264),
        (0.172, 0.204, 0.238, 0.245),
        0.125,
    ),
}
"""Table of single directions; unsteered CLAP is 0.332."""

NOTE_DOMINANCE = {
    "RFM": (18.5, 34.5, 52.5, 66.5),
    "prompt + RFM": (53.6, 67.8, 78.2, 85.1),
}
NOTE_DOMINANCE_PROMPT = 36.0
CHORD_DOMINANCE = {
    "RFM": (24.4, 28.4, 30.5, 35.0),
    "prompt + RFM": (26.6, 27.8, 27.3, 33.6),
}
CHORD_DOMINANCE_PROMPT = 26.4
"""Percent of frames at ETAS, by chroma and by Essentia, and with the prompt alone."""
ONSET_ETAS = (-0.60, -0.15, 0.15, 0.60)
ONSETS = {
    "RFM": (20.97, 26.24, 30.48, 31.65),
    "prompt + RFM": (19.02, 22.43, 31.66, 32.51),
}
ONSETS_PROMPT = {"slow": 25.03, "fast": 30.63}
"""Onsets per second at ONSET_ETAS, and with the prompt alone."""


@dataclass(frozen=True)
class Selection:
    """One way to choose blocks, or one gate, of the ablations; their eta is not stated."""

    name: str
    fd: float
    mmd: float
    clap: float
    accuracy: float


SELECTIONS = (
    Selection("uniform, gate 1", 0.599, 3.44, 0.155, 0.964),
    Selection("exponential, kappa 0.98", 0.487, 2.710, 0.186, 0.954),
    Selection("exponential, kappa 0.95", 0.465, 2.575, 0.194, 0.961),
    Selection("exponential, kappa 0.92", 0.483, 2.687, 0.175, 0.954),
    Selection("linear", 0.482, 2.701, 0.166, 0.959),
    Selection("top 4", 0.109, 0.192, 0.309, 0.398),
    Selection("top 8", 0.157, 0.448, 0.291, 0.678),
    Selection("top 12", 0.225, 0.919, 0.263, 0.882),
    Selection("top 16", 0.347, 1.781, 0.225, 0.941),
    Selection("top 24", 0.555, 3.218, 0.158, 0.967),
    Selection("top 32", 0.586, 3.395, 0.158, 0.958),
    Selection("gate 0.15", 0.108, 0.163, 0.348, 0.348),
    Selection("gate 0.30", 0.118, 0.272, 0.306, 0.697),
    Selection("gate 0.45", 0.197, 0.769, 0.287, 0.884),
    Selection("gate 0.60", 0.281, 1.343, 0.265, 0.931),
    Selection("gate 0.75", 0.399, 2.145, 0.207, 0.961),
    Selection("gate 0.90", 0.510, 2.853, 0.172, 0.962),
)

SCHEDULES = {
    "linear rise": (0.358, 1.917, 0.227),
    "linear fall": (0.321, 1.636, 0.257),
    "exponential fall": (0.229, 1.052, 0.312),
    "logistic rise": (0.360, 1.999, 0.208),
    "sine": (0.413, 2.347, 0.225),
    "cross-fade of 500 note pairs": (0.350, 1.922, 0.250),
}
"""FD, MMD and CLAP of schedules on notes."""

PAIR_ETAS = (0.3, 0.6)
PAIRS = {
    "note": ((0.566, 0.927), (2.394, 4.725), (0.205, 0.133), (0.770, 0.920)),
    "chord": ((0.604, 0.747), (2.564, 3.539), (0.207, 0.167), (0.385, 0.390)),
    "interval": ((0.572, 0.886), (2.351, 4.470), (0.209, 0.134), (0.298, 0.300)),
}
"""FD, MMD, CLAP and probe accuracy of pairs at PAIR_ETAS. The public release leaves the gate out there."""

POOLINGS = {
    "mean": {"scales": 0.956, "progressions": 0.943},
    "last": {"scales": 0.546, "progressions": 0.811},
}
"""Accuracy of RFM on SynTheory by pooling; the plain linear probe on means has 0.158 and 0.725."""
LINEAR_PROBE = {"scales": 0.158, "progressions": 0.725}
