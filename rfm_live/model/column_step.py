"""One column of the decoder on a CPU: the computation of `Decoder.forward` in fewer and thinner operations.

Used by `Decoder.forward` for steps of one column, which is all but one in a hundred calls while music plays. At a width
of 256 the calls cost more than the arithmetic, at 1024 the products take all the time; so the residual stream is
[B, D] and written in place, the views of the cache are cut once for all layers, cross-attention to a short text is
two small products (`FoldedCross`), and TorchScript runs the whole pass without Python in between, which halves the time
of the embedded checkpoint. Results differ from the plain forward by rounding only.

Shapes as in `rfm_live.model.decoder`; R text rows, N = H * S.
"""

import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rfm_live.model.cross import CrossCache
from rfm_live.model.injection import Injections, column_pushes, inject
from rfm_live.model.products import Product

if TYPE_CHECKING:
    from rfm_live.model.decoder import Block, Decoder

Products = Callable[[Tensor], Product]


class ColumnStep(nn.Module):
    """A decoder's weights, made ready for steps of one column. `compiled` makes what runs; this reads as it does."""

    def __init__(self, decoder: "Decoder", product: Products) -> None:
        super().__init__()
        self.codebooks = decoder.config.codebooks
        self.embedding, self.code_offsets = decoder.embedding.weight, decoder.code_offsets
        self.positions = decoder.positions
        self.layers: Any = nn.ModuleList([_Layer(block, product) for block in decoder.layers])
        self.norm = decoder.out_norm
        self.heads = product(decoder.heads.weight)

    def forward(
        self, columns: Tensor, position: int, kv: Tensor, cross: CrossCache | None, sites: Injections
    ) -> Tensor:
        """Read int64 columns [B or 1, K, 1] into `kv` [2, L, B, H, Tmax, E]: -> what `Decoder.forward` answers."""
        rows = kv.size(2)
        h = F.embedding(columns + self.code_offsets, self.embedding).sum(1)[:, 0]  # [B or 1, D]
        h = (h + self.positions[position]).expand(rows, -1)  # [B, D]
        places = kv[:, :, :, :, position : position + 1].unbind(1)  # L of [2, B, H, 1, E]
        keys = kv[0, :, :, :, : position + 1].unbind()  # L of [B, H, T, E]
        values = kv[1, :, :, :, : position + 1].unbind()
        folded = None if cross is None else cross.folded
        inward = None if folded is None else folded.inward.unbind()
        outward = None if folded is None else folded.outward.unbind()
        pushes = column_pushes(sites)
        for index, layer in enumerate(self.layers):
            h = layer.attend(h, places[index], keys[index], values[index], sites, index)
            if inward is not None and outward is not None:
                layer.add_folded_text(h, inward[index], outward[index])
            elif cross is not None:
                layer.add_text(h, cross, index)
            h = layer.feed_forward(h, sites, index)
            block = sites.block
            if pushes is not None:
                h.add_(pushes[index])
            elif block is not None:
                h = inject(block, h[:, None], index)[:, 0]
        return self.heads(self.norm(h)).contiguous().view(rows, 1, self.codebooks, -1)


class _Layer(nn.Module):
    """One block's weights. Every method takes the residual stream h [B, D] and answers or changes it."""

    def __init__(self, block: "Block", product: Products) -> None:
        super().__init__()
        self.heads = block.heads
        self.self_norm, self.cross_norm, self.ffn_norm = block.self_norm, block.cross_norm, block.ffn_norm
        self.qkv, self.self_out = product(block.qkv.weight), product(block.self_out.weight)
        self.cross_q, self.cross_out = block.cross_q, block.cross_out
        self.ffn_in, self.ffn_out = product(block.ffn_in.weight), product(block.ffn_out.weight)

    def attend(self, h: Tensor, place: Tensor, keys: Tensor, values: Tensor, sites: Injections, index: int) -> Tensor:
        """Add self-attention; `place` [2, B, H, 1, E] is this column's in `keys` and `values` [B, H, T, E]."""
        rows, width = h.shape
        qkv = self.qkv(self.self_norm(h)).contiguous().view(rows, 3, self.heads, 1, -1)  # [B, 3, H, 1, E]
        place.copy_(qkv[:, 1:].transpose(0, 1))
        attended = F.scaled_dot_product_attention(qkv[:, 0], keys, values).view(rows, width)  # [B, D]
        site = sites.attention
        if site is None:
            return self.self_out.added(h, attended)
        return h + inject(site, self.self_out(attended)[:, None], index)[:, 0]

    def add_folded_text(self, h: Tensor, inward: Tensor, outward: Tensor) -> None:
        """Add cross-attention to the first row, in place; `inward` [N, D] and `outward` [D, N] are a short text's."""
        row = h[0]  # [D]
        scores = torch.mv(inward, self.cross_norm(row))  # [N]
        shares = torch.softmax(scores.view(self.heads, -1), 1)  # [H, S]
        row.addmv_(outward, shares.view(-1))

    def add_text(self, h: Tensor, cross: CrossCache, index: int) -> None:
        """Add cross-attention to the rows that have text, in place."""
        rows = cross.keys.size(1)
        if rows > 0:
            queries = self.cross_q(self.cross_norm(h[:rows])).view(rows, self.heads, 1, -1)  # [R, H, 1, E]
            told = F.scaled_dot_product_attention(queries, cross.keys[index], cross.values[index], cross.mask)
            h[:rows].add_(self.cross_out(told.view(rows, -1)))

    def feed_forward(self, h: Tensor, sites: Injections, index: int) -> Tensor:
        """Add the feed-forward layer."""
        fed = _gelu(self.ffn_in(self.ffn_norm(h))).contiguous()  # [B, 4 * D]
        site = sites.ffn
        if site is None:
            return self.ffn_out.added(h, fed)
        return h + inject(site, self.ffn_out(fed)[:, None], index)[:, 0]


def _gelu(rows: Tensor) -> Tensor:
    """GELU of rows [B, O]. Torch gives contiguous ones to oneDNN, whose set-up takes longer than a step's few rows."""
    return F.gelu(rows.t()).t() if rows.is_contiguous() else F.gelu(rows)


def compiled(step: ColumnStep) -> Callable[..., Tensor]:
    """The same step run by TorchScript, where this Python has one; the results are the same bit for bit.

    The graph runs as it is written: to optimize it takes seconds, amid the first two steps, and gains nothing.
    """
    if sys.version_info >= (3, 14):
        return step
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)  # its successors need a C++ compiler
        made = torch.jit.script(step)

    def run(*given: object) -> Tensor:
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            logits: Tensor = made(*given)
        return logits

    return run
