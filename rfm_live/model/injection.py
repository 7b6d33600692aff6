"""Steering as the decoder reads it: for every layer and column, what acts on a block's rows, and at which site.

Made by the token stream out of the frames it plays (`rfm_live.engine.played`), read by `Decoder`. The formulas are
those of `rfm_kernels.plain.add_inject_norm`, with everything summed over concepts beforehand that does not depend on
the row: h' = (h + |h| * blend) / (1 + share) + push - sum_clamp s * <h, q> * q, where `push` holds the targets of the
clamps. Where nothing acts, each term is exactly 0 and leaves the row bit for bit.

Shapes: L layers, R rows (1: the same for every row), B rows of the pass, T columns, C clamping concepts, D width.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class SiteInjection(NamedTuple):
    """What acts at one site of every block. `push` and `blend` [L, R, T, D], `share` [L, R, T, 1] is sum_blend |s|;
    `clamp` [L, R, T, C] are strengths along `clamped` [L, C, D]. Blends come with their share, clamps with directions.
    A push that is the same for all rows, or for all columns too, may do without these dimensions.
    """

    push: Tensor
    blend: Tensor | None = None
    share: Tensor | None = None
    clamp: Tensor | None = None
    clamped: Tensor | None = None

    def inject(self, h: Tensor, layer: int) -> Tensor:
        """Steer rows h [B, T, D] of `layer` -> [B, T, D]."""
        return inject(self, h, layer)


class Injections(NamedTuple):
    """What acts at each site; None where nothing does."""

    block: SiteInjection | None = None
    attention: SiteInjection | None = None
    ffn: SiteInjection | None = None

    @classmethod
    def pushing(cls, steering: Tensor) -> "Injections":
        """Add `steering` [L, D], [T, L, D] or [B, T, L, D] to the block outputs."""
        return cls(SiteInjection(steering.movedim(-2, 0)))


def inject(site: SiteInjection, h: Tensor, layer: int) -> Tensor:
    """`SiteInjection.inject` as a function, which compiled steps can call."""
    push = site.push[layer]  # [R, T, D]
    clamp, clamped, blend, share = site.clamp, site.clamped, site.blend, site.share
    if clamp is not None and clamped is not None:
        directions = clamped[layer]  # [C, D]
        projections = h.to(directions.dtype) @ directions.t()  # [B, T, C]
        push = push - (clamp[layer] * projections) @ directions  # [B, T, D]
    if blend is not None and share is not None:
        exact = h.to(blend.dtype)
        length: Tensor = torch.linalg.vector_norm(exact, dim=[-1], keepdim=True)  # [B, T, 1]
        blended = (exact + length * blend[layer]) / (1.0 + share[layer])
        return (blended + push).to(h.dtype)
    return h + push.to(h.dtype)


def column_pushes(sites: Injections) -> list[Tensor] | None:
    """What is to be added to the rows [B, D] of one column after each block; None where that depends on the row."""
    block = sites.block
    if block is None or block.blend is not None or block.clamp is not None:
        return None
    push = block.push
    if push.dim() == 4:
        push = push[:, :, 0]
    return list(push.unbind())
