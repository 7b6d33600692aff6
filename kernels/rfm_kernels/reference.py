"""The specification of every kernel, in plain numpy and torch: slow is fine, obvious is the point.

Used by the steering plan and by sampling wherever there is no Triton, and by the kernels' tests. Runs on any thread.

Randomness is counter-based: a draw is a function of (seed, offset) and of nothing else, so it is not state, and CPU,
GPU and a captured graph agree. The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers:
as easy as 1, 2, 3", SC 2011), the uniforms are bit-identical to Triton's `tl.rand(seed, offset)`.
"""

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

PHILOX_ROUNDS = 10
PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
PHILOX_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
WORD = 0xFFFFFFFF
PHILOX_TO_UNIT = np.float32(4.6566127342e-10)  # a little less than 2**-31, so that the largest uniform stays below 1

Words = npt.NDArray[np.uint64]


class Mode(IntEnum):
    """How a concept acts on a row h, at strength s = eta * gate * layer weight, along its unit direction q."""

    ADD = 0
    """h' = h + s * q (MusicRFM, Zhao et al. 2025)"""
    BLEND = 1
    """h' = (h + s * |h| * q) / (1 + |s|) (arXiv 2506.10225, where s >= 0)"""
    CLAMP = 2
    """h' = h + s * (target - <h, q>) * q: at s = 1 the projection is the target"""


class Site(IntEnum):
    """Which row h of a block a concept acts on."""

    BLOCK_OUTPUT = 0
    """the residual stream that the block leaves"""
    ATTENTION_OUTPUT = 1
    """what self-attention is about to add to the residual stream"""
    FFN_OUTPUT = 2
    """what the feed-forward layer is about to add to the residual stream"""


def philox4x32(counter: tuple[Words, Words, Words, Words], key: tuple[int, int]) -> tuple[Words, Words, Words, Words]:
    """Run ten Philox rounds on counter words, each an array of values below 2**32 (kept in uint64 for the products)."""
    word_bits, mask = np.uint64(32), np.uint64(WORD)
    multiplier_a, multiplier_b = np.uint64(PHILOX_MULTIPLIERS[0]), np.uint64(PHILOX_MULTIPLIERS[1])
    c0, c1, c2, c3 = counter
    key_a, key_b = key
    for _ in range(PHILOX_ROUNDS):
        product_a, product_b = c0 * multiplier_a, c2 * multiplier_b
        c0 = (product_b >> word_bits) ^ c1 ^ np.uint64(key_a)
        c2 = (product_a >> word_bits) ^ c3 ^ np.uint64(key_b)
        c1, c3 = product_b & mask, product_a & mask
        key_a, key_b = (key_a + PHILOX_KEY_STEPS[0]) & WORD, (key_b + PHILOX_KEY_STEPS[1]) & WORD
    return c0, c1, c2, c3


def philox_uniform(seed: int, offsets: npt.NDArray[np.int64] | npt.NDArray[np.uint64]) -> npt.NDArray[np.float32]:
    """Return one uniform in [0, 1) per offset, the value of Triton's `tl.rand(seed, offset)`.

    `seed` counts modulo 2**64 and is the key; the counter words are (low, high half of the offset, 0, 0).
    """
    wide = np.ascontiguousarray(offsets).astype(np.uint64)
    low, high = wide & np.uint64(WORD), wide >> np.uint64(32)
    zero = np.zeros_like(low)
    first, _, _, _ = philox4x32((low, high, zero, zero), (seed & WORD, (seed >> 32) & WORD))
    signed = first.astype(np.uint32).view(np.int32)
    folded = np.where(signed < 0, -signed - np.int32(1), signed)
    return folded.astype(np.float32) * PHILOX_TO_UNIT


def combine_directions(coefficients: "Tensor", directions: "Tensor") -> "Tensor":
    """Sum directions [C, L, D] weighted by `coefficients` [..., C, L] to the steering [..., L, D].

    S[l] = sum_c coefficients[c, l] * q[c, l]  (MusicRFM, Zhao et al. 2025, steering rule for several directions).
    """
    by_layer = coefficients.transpose(-1, -2).unsqueeze(-2)  # [..., L, 1, C]
    return (by_layer @ directions.transpose(0, 1)).squeeze(-2)  # [..., L, D]


def add_steering(hidden: "Tensor", steering: "Tensor") -> "Tensor":
    """Add steering [D], or one per row [B, D], to the block output `hidden` [B, D] or [B, T, D]."""
    if steering.dim() == 2 and hidden.dim() == 3:
        steering = steering.unsqueeze(1)  # [B, 1, D]
    return hidden + steering
