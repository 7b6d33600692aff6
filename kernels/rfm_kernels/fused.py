"""Launch the Triton kernels, with the signatures of `plain`. Importing this imports triton.

Used by the engine process through `rfm_kernels.backend`, on CUDA devices; with TRITON_INTERPRET=1 set before the
import, Triton's interpreter runs the same kernels on tensors of any device.
"""

import torch
from torch import Tensor, nn

from rfm_kernels import triton_kernels
from rfm_kernels.buffers import MOST_CONCEPTS, GateSettings, Injection, SamplingBuffers

WIDEST_ROW = 1 << 14
"""The widest row that one program holds in registers without spilling most of it."""


def draw_gates(settings: GateSettings, step: Tensor, gate: Tensor) -> None:
    """Do what `plain.draw_gates` does, bit for bit, in one launch."""
    settings.check_step(step, gate)
    rows, concepts = gate.shape
    if rows and concepts:
        triton_kernels.draw_gates[(rows,)](
            settings.probability,
            settings.period,
            settings.seed,
            step,
            gate,
            concepts,
            BLOCK=MOST_CONCEPTS,
            num_warps=2,
            enable_fp_fusion=False,
        )


def add_inject_norm(
    hidden: Tensor, contribution: Tensor, norm: nn.LayerNorm, injection: Injection, layer: Tensor
) -> tuple[Tensor, Tensor]:
    """Do what `plain.add_inject_norm` does, in one launch that reads and writes every row once. D is at most 16384."""
    injection.check_row(hidden, contribution, layer)
    rows, width = hidden.shape
    if not 1 <= width <= WIDEST_ROW:
        raise ValueError(f"width is {width}, expected 1..{WIDEST_ROW}")
    stream, normed = torch.empty_like(hidden), torch.empty_like(hidden)
    if rows:
        block = _block(width)
        triton_kernels.add_inject_norm[(rows,)](
            hidden,
            contribution,
            norm.weight,
            norm.bias,
            injection.eta,
            injection.gate,
            injection.mode,
            injection.target,
            injection.layer_weights,
            injection.directions,
            layer,
            stream,
            normed,
            norm.eps,
            injection.layers,
            injection.concepts,
            width,
            BLOCK=block,
            num_warps=min(max(block // 256, 1), 16),
            enable_fp_fusion=True,
        )
    return stream, normed


def sample_codes(logits: Tensor, settings: SamplingBuffers, step: Tensor) -> Tensor:
    """Do what `plain.sample_codes` does, in one launch of a program per stream and codebook.

    Products are not contracted into sums (`enable_fp_fusion`), so that guidance rounds as in numpy.
    """
    settings.check_logits(logits, step)
    halves, streams, codebooks, vocab = logits.shape
    codes = torch.empty(streams, codebooks, dtype=torch.int64, device=logits.device)
    if streams:
        triton_kernels.sample_codes[(streams, codebooks)](
            logits,
            settings.temperature,
            settings.guidance,
            settings.top_k,
            settings.top_p,
            settings.seed,
            step,
            codes,
            streams,
            vocab,
            IS_GUIDED=halves == 2,
            BLOCK=_block(vocab),
            num_warps=8,
            enable_fp_fusion=False,
        )
    return codes


def _block(width: int) -> int:
    """The least power of two that holds `width`."""
    return 1 << (width - 1).bit_length()
