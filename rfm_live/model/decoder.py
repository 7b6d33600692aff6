"""MusicGen's transformer decoder with a static KV cache, read from top to bottom. No randomness, no audio, no text.

Used by the token stream (engine process), by concept learning and by the tests. Pre-norm blocks of self-attention,
cross-attention to the text and a GELU feed-forward layer, no biases but in the norms; one embedding and one output head
per codebook; sinusoidal positions added at the input. Steering acts at three sites of a block, in `Decoder._run`.

Shapes: B rows, T columns, K codebooks, V codes, L layers, D width, H heads, E head width, S text tokens.
Under guidance the rows are [with text, without text]: rows beyond the cross cache's have no text, and their
cross-attention, which would be exactly 0, is not computed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import log

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rfm_live.model.column_step import ColumnStep, compiled
from rfm_live.model.config import DecoderConfig
from rfm_live.model.cross import CrossCache, fold
from rfm_live.model.injection import Injections
from rfm_live.model.products import product_in


@dataclass(frozen=True)
class KVCache:
    """Self-attention keys and values of every layer, `kv` [2, L, B, H, Tmax, E], written in place and only appended to.

    Columns left of a position never change, so going back to an earlier position needs no copy.
    """

    kv: Tensor

    @property
    def keys(self) -> Tensor:
        """[L, B, H, Tmax, E]"""
        return self.kv[0]

    @property
    def values(self) -> Tensor:
        """[L, B, H, Tmax, E]"""
        return self.kv[1]

    @property
    def rows(self) -> int:
        return self.kv.shape[2]

    @property
    def length(self) -> int:
        return self.kv.shape[4]

    def copy_(self, other: "KVCache") -> "KVCache":
        """Take over the contents of a cache of the same shape."""
        self.kv.copy_(other.kv)
        return self


class Block(nn.Module):
    """One layer's weights and its three contributions to the residual stream.

    The products are written as functions of the weights: calling the modules costs 6 % of a one-column step on a CPU.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.self_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.self_out = nn.Linear(width, width, bias=False)
        self.cross_norm = nn.LayerNorm(width)
        self.cross_q = nn.Linear(width, width, bias=False)
        self.cross_kv = nn.Linear(width, 2 * width, bias=False)
        self.cross_out = nn.Linear(width, width, bias=False)
        self.ffn_norm = nn.LayerNorm(width)
        self.ffn_in = nn.Linear(width, config.ffn_width, bias=False)
        self.ffn_out = nn.Linear(config.ffn_width, width, bias=False)

    def attend(self, h: Tensor, kv: Tensor, position: int, mask: Tensor | None) -> Tensor:
        """Self-attention's contribution to h [B, T, D]; appends to `kv` [2, B, H, Tmax, E] at `position`."""
        rows, columns, width = h.shape
        end = position + columns
        qkv = F.linear(_normed(h, self.self_norm), self.qkv.weight)  # [B, T, 3 * D]
        qkv = qkv.view(rows, columns, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # [3, B, H, T, E]
        kv[:, :, :, position:end] = qkv[1:]
        keys, values = kv[:, :, :, :end].unbind()  # [B, H, end, E]
        attended = F.scaled_dot_product_attention(qkv[0], keys, values, mask)  # [B, H, T, E]
        return F.linear(attended.transpose(1, 2).reshape(rows, columns, width), self.self_out.weight)  # [B, T, D]

    def attend_text(self, h: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Cross-attention's contribution to h [rows, T, D] of the rows that have text."""
        rows, columns, width = h.shape
        queries = F.linear(_normed(h, self.cross_norm), self.cross_q.weight)  # [rows, T, D]
        queries = queries.view(rows, columns, self.heads, -1).transpose(1, 2)  # [rows, H, T, E]
        attended = F.scaled_dot_product_attention(queries, keys, values, mask)  # [rows, H, T, E]
        return F.linear(attended.transpose(1, 2).reshape(rows, columns, width), self.cross_out.weight)  # [rows, T, D]

    def feed_forward(self, h: Tensor) -> Tensor:
        """The feed-forward layer's contribution to h [B, T, D]."""
        return F.linear(F.gelu(F.linear(_normed(h, self.ffn_norm), self.ffn_in.weight)), self.ffn_out.weight)


class Decoder(nn.Module):
    """The decoder of one checkpoint; `rfm_live.model.checkpoint` fills the weights in."""

    code_offsets: Tensor
    positions: Tensor

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        symbols = config.vocab + 1  # the codes and the pad token
        table = torch.empty(
            config.codebooks * symbols, config.width
        )  # given, for drawing it would import half of torch
        self.embedding = nn.Embedding(table.shape[0], table.shape[1], _weight=table)
        self.text_projection = nn.Linear(config.text_width, config.width) if config.projects_text else None
        self._blocks = [Block(config) for _ in range(config.layers)]
        self.blocks = nn.ModuleList(self._blocks)
        self.out_norm = nn.LayerNorm(config.width)
        self.heads = nn.Linear(config.width, config.codebooks * config.vocab, bias=False)
        offsets = torch.arange(config.codebooks, device="cpu") * symbols
        self.register_buffer("code_offsets", offsets[:, None], persistent=False)  # [K, 1]
        self.register_buffer("positions", sinusoids(config.max_positions, config.width), persistent=False)
        self._column_step: Callable[..., Tensor] | None = None
        self._precision: str | None = None

    @property
    def layers(self) -> list[Block]:
        """The blocks from input to output."""
        return self._blocks

    @property
    def precision(self) -> str | None:
        """What `prepare` was called with last, None before."""
        return self._precision

    @torch.inference_mode()
    def prepare(self, precision: str = "fp32") -> None:
        """Make steps of one column fast on a CPU; the weights must not change afterwards.

        `precision` says how those steps keep the weights: "fp32" changes logits by rounding only, "fp16" and "int8"
        round the weights themselves. Large weights are copied for it. Off the CPU, and for a decoder that is not in
        fp32, nothing changes. Raises StartError for another precision, or one without code for this CPU.
        """
        product = product_in(precision)
        weight = self.embedding.weight
        if self._precision != precision and weight.device.type == "cpu" and weight.dtype == torch.float32:
            self._column_step = compiled(ColumnStep(self, product))
        self._precision = precision

    def new_cache(self, rows: int, length: int) -> KVCache:
        """Make an empty cache for `rows` rows of at most `length` columns (1 to `max_positions`)."""
        config = self.config
        if not 1 <= length <= config.max_positions:
            raise ValueError(f"cache length is {length}, expected 1..{config.max_positions}")
        shape = (2, config.layers, rows, config.heads, length, config.head_width)
        weight = self.embedding.weight
        return KVCache(torch.zeros(shape, dtype=weight.dtype, device=weight.device))

    def new_cross(self, text_states: Tensor, mask: Tensor) -> CrossCache:
        """Compute the cross-attention keys and values of a prompt, once.

        `text_states` [B, S, text_width] from the text encoder, `mask` [B, S] True where a token counts. Rows without
        any token may stand at the end only, and are left out.
        """
        has_text = mask.any(dim=1)  # [B]
        rows = int(has_text.sum())
        if not bool(has_text[:rows].all()):
            raise ValueError("a row without text stands before a row with text")
        weight = self.embedding.weight
        states, mask = text_states[:rows].to(weight.device, weight.dtype), mask[:rows].to(weight.device)
        if self.text_projection is not None:
            states = self.text_projection(states)
        states = states * mask[..., None]  # [rows, S, D]
        shape = (*mask.shape, 2, self.config.heads, self.config.head_width)
        pairs = [F.linear(states, block.cross_kv.weight).view(shape) for block in self._blocks]  # [rows, S, 2, H, E]
        keys, values = torch.stack(pairs).permute(3, 0, 1, 4, 2, 5).contiguous()  # each [L, rows, H, S, E]
        folded = None
        if rows == 1 and 0 < (tokens := int(mask.sum())) < self.config.head_width and weight.device.type == "cpu":
            kept = mask[0] if tokens < mask.shape[1] else slice(None)
            projections = [(block.cross_q.weight, block.cross_out.weight) for block in self._blocks]
            folded = fold(projections, keys[:, 0, :, kept], values[:, 0, :, kept])
        return CrossCache(keys, values, None if bool(mask.all()) else mask[:, None, None, :], folded)

    def embed(self, columns: Tensor, position: int) -> Tensor:
        """The first block's input: codes int64 [B, K, T] from `position` on, summed over codebooks -> [B, T, D]."""
        h = F.embedding(columns + self.code_offsets, self.embedding.weight).sum(1)  # [B, T, D]
        return h + self.positions[position : position + columns.shape[2]].to(h.dtype)

    def forward(
        self,
        columns: Tensor,
        position: int,
        cache: KVCache,
        cross: CrossCache | None,
        steering: Tensor | Injections | None = None,
    ) -> Tensor:
        """Read columns and answer the logits of the ones that follow: -> fp32 [B, T, K, V].

        `columns` int64 [B, K, T], T >= 1, get cache positions `position`..`position + T - 1`; earlier positions must be
        filled. `cross` is None where no row has text. `steering` acts at its sites; a tensor [L, D], [T, L, D] or
        [B, T, L, D] is added to the block outputs; None does nothing.
        """
        sites = Injections.pushing(steering) if isinstance(steering, Tensor) else steering or Injections()
        _check_columns(columns, position, cache)
        if self._column_step is not None and columns.shape[2] == 1 and torch.is_inference_mode_enabled():
            alike = 1 if columns.stride(0) == 0 else len(columns)  # rows of one stream read the same column
            return self._column_step(columns[:alike], position, cache.kv, cross, sites)
        h = self._run(columns, position, cache, cross, sites)  # [B, T, D]
        logits = F.linear(_normed(h, self.out_norm), self.heads.weight)  # [B, T, K * V]
        return logits.view(*h.shape[:2], self.config.codebooks, self.config.vocab).float()  # [B, T, K, V]

    def hidden_states(self, columns: Tensor, cross: CrossCache | None, steering: Tensor | None = None) -> Tensor:
        """Every block's output, steering included, in one pass from position 0: int64 [B, K, T] -> [B, L, T, D]."""
        outputs: list[Tensor] = []
        sites = Injections() if steering is None else Injections.pushing(steering)
        self._run(columns, 0, self.new_cache(columns.shape[0], columns.shape[2]), cross, sites, outputs)
        return torch.stack(outputs, dim=1)  # [B, L, T, D]

    def _run(
        self,
        columns: Tensor,
        position: int,
        cache: KVCache,
        cross: CrossCache | None,
        sites: Injections,
        outputs: list[Tensor] | None = None,
    ) -> Tensor:
        end = position + columns.shape[2]
        h = self.embed(columns, position)  # [B, T, D]
        mask = None if columns.shape[2] == 1 else _causal_mask(position, end, h.device)  # [T, end]
        text_rows = 0 if cross is None else cross.rows
        for layer, block in enumerate(self._blocks):
            attended = block.attend(h, cache.kv[:, layer], position, mask)  # [B, T, D]
            h = h + (sites.attention.inject(attended, layer) if sites.attention else attended)
            if cross is not None and text_rows:
                h[:text_rows] += block.attend_text(h[:text_rows], cross.keys[layer], cross.values[layer], cross.mask)
            fed = block.feed_forward(h)  # [B, T, D]
            h = h + (sites.ffn.inject(fed, layer) if sites.ffn else fed)
            if sites.block:
                h = sites.block.inject(h, layer)
            if outputs is not None:
                outputs.append(h)
        return h


def sinusoids(positions: int, width: int) -> Tensor:
    """The fp32 position table [positions, width], cosines then sines, as transformers' MusicGen computes it.

    Never computed in half precision: fp16 errs by 0.02 on average and by nearly 1 at worst.
    """
    half = width // 2
    rates = torch.exp(torch.arange(half, device="cpu").float() * -(log(10_000) / (half - 1)))  # [half]
    angles = torch.arange(positions, device="cpu").float()[:, None] * rates  # [positions, half]
    table = torch.cat((angles.cos(), angles.sin()), dim=1)  # [positions, 2 * half]
    return F.pad(table, (0, width % 2))  # [positions, width]


def _check_columns(columns: Tensor, position: int, cache: KVCache) -> None:
    end = position + columns.shape[2]
    if not 0 <= position < end <= cache.length:
        raise ValueError(f"columns {position}..{end - 1} do not fit a cache of {cache.length}")


def _normed(h: Tensor, norm: nn.LayerNorm) -> Tensor:
    return F.layer_norm(h, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _causal_mask(position: int, end: int, device: torch.device) -> Tensor:
    """True where column `position + t` may look: [end - position, end]."""
    return torch.ones(end - position, end, dtype=torch.bool, device=device).tril(position)
