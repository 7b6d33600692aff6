"""Attention heads that copy what followed the same sound before: the first weights of the embedded decoder. Used by the
recipe only.

Music repeats itself: a bar's codes are those of an earlier bar in three frames of four. Heads that find them (induction
heads, Olsson et al. 2022, arXiv 2209.11895) form late in small batches of short windows: after 19,000 steps without
them the last codebook stood at 4.9 nats, no better at the end of a window than at its start. Begun with them, 500 steps
reach 2.1. The weights here only begin them; training may change them all.

One head of block 0 attends to the previous column and writes a projection of its sound beside each column's own. Two
heads of block 1 look for columns whose previous sound is the sound of this one, and carry the sound that followed to
the output heads, which begin as the transposed embeddings. For this the width is shared out: the fastest 32 pairs of
sines and cosines belong to the positions alone, the slowest 32 to the previous sound, the rest to the codes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from transformers import MusicgenForCausalLM
from transformers.models.musicgen.modeling_musicgen import MusicgenAttention

HEAD_WIDTH = 64
LEAST_WIDTH = 4 * HEAD_WIDTH
"""Below this, the codes' share of the width is too narrow for two heads to carry."""
_PAIRS = HEAD_WIDTH // 2
_POSITION_GAIN, _PREVIOUS_GAIN, _COPY_GAIN, _OUTPUT_GAIN = 4.0, 1.5, 2.0, 0.1


def begin_copying_heads(decoder: MusicgenForCausalLM, seed: int) -> None:
    """Set embeddings, output heads and three attention heads of a fresh decoder of at least 2 blocks, in place.

    `seed` draws embeddings and projections. Raises ValueError when the decoder is narrower than 256 or has one block.
    """
    width, blocks = decoder.config.hidden_size, decoder.model.decoder.layers
    if width < LEAST_WIDTH or len(blocks) < 2:
        raise ValueError(f"{len(blocks)} blocks of width {width} cannot copy, expected 2 of {LEAST_WIDTH} or more")
    half = width // 2
    fastest = torch.cat((torch.arange(_PAIRS), half + torch.arange(_PAIRS)))
    slowest = torch.cat((torch.arange(half - _PAIRS, half), torch.arange(width - _PAIRS, width)))
    sound = torch.cat((torch.arange(_PAIRS, half - _PAIRS), torch.arange(half + _PAIRS, width - _PAIRS)))
    drawn = torch.Generator().manual_seed(seed)
    match = _orthonormal(HEAD_WIDTH, len(sound), drawn)
    carry = _orthonormal(2 * HEAD_WIDTH, len(sound), drawn)
    with torch.no_grad():
        for table, head in zip(decoder.model.decoder.embed_tokens, decoder.lm_heads, strict=True):
            codes = torch.randn(table.weight.shape[0], len(sound), generator=drawn)
            table.weight.zero_()
            table.weight[:, sound] = codes
            head.weight[:, torch.cat((slowest, fastest))] += _OUTPUT_GAIN * codes[: head.weight.shape[0]] @ carry.T
        previous, copying = blocks[0].self_attn, blocks[1].self_attn
        query, key = _previous_column(width)
        _set_head(previous, 0, query, key, _placed(match, sound, width), _PREVIOUS_GAIN, slowest)
        same, before = _placed(match, sound, width), _placed(torch.eye(HEAD_WIDTH), slowest, width)
        for head, target in enumerate((slowest, fastest)):
            carried = carry[head * HEAD_WIDTH : (head + 1) * HEAD_WIDTH]
            _set_head(copying, head, same, before, _placed(carried, sound, width), _COPY_GAIN, target)


def _previous_column(width: int) -> tuple[Tensor, Tensor]:
    """Queries and keys [64, width] that agree best one position apart: cos(w (t - 1)) and sin(w (t - 1)) of the fastest
    rates w, written by the addition theorems, meet cos(w j) and sin(w j).
    """
    half = width // 2
    rates = torch.exp(torch.arange(_PAIRS) * -(math.log(10_000) / (half - 1)))  # transformers' sinusoids
    query, key = torch.zeros(HEAD_WIDTH, width), torch.zeros(HEAD_WIDTH, width)
    cosine, sine = torch.arange(_PAIRS), _PAIRS + torch.arange(_PAIRS)
    query[cosine, cosine], query[cosine, half + cosine] = rates.cos(), rates.sin()
    query[sine, half + cosine], query[sine, cosine] = rates.cos(), -rates.sin()
    key[cosine, cosine], key[sine, half + cosine] = 1.0, 1.0
    return _POSITION_GAIN * query, _POSITION_GAIN * key


def _set_head(
    attention: MusicgenAttention, head: int, query: Tensor, key: Tensor, value: Tensor, gain: float, target: Tensor
) -> None:
    """Give one head its matrices [64, width]; what it carries is written, `gain` times, into the dimensions `target`
    [64].
    """
    rows = slice(head * HEAD_WIDTH, (head + 1) * HEAD_WIDTH)
    attention.q_proj.weight[rows], attention.k_proj.weight[rows] = query, key
    attention.v_proj.weight[rows] = value
    attention.out_proj.weight[:, rows] = gain * _placed(torch.eye(HEAD_WIDTH), target, attention.embed_dim).T


def _placed(matrix: Tensor, dimensions: Tensor, width: int) -> Tensor:
    """`matrix` [N, M] on M of `width` dimensions, zero elsewhere: [N, width]."""
    placed = torch.zeros(matrix.shape[0], width)
    placed[:, dimensions] = matrix
    return placed


def _orthonormal(rows: int, columns: int, drawn: torch.Generator) -> Tensor:
    """Random orthonormal rows [rows, columns]; rows <= columns."""
    basis: Tensor = torch.linalg.qr(torch.randn(columns, rows, generator=drawn))[0]
    return basis.T
