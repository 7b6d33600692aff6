"""From logits to codes: guidance, top-k, top-p, temperature and a Gumbel-max draw with counter-based randomness.

Used by the token stream (engine process). A draw is a function of (seed, step, codebook, code), so it is not state: the
same step sampled again, in another order or on another device, gives the same code.
"""

from dataclasses import dataclass
from math import isfinite

import numpy as np
import numpy.typing as npt
from rfm_kernels.reference import philox_uniform

from rfm_live.errors import ControlError

Logits = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]

# Where a draw lies in the 64-bit counter: step, then 4 bits of codebook, then 16 bits of code. Gates use the top bit
# but one (rfm_live.steering.plan), so no two uses ever share a draw.
CODE_BITS, CODEBOOK_BITS = 16, 4
_SMALLEST = np.float32(2.0**-33)  # stands in for a uniform of exactly 0, whose logarithm is infinite


@dataclass(frozen=True)
class SamplingSettings:
    """How the next code is chosen.

    `temperature` 0..4 (0 takes the most likely code), `top_k` 0..65536 candidates (0 keeps all), `guidance` 0..20
    (1 is no guidance and costs one row instead of two), `seed` 0..2**63-1. `top_p` 0..1 keeps the most likely of the
    `top_k` candidates, as many as reach this share of their probability (1 keeps all, 0 the most likely).

    Raises ControlError outside these domains.
    """

    temperature: float = 1.0
    top_k: int = 250
    guidance: float = 3.0
    seed: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, 0.0, 4.0)
        _check("top_k", self.top_k, 0, 1 << CODE_BITS)
        _check("guidance", self.guidance, 0.0, 20.0)
        _check("seed", self.seed, 0, (1 << 63) - 1)
        _check("top_p", self.top_p, 0.0, 1.0)
        for name in ("top_k", "seed"):
            if not isinstance(getattr(self, name), int):
                raise ControlError(f"{name} is {getattr(self, name)!r}, expected a whole number")


def _check(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or not low <= value <= high:
        raise ControlError(f"{name} is {value!r}, expected {low}..{high}")


def guide(logits: Logits, guidance: float) -> Logits:
    """Mix logits [2, K, V], with text and without, to [K, V]; one row [1, K, V] passes as it is.

    guided = without + guidance * (with - without)  (classifier-free guidance, Ho and Salimans 2022).
    """
    if len(logits) == 1:
        only: Logits = logits[0]
        return only
    with_text, without = logits
    mixed: Logits = without + np.float32(guidance) * (with_text - without)
    return mixed


def sample(logits: Logits, settings: SamplingSettings, step: int) -> Codes:
    """Draw one code per codebook from `logits` [K, V] -> [K].

    The `top_k` largest logits are candidates, and of these the most likely that reach `top_p` together; whatever ties
    with the last of them is a candidate too. Gumbel-max: the argmax of logit / temperature - log(-log(u)) is
    distributed as softmax(logits / temperature).
    """
    if settings.temperature == 0.0:
        return _largest(logits)
    codebooks, vocab = logits.shape
    if 0 < settings.top_k < vocab:
        threshold = np.partition(logits, vocab - settings.top_k, axis=-1)[:, vocab - settings.top_k]
        candidates = np.flatnonzero(logits >= threshold[:, None])  # a third of the time of np.nonzero
    else:
        candidates = np.arange(codebooks * vocab)
    rows, codes = np.divmod(candidates, vocab)
    if settings.top_p < 1.0:
        is_likely = _is_in_nucleus(logits, rows, codes, settings)
        rows, codes = rows[is_likely], codes[is_likely]
    offsets = (((step << CODEBOOK_BITS) + rows) << CODE_BITS) + codes
    uniform = np.maximum(philox_uniform(settings.seed, offsets), _SMALLEST)
    scores = np.full(logits.shape, -np.inf, dtype=np.float32)
    scores[rows, codes] = logits[rows, codes] / np.float32(settings.temperature) - np.log(-np.log(uniform))
    return _largest(scores)


def _is_in_nucleus(
    logits: Logits, rows: npt.NDArray[np.intp], codes: npt.NDArray[np.intp], settings: SamplingSettings
) -> npt.NDArray[np.bool_]:
    """Say of every candidate whether the candidates above it hold less than `top_p`, as nucleus sampling asks.

    Nucleus sampling: Holtzman et al., "The curious case of neural text degeneration", 2020.
    """
    ranked = np.full(logits.shape, -np.inf)
    ranked[rows, codes] = logits[rows, codes]
    ranked = -np.sort(-ranked, axis=-1)  # [K, V], the most likely first
    weights = np.exp((ranked - ranked[:, :1]) / settings.temperature)
    above = np.cumsum(weights, axis=-1) - weights  # [K, V]
    kept = (above < settings.top_p * weights.sum(axis=-1, keepdims=True)).sum(axis=-1)  # [K]
    threshold = np.take_along_axis(ranked, np.maximum(kept - 1, 0)[:, None], axis=-1)[:, 0]  # [K]
    is_likely: npt.NDArray[np.bool_] = logits[rows, codes] >= threshold[rows]
    return is_likely


def _largest(scores: Logits) -> Codes:
    codes: Codes = scores.argmax(axis=-1)
    return codes
