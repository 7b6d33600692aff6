"""Every kernel in plain torch: the specification of `fused`, and what runs where there is no Triton.

Used by the engine process through `rfm_kernels.backend`, and by the kernels' tests. Nothing here waits for the device:
all that a step decides is decided by tensor operations.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rfm_kernels.buffers import GateSettings, Injection, SamplingBuffers
from rfm_kernels.reference import (
    PHILOX_KEY_STEPS,
    PHILOX_MULTIPLIERS,
    PHILOX_ROUNDS,
    PHILOX_TO_UNIT,
    WORD,
    Mode,
)

GATE_DRAWS = 1 << 62
"""Keeps the gates' counters apart from sampling's; then step << CONCEPT_BITS, then the concept."""
CONCEPT_BITS = 16
CODEBOOK_BITS, CODE_BITS = 4, 16
"""Where a code's draw lies in the counter: step, codebook, code."""
SMALLEST_UNIFORM = 2.0**-33
"""Stands in for a uniform of exactly 0, whose logarithm is infinite."""


def philox_uniform(seed: Tensor, offsets: Tensor) -> Tensor:
    """Draw one fp32 uniform in [0, 1) per offset: the bits of `rfm_kernels.reference.philox_uniform`.

    `seed` and `offsets` int64, broadcast against each other. Words are kept in int64: a product wraps modulo 2**64, and
    masking after the arithmetic shift leaves the same high word as an unsigned one.
    """
    c0, c1 = offsets & WORD, (offsets >> 32) & WORD
    c2 = c3 = torch.zeros_like(offsets)
    key_a, key_b = seed & WORD, (seed >> 32) & WORD
    for _ in range(PHILOX_ROUNDS):
        product_a, product_b = c0 * PHILOX_MULTIPLIERS[0], c2 * PHILOX_MULTIPLIERS[1]
        c0 = ((product_b >> 32) & WORD) ^ c1 ^ key_a
        c2 = ((product_a >> 32) & WORD) ^ c3 ^ key_b
        c1, c3 = product_b & WORD, product_a & WORD
        key_a, key_b = (key_a + PHILOX_KEY_STEPS[0]) & WORD, (key_b + PHILOX_KEY_STEPS[1]) & WORD
    folded = torch.where(c0 > WORD >> 1, WORD - c0, c0)  # as int32: x < 0 -> -x - 1
    return folded.float() * float(PHILOX_TO_UNIT)


def draw_gates(settings: GateSettings, step: Tensor, gate: Tensor) -> None:
    """Write into `gate` fp32 [B, C] which concepts act at `step` int64 [1]: 1 open, 0 closed.

    The rule and the bits of rfm_live.steering.plan.SteeringPlan.
    """
    settings.check_step(step, gate)
    concepts = torch.arange(gate.shape[1], device=gate.device)  # [C]
    uniform = philox_uniform(settings.seed[:, None], GATE_DRAWS + (step << CONCEPT_BITS) + concepts)  # [B, C]
    is_drawn = (uniform < settings.probability) | (settings.probability >= 1.0) | (settings.period > 1)
    gate.copy_(is_drawn & (settings.probability > 0.0) & (step % settings.period == 0))


def add_inject_norm(
    hidden: Tensor, contribution: Tensor, norm: nn.LayerNorm, injection: Injection, layer: Tensor
) -> tuple[Tensor, Tensor]:
    """Add a block's `contribution` to `hidden`, both [B, D], inject, and normalise: -> (stream [B, D], normed [B, D]).

    The stream is the injected sum in `hidden`'s dtype, computed in fp32 and rounded once; `normed` is the LayerNorm of
    the rounded stream. `layer` int32 [1] says which of the injection's layers this is, 0..L-1. With several concepts
    each acts on the sum h as it came, the blends first and the pushes of the other two after them:

    h' = (h + |h| * sum_blend s * q) / (1 + sum_blend |s|) + sum_add s * q + sum_clamp s * (target - <h, q>) * q
    """
    injection.check_row(hidden, contribution, layer)
    stream = hidden + contribution  # [B, D]
    if injection.concepts:
        exact = hidden.float() + contribution.float()  # [B, D]
        injected, is_steered = _injected(exact, injection, layer)
        stream = torch.where(is_steered, injected.to(hidden.dtype), stream)
    return stream, F.layer_norm(stream, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _injected(h: Tensor, injection: Injection, layer: Tensor) -> tuple[Tensor, Tensor]:
    """Inject into fp32 rows h [B, D]: -> (injected [B, D], whether any concept has a strength [B, 1])."""
    weights = injection.layer_weights.index_select(0, layer)  # [1, C]
    target = injection.target.index_select(1, layer)[:, 0]  # [B, C]
    strength = injection.eta * injection.gate * weights  # [B, C]
    is_active = strength != 0.0  # [B, C]
    directions = injection.directions.index_select(0, layer)[0].float()  # [C, D]
    directions = torch.where(is_active.any(0)[:, None], directions, 0.0)
    is_blend, is_clamp = injection.mode == Mode.BLEND, injection.mode == Mode.CLAMP  # [B, C]
    blend = torch.where(is_blend, strength, 0.0)
    push = torch.where(is_clamp, strength * (target - h @ directions.T), torch.where(is_blend, 0.0, strength))
    push = torch.where(is_active, push, 0.0)  # [B, C]
    length = h.norm(dim=1, keepdim=True)  # [B, 1]
    blended = (h + length * (blend @ directions)) / (1.0 + blend.abs().sum(1, keepdim=True))  # [B, D]
    return blended + push @ directions, is_active.any(1, keepdim=True)


def sample_codes(logits: Tensor, settings: SamplingBuffers, step: Tensor) -> Tensor:
    """Draw one code per stream and codebook from fp32 logits [1 or 2, N, K, V] at `step` int64 [1]: -> int64 [N, K].

    The halves are with text and without; one half is taken as it is. Guidance, top-k, top-p (of what top-k leaves) and
    the Gumbel-max draw as in rfm_live.model.sampling, from the same counters.
    """
    settings.check_logits(logits, step)
    _, codebooks, vocab = logits.shape[1:]
    temperature, top_p, seed = (
        values[:, None, None] for values in (settings.temperature, settings.top_p, settings.seed)
    )  # [N, 1, 1]
    guided = logits[0]  # [N, K, V]
    if len(logits) == 2:
        guided = logits[1] + settings.guidance[:, None, None] * (logits[0] - logits[1])
    heat = torch.where(temperature > 0.0, temperature, 1.0)
    threshold = _threshold(guided, settings.top_k, top_p, heat)  # [N, K, 1]
    codes = torch.arange(vocab, device=logits.device)
    books = torch.arange(codebooks, device=logits.device)[:, None]
    offsets = (((step << CODEBOOK_BITS) + books) << CODE_BITS) + codes  # [K, V]
    uniform = philox_uniform(seed, offsets).clamp(min=SMALLEST_UNIFORM)  # [N, K, V]
    scores = torch.where(temperature > 0.0, guided / heat - torch.log(-torch.log(uniform)), guided)
    return torch.where(guided >= threshold, scores, -torch.inf).argmax(-1)


def _threshold(guided: Tensor, top_k: Tensor, top_p: Tensor, heat: Tensor) -> Tensor:
    """The least logit that is a candidate: [N, K, 1]. Logits that tie with it are candidates too."""
    codebooks, vocab = guided.shape[1:]
    descending = guided.sort(dim=-1, descending=True).values  # [N, K, V]
    last = torch.where(top_k > 0, top_k.long().clamp(max=vocab), vocab) - 1  # [N]
    threshold = descending.gather(-1, last[:, None, None].expand(-1, codebooks, 1))  # [N, K, 1]
    weights = torch.exp((descending - descending[..., :1]) / heat)
    weights = torch.where(descending >= threshold, weights, 0.0)
    mass = weights.cumsum(-1)  # [N, K, V]
    above = F.pad(mass[..., :-1], (1, 0))  # the mass of the more likely codes
    is_kept = (above < top_p * mass[..., -1:]) | (top_p >= 1.0)
    is_kept[..., 0] = True
    nucleus = torch.where(is_kept, descending, torch.inf).amin(-1, keepdim=True)
    return torch.maximum(threshold, nucleus)
