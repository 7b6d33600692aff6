"""Which kernels run where: Triton's on CUDA, the plain ones everywhere else. Used by the engine process at start."""

from importlib.util import find_spec
from typing import Protocol

import torch
from torch import Tensor, nn

from rfm_kernels import plain
from rfm_kernels.buffers import GateSettings, Injection, SamplingBuffers


class Kernels(Protocol):
    """What `plain` and `fused` both offer; `plain` tells what each does."""

    def draw_gates(self, settings: GateSettings, step: Tensor, gate: Tensor) -> None: ...

    def add_inject_norm(
        self, hidden: Tensor, contribution: Tensor, norm: nn.LayerNorm, injection: Injection, layer: Tensor
    ) -> tuple[Tensor, Tensor]: ...

    def sample_codes(self, logits: Tensor, settings: SamplingBuffers, step: Tensor) -> Tensor: ...


def kernels_for(device: torch.device) -> Kernels:
    """Choose the kernels for a device. Without the package triton, or off CUDA, these are the plain ones."""
    if device.type != "cuda" or find_spec("triton") is None:
        return plain
    from rfm_kernels import fused

    return fused
