"""Products of a weight matrix with the one or two rows of a step, on a CPU. Used by `column_step`, compiled with it.

A step reads every weight once and does next to nothing with it, so what counts is how near a product comes to the
memory's bandwidth; BLAS is made for taller matrices, and which of its forms does well depends on the size.
"""

import warnings
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from rfm_live.errors import StartError

LEAST_PACKED = 1 << 20
"""A weight of so many elements is worth oneDNN's blocked layout, and the 20 us that one of its calls costs."""
LEAST_HALVED = 1 << 16
"""A smaller weight is read as fast in fp32 as in fp16."""


class Product(Protocol):
    """The product with a weight [O, D]."""

    def __call__(self, rows: Tensor) -> Tensor:
        """rows [B, D] -> [B, O], of any strides"""

    def added(self, h: Tensor, rows: Tensor) -> Tensor:
        """h [B, O] + the product with rows [B, D] -> [B, O], contiguous"""


def _exact(weight: Tensor) -> Product:
    """The form depends on the weight and the CPU alone, so that sums keep their bits from one start to the next."""
    if _has_fbgemm() and torch.equal(weight.half().float(), weight):
        return _half(weight)  # as published weights mostly are: nothing is lost
    is_packed = weight.numel() >= LEAST_PACKED and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return _Packed(weight) if is_packed else _Plain(weight)


def _half(weight: Tensor) -> Product:
    return _Half(weight) if weight.numel() >= LEAST_HALVED else _Plain(weight)


def _has_fbgemm() -> bool:
    return "fbgemm" in torch.backends.quantized.supported_engines


class _Plain(nn.Module):
    """BLAS. `weight @ rows.T` takes three quarters of the time of `rows @ weight.T` where O is larger than D."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight, self.turned = weight, weight.t()

    def forward(self, rows: Tensor) -> Tensor:
        return torch.mm(self.weight, rows.t()).t()

    def added(self, h: Tensor, rows: Tensor) -> Tensor:
        return torch.addmm(h, rows, self.turned)


class _Packed(nn.Module):
    """oneDNN, with a copy of the weight in its blocked layout: at D = 1024 twice as fast as BLAS."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, 2)

    def forward(self, rows: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self.weight, None, "none", [], "")
        return product

    def added(self, h: Tensor, rows: Tensor) -> Tensor:
        total: Tensor = torch.ops.mkldnn._linear_pointwise(rows, h, self.weight, None, "add")
        return total


class _Half(nn.Module):
    """FBGEMM, with the weight stored in fp16 and the arithmetic in fp32: half the bytes."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = torch.ops.quantized.linear_prepack_fp16(weight, None)

    def forward(self, rows: Tensor) -> Tensor:
        product: Tensor = torch.ops.quantized.linear_dynamic_fp16(rows, self.weight)
        return product

    def added(self, h: Tensor, rows: Tensor) -> Tensor:
        return self.forward(rows).add_(h)


class _Int8(nn.Module):
    """FBGEMM, with the weight rounded to 8 bits per output and the rows rounded to 8 bits as they come."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        most = weight.abs().amax(dim=1).clamp(min=torch.finfo(weight.dtype).tiny)  # [O]
        zeros = torch.zeros(len(most), dtype=torch.long)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)  # deprecated, not yet replaced
            rounded = torch.quantize_per_channel(weight, most / 127.0, zeros, 0, torch.qint8)
        self.weight = torch.ops.quantized.linear_prepack(rounded, None)

    def forward(self, rows: Tensor) -> Tensor:
        product: Tensor = torch.ops.quantized.linear_dynamic(rows, self.weight)
        return product

    def added(self, h: Tensor, rows: Tensor) -> Tensor:
        return self.forward(rows).add_(h)


_FORMS: dict[str, Callable[[Tensor], Product]] = {"fp32": _exact, "fp16": _half, "int8": _Int8}
PRECISIONS = tuple(_FORMS)
"""How the weights of a step are kept: as they are (in fp16 where they are fp16 values), in fp16, or in 8 bits."""


def product_in(precision: str) -> Callable[[Tensor], Product]:
    """Choose how products are made. Raises StartError for an unknown precision, or one without code for this CPU."""
    if precision not in _FORMS:
        raise StartError(f"precision is '{precision}', expected one of {', '.join(PRECISIONS)}")
    if precision != "fp32" and not _has_fbgemm():
        raise StartError(f"precision is '{precision}', expected fp32: torch has no FBGEMM on this machine")
    return _FORMS[precision]
