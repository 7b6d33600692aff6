"""What the kernels' tests share: devices, random inputs, and the formulas in float64 written out one row at a time."""

import os

import numpy as np
import pytest
import torch
from rfm_kernels.buffers import Injection
from rfm_kernels.reference import Mode
from torch import Tensor, nn

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICES = [
    pytest.param(
        "cpu",
        marks=pytest.mark.skipif(not IS_INTERPRETED, reason="TRITON_INTERPRET is not 1: Triton compiles for a GPU"),
    ),
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(
                IS_INTERPRETED or not torch.cuda.is_available(), reason="needs a CUDA device and TRITON_INTERPRET=0"
            ),
        ],
    ),
]
"""The interpreter's device, and a real one for `TRITON_INTERPRET=0 python -m pytest -m gpu`."""

LAYERS = 3


def random_injection(rows: int, concepts: int, width: int, dtype: torch.dtype, seed: int = 0) -> Injection:
    """Every mode, open and closed gates, unit directions; strengths that move a row by about its own length."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(LAYERS, concepts, width, generator=generator)
    reach = 2 / max(concepts, 1) ** 0.5
    return Injection(
        eta=torch.randn(rows, concepts, generator=generator) * reach,
        gate=(torch.rand(rows, concepts, generator=generator) < 0.7).float(),
        mode=torch.randint(len(Mode), (rows, concepts), generator=generator, dtype=torch.int32),
        target=torch.randn(rows, LAYERS, concepts, generator=generator),
        layer_weights=torch.rand(LAYERS, concepts, generator=generator),
        directions=nn.functional.normalize(directions, dim=-1).to(dtype),
    )


def random_rows(rows: int, width: int, dtype: torch.dtype, seed: int = 1) -> tuple[Tensor, Tensor, nn.LayerNorm]:
    """The stream [B, D], a block's contribution [B, D] and the norm that follows."""
    generator = torch.Generator().manual_seed(seed)
    hidden, contribution = torch.randn(2, rows, width, generator=generator).to(dtype)
    norm = nn.LayerNorm(width)
    with torch.no_grad():
        norm.weight.copy_(1 + torch.randn(width, generator=generator) / 4)
        norm.bias.copy_(torch.randn(width, generator=generator) / 4)
    return hidden, contribution, norm.to(dtype).requires_grad_(False)


def moved(injection: Injection, device: str) -> Injection:
    return Injection(**{name: tensor.to(device) for name, tensor in vars(injection).items()})


def at_layer(layer: int, device: str = "cpu") -> Tensor:
    return torch.tensor([layer], dtype=torch.int32, device=device)


def exact_stream(hidden: Tensor, contribution: Tensor, injection: Injection, layer: int) -> np.ndarray:
    """The steered sum in float64, from the values as they are stored: [B, D]."""
    start = hidden.double().numpy() + contribution.double().numpy()
    eta, gate, target, weights, directions = (
        part.double().numpy()
        for part in (
            injection.eta,
            injection.gate,
            injection.target,
            injection.layer_weights,
            injection.directions,
        )
    )
    steered = start.copy()
    for row, h in enumerate(start):
        blended, share, push = np.zeros_like(h), 0.0, np.zeros_like(h)
        for concept in range(injection.concepts):
            strength = eta[row, concept] * gate[row, concept] * weights[layer, concept]
            q = directions[layer, concept]
            match Mode(int(injection.mode[row, concept])):
                case Mode.ADD:
                    push += strength * q
                case Mode.BLEND:
                    blended += strength * np.sqrt((h * h).sum()) * q
                    share += abs(strength)
                case Mode.CLAMP:
                    push += strength * (target[row, layer, concept] - (h * q).sum()) * q
        steered[row] = (h + blended) / (1 + share) + push
    return steered


def exact_norm(stream: np.ndarray, norm: nn.LayerNorm) -> np.ndarray:
    """LayerNorm in float64: [B, D]."""
    centred = stream - stream.mean(axis=1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + norm.eps)
    return scaled * norm.weight.double().numpy() + norm.bias.double().numpy()


def torch_s_own(
    hidden: Tensor, contribution: Tensor, norm: nn.LayerNorm, injection: Injection, layer: int
) -> tuple[Tensor, Tensor]:
    """What forward hooks would compute: the same formulas by torch's operations in the stream's own dtype."""
    h = hidden + contribution  # [B, D]
    strength = (injection.eta * injection.gate * injection.layer_weights[layer]).to(h.dtype)  # [B, C]
    q, target = injection.directions[layer], injection.target[:, layer].to(h.dtype)  # [C, D], [B, C]
    blend = torch.where(injection.mode == Mode.BLEND, strength, 0)
    push = torch.where(injection.mode == Mode.CLAMP, strength * (target - h @ q.T), strength - blend)
    blended = (h + h.norm(dim=1, keepdim=True) * (blend @ q)) / (1 + blend.abs().sum(1, keepdim=True))
    stream = blended + push @ q
    return stream, norm(stream)
