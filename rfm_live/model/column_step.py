"""One column of the decoder on a CPU: the computation of `Decoder.forward` in fewer and thinner operations.

Used by `Decoder.forward` for steps of one column, which is all but one in a hundred calls while music plays. At a width
of 256 the calls cost more than the arithmetic, at 1024 the products take all the time; so the residual stream is
[B, D] and written in place, the views of the cache are cut once for all layers, and cross-attention to a short text is
two small products (`FoldedCross`). Results differ from the plain forward by rounding only.

Shapes as in `rfm_live.model.decoder`; R text rows, N = H * S.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rfm_live.model.injection import Injections, SiteInjection
from rfm_live.model.products import Product

if TYPE_CHECKING:
    from rfm_live.model.decoder import Block, CrossCache, Decoder, KVCache

_Inject = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class FoldedCross:
    """Cross-attention of one text row with its projections multiplied out: h -> softmax(h `inward`) `outward`.

    `inward`, L of [N, D], is the queries' projection times the keys, scaled; `outward`, L of [D, N], the values times
    the output projection. These are fewer bytes than the two projections as long as the text has fewer tokens than a
    head is wide.
    """

    inward: tuple[Tensor, ...]
    outward: tuple[Tensor, ...]

    @classmethod
    def of(cls, blocks: "list[Block]", keys: Tensor, values: Tensor) -> "FoldedCross":
        """Fold `keys` and `values` [L, H, S, E] of the tokens that count into every block's projections."""
        _, heads, tokens, width = keys.shape
        inward, outward = [], []
        for block, k, v in zip(blocks, keys, values, strict=True):
            queries = block.cross_q.weight.view(heads, width, -1) * width**-0.5  # [H, E, D]
            inward.append((k @ queries).view(heads * tokens, -1))
            outputs = block.cross_out.weight.view(-1, heads, width).permute(1, 2, 0)  # [H, E, D]
            outward.append((v @ outputs).view(heads * tokens, -1).t().contiguous())
        return cls(tuple(inward), tuple(outward))


class ColumnStep:
    """A decoder's weights, made ready for steps of one column."""

    def __init__(self, decoder: "Decoder", product: Callable[[Tensor], Product]) -> None:
        self._decoder = decoder
        self._layers = [_Layer(block, product) for block in decoder.layers]
        self._norm = _Norm(decoder.out_norm)
        self._heads = product(decoder.heads.weight)

    def logits(
        self, columns: Tensor, position: int, cache: "KVCache", cross: "CrossCache | None", sites: Injections
    ) -> Tensor:
        """What `Decoder.forward` answers for int64 columns [B, K, 1]: fp32 [B, 1, K, V]."""
        config, rows = self._decoder.config, columns.shape[0]
        alike = 1 if columns.stride(0) == 0 else rows  # rows of one stream read the same column
        h = self._decoder.embed(columns[:alike], position)[:, 0].expand(rows, -1)  # [B, D]
        pairs = cache.kv[:, :, :, :, position].unbind(1)  # L of [2, B, H, E]
        keys, values = (part[:, :, :, : position + 1].unbind() for part in cache.kv)  # L of [B, H, T, E]
        pushes = None if sites.block is None else sites.block.column_pushes()
        for index, layer in enumerate(self._layers):
            h = layer.attend(h, pairs[index], keys[index], values[index], _at(sites.attention, index))
            if cross is not None and cross.rows:
                layer.add_text(h, cross, index)
            h = layer.feed_forward(h, _at(sites.ffn, index))
            if pushes is not None:
                h.add_(pushes[index])
            elif sites.block is not None:
                h = sites.block.inject(h[:, None], index)[:, 0]
        return self._heads(self._norm(h)).contiguous().view(rows, 1, config.codebooks, config.vocab)


class _Norm:
    """A LayerNorm without the module's call."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        self._arguments = (norm.normalized_shape, norm.weight, norm.bias, norm.eps)

    def __call__(self, h: Tensor) -> Tensor:
        return torch.layer_norm(h, *self._arguments)


class _Layer:
    """One block's weights. Every method takes the residual stream h [B, D] and answers or changes it."""

    def __init__(self, block: "Block", product: Callable[[Tensor], Product]) -> None:
        self._block, self._heads = block, block.heads
        self._self_norm, self._cross_norm = _Norm(block.self_norm), _Norm(block.cross_norm)
        self._ffn_norm = _Norm(block.ffn_norm)
        self._qkv, self._self_out = product(block.qkv.weight), product(block.self_out.weight)
        self._ffn_in, self._ffn_out = product(block.ffn_in.weight), product(block.ffn_out.weight)

    def attend(self, h: Tensor, pair: Tensor, keys: Tensor, values: Tensor, inject: _Inject | None) -> Tensor:
        """Add self-attention; `pair` [2, B, H, E] is this column's place in `keys` and `values` [B, H, T, E]."""
        rows, width = h.shape
        qkv = self._qkv(self._self_norm(h)).contiguous().view(rows, 3, self._heads, -1)  # [B, 3, H, E]
        queries, news = qkv[:, :1], qkv[:, 1:]
        pair.copy_(news.transpose(0, 1))
        attended = F.scaled_dot_product_attention(queries.transpose(1, 2), keys, values)  # [B, H, 1, E]
        attended = attended.view(rows, width)
        return self._self_out.added(h, attended) if inject is None else h + inject(self._self_out(attended))

    def add_text(self, h: Tensor, cross: "CrossCache", layer: int) -> None:
        """Add cross-attention to the rows that have text, in place."""
        if cross.folded is None:
            keys, values = cross.keys[layer], cross.values[layer]
            h[: cross.rows] += self._block.attend_text(h[: cross.rows, None], keys, values, cross.mask)[:, 0]
        else:
            row = h[0]  # [D]
            scores = torch.mv(cross.folded.inward[layer], self._cross_norm(row))  # [N]
            shares = torch.softmax(scores.view(self._heads, -1), 1).view(-1)  # [N]
            row.addmv_(cross.folded.outward[layer], shares)

    def feed_forward(self, h: Tensor, inject: _Inject | None) -> Tensor:
        """Add the feed-forward layer."""
        fed = F.gelu(self._ffn_in(self._ffn_norm(h))).contiguous()  # [B, 4 * D]
        return self._ffn_out.added(h, fed) if inject is None else h + inject(self._ffn_out(fed))


def _at(site: SiteInjection | None, layer: int) -> _Inject | None:
    """The injection of one layer for rows [B, D], which it takes as one column."""
    return None if site is None else lambda rows: site.inject(rows[:, None], layer)[:, 0]
