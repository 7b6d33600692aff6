"""Steering as the decoder reads it: for every layer and column, what acts on a block's rows, and at which site.

Made by the token stream out of the frames it plays (`rfm_live.engine.played`), read by `Decoder`. The formulas are
those of `rfm_kernels.plain.add_inject_norm`, with everything summed over concepts beforehand that does not depend on
the row: h' = (h + |h| * blend) / (1 + share) + push - sum_clamp s * <h, q> * q, where `push` holds the targets of the
clamps. Where nothing acts, each term is exactly 0 and leaves the row bit for bit.

Shapes: L layers, R rows (1: the same for every row), B rows of the pass, T columns, C clamping concepts, D width.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class SiteInjection:
    """What acts at one site of every block. `push` and `blend` [L, R, T, D], `share` [L, R, T, 1] is sum_blend |s|;
    `clamp` [L, R, T, C] are strengths along `clamped` [L, C, D]. Blends come with their share, clamps with directions.
    """

    push: Tensor
    blend: Tensor | None = None
    share: Tensor | None = None
    clamp: Tensor | None = None
    clamped: Tensor | None = None

    def column_pushes(self) -> tuple[Tensor, ...] | None:
        """What is to be added to the rows [B, D] of one column, per layer; None where something depends on the row."""
        if self.blend is not None or self.clamp is not None:
            return None
        return (self.push[..., 0, :] if self.push.dim() == 4 else self.push).unbind()

    def inject(self, h: Tensor, layer: int) -> Tensor:
        """Steer rows h [B, T, D] of `layer` -> [B, T, D]."""
        push = self.push[layer]  # [R, T, D]
        if self.clamp is not None and self.clamped is not None:
            directions = self.clamped[layer]  # [C, D]
            projections = h.to(directions.dtype) @ directions.T  # [B, T, C]
            push = push - (self.clamp[layer] * projections) @ directions  # [B, T, D]
        if self.blend is not None and self.share is not None:
            exact = h.to(self.blend.dtype)
            length = exact.norm(dim=-1, keepdim=True)  # [B, T, 1]
            blended: Tensor = (exact + length * self.blend[layer]) / (1.0 + self.share[layer])
            return (blended + push).to(h.dtype)
        return h + push.to(h.dtype)


@dataclass(frozen=True)
class Injections:
    """What acts at each site; None where nothing does."""

    block: SiteInjection | None = None
    attention: SiteInjection | None = None
    ffn: SiteInjection | None = None

    @classmethod
    def pushing(cls, steering: Tensor) -> "Injections":
        """Add `steering` [L, D], [T, L, D] or [B, T, L, D] to the block outputs."""
        return cls(SiteInjection(steering.movedim(-2, 0)))
