"""The device buffers that the kernels read: what a step needs to know, as tensors rather than as arguments.

A captured graph or a compiled kernel reads these anew at every launch, so turning a knob, loading a bank of the same
capacity, moving a gate or changing a mode is a write into a buffer: nothing is compiled or captured again. Used by
`plain` and `fused`; the engine process owns the buffers and writes them between two steps.

Shapes: B rows, C concepts, L layers, D width, N streams, K codebooks, V codes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

MOST_CONCEPTS = 64
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Injection:
    """What is injected into the residual stream, for every row, layer and concept. C is 0 to 64.

    `eta`, `gate` fp32 [B, C]: a row with eta 0 is not steered, so "the row with text only" is a choice of values.
    `mode` int32 [B, C], values of `reference.Mode`. `target` fp32 [B, L, C], the projection that a clamp aims at.
    `layer_weights` fp32 [L, C]. `directions` [L, C, D], unit rows, in any of FLOATS.

    A concept of strength 0 is not looked at: its direction may hold anything. Where none has a strength the row leaves
    as if there were no concepts at all, bit for bit. Raises ValueError when a part contradicts another.
    """

    eta: Tensor
    gate: Tensor
    mode: Tensor
    target: Tensor
    layer_weights: Tensor
    directions: Tensor

    def __post_init__(self) -> None:
        if self.eta.dim() != 2 or self.directions.dim() != 3:
            raise ValueError(
                f"eta is {tuple(self.eta.shape)}, directions are {tuple(self.directions.shape)}, "
                "expected [B, C] and [L, C, D]"
            )
        (rows, concepts), layers = self.eta.shape, self.directions.shape[0]
        if concepts > MOST_CONCEPTS:
            raise ValueError(f"eta holds {concepts} concepts, expected 0..{MOST_CONCEPTS}")
        device = self.directions.device
        _check("eta", self.eta, (rows, concepts), (torch.float32,), device)
        _check("gate", self.gate, (rows, concepts), (torch.float32,), device)
        _check("mode", self.mode, (rows, concepts), (torch.int32,), device)
        _check("target", self.target, (rows, layers, concepts), (torch.float32,), device)
        _check("layer_weights", self.layer_weights, (layers, concepts), (torch.float32,), device)
        _check("directions", self.directions, (layers, concepts, self.directions.shape[2]), FLOATS, device)

    @property
    def rows(self) -> int:
        return self.eta.shape[0]

    @property
    def concepts(self) -> int:
        return self.eta.shape[1]

    @property
    def layers(self) -> int:
        return self.directions.shape[0]

    @property
    def width(self) -> int:
        return self.directions.shape[2]

    def check_row(self, hidden: Tensor, contribution: Tensor, layer: Tensor) -> None:
        """Raise ValueError unless `hidden` and `contribution` are [B, D] alike and `layer` is int32 [1]."""
        shape, device = (self.rows, self.width), self.directions.device
        _check("hidden", hidden, shape, FLOATS, device)
        _check("contribution", contribution, shape, (hidden.dtype,), device)
        _check("layer", layer, (1,), (torch.int32,), device)


@dataclass(frozen=True)
class GateSettings:
    """How the gates are drawn. C is 0 to 64; raises ValueError when a part contradicts another.

    `probability` fp32 [B, C], 0..1: a gate of 0 never opens, of 1 always. `period` int32 [B, C], from 1: above 1 the
    gate opens at every `period`-th step instead of by a draw. `seed` int64 [B]: rows of one seed share their draws, as
    the two rows of one guided stream must. A probability given in float64 is compared exactly as numpy would when it is
    rounded up to fp32.
    """

    probability: Tensor
    period: Tensor
    seed: Tensor

    def __post_init__(self) -> None:
        shape, device = tuple(self.probability.shape), self.probability.device
        if len(shape) != 2 or shape[1] > MOST_CONCEPTS:
            raise ValueError(f"probability is {shape}, expected [B, 0..{MOST_CONCEPTS}]")
        _check("probability", self.probability, shape, (torch.float32,), device)
        _check("period", self.period, shape, (torch.int32,), device)
        _check("seed", self.seed, shape[:1], (torch.int64,), device)

    def check_step(self, step: Tensor, gate: Tensor) -> None:
        """Raise ValueError unless `step` is int64 [1] and `gate` fp32 [B, C]."""
        _check("step", step, (1,), (torch.int64,), self.seed.device)
        _check("gate", gate, tuple(self.probability.shape), (torch.float32,), self.seed.device)


@dataclass(frozen=True)
class SamplingBuffers:
    """How N streams choose their next codes; the domains are those of rfm_live.model.sampling.SamplingSettings.

    `temperature`, `guidance`, `top_p` fp32 [N], `top_k` int32 [N], `seed` int64 [N]. Raises ValueError when a part
    contradicts another.
    """

    temperature: Tensor
    guidance: Tensor
    top_k: Tensor
    top_p: Tensor
    seed: Tensor

    def __post_init__(self) -> None:
        shape, device = tuple(self.seed.shape), self.seed.device
        if len(shape) != 1:
            raise ValueError(f"seed is {shape}, expected [N]")
        for name in ("temperature", "guidance", "top_p"):
            _check(name, getattr(self, name), shape, (torch.float32,), device)
        _check("top_k", self.top_k, shape, (torch.int32,), device)
        _check("seed", self.seed, shape, (torch.int64,), device)

    @property
    def streams(self) -> int:
        return self.seed.shape[0]

    def check_logits(self, logits: Tensor, step: Tensor) -> None:
        """Raise ValueError unless `logits` are fp32 [1 or 2, N, 1..16, 1..65536] and `step` is int64 [1]."""
        shape = tuple(logits.shape)
        if len(shape) != 4 or shape[0] not in (1, 2) or not 1 <= shape[2] <= 16 or not 1 <= shape[3] <= 1 << 16:
            raise ValueError(f"logits are {shape}, expected [1 or 2, N, 1..16, 1..65536]")
        _check("logits", logits, (shape[0], self.streams, *shape[2:]), (torch.float32,), self.seed.device)
        _check("step", step, (1,), (torch.int64,), self.seed.device)


def _check(
    name: str, tensor: Tensor, shape: tuple[int, ...], dtypes: tuple[torch.dtype, ...], device: torch.device
) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} is {tuple(tensor.shape)}, expected {shape}")
    if tensor.dtype not in dtypes:
        raise ValueError(f"{name} is {tensor.dtype}, expected {' or '.join(map(str, dtypes))}")
    if tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}, expected {device}")
    if not tensor.is_contiguous():
        raise ValueError(f"{name} has strides {tensor.stride()}, expected a contiguous tensor")
