"""What a decoder remembers of a prompt: cross-attention's keys and values, computed once for all steps.

Made by `Decoder.new_cross`, read by the decoder and its steps of one column. Named tuples, for these are what compiled
steps take (`rfm_live.model.column_step`).

Shapes: L layers, D width, H heads, E head width, S text tokens, N = H * S.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class FoldedCross(NamedTuple):
    """Cross-attention of one text row with its projections multiplied out: h -> softmax(h `inward`) `outward`.

    `inward` [L, N, D] is the queries' projection times the keys, scaled; `outward` [L, D, N], the values times the
    output projection. These are fewer bytes than the two projections as long as the text has fewer tokens than a head
    is wide.
    """

    inward: Tensor
    outward: Tensor


class CrossCache(NamedTuple):
    """Cross-attention keys and values of one prompt, for the first rows of a batch.

    `keys` [L, rows, H, S, E], `values` alike; `mask` [rows, 1, 1, S] is True where a token counts, None where all do.
    `folded` holds the same for one row with a short text, as steps of one column read it.
    """

    keys: Tensor
    values: Tensor
    mask: Tensor | None
    folded: FoldedCross | None = None

    @property
    def rows(self) -> int:
        return self.keys.shape[1]


def fold(projections: Sequence[tuple[Tensor, Tensor]], keys: Tensor, values: Tensor) -> FoldedCross:
    """Multiply `keys` and `values` [L, H, S, E] of the tokens that count into the blocks' query and output weights."""
    _, heads, tokens, width = keys.shape
    inward, outward = [], []
    for (queries, outputs), k, v in zip(projections, keys, values, strict=True):
        inward.append((k @ (queries.view(heads, width, -1) * width**-0.5)).view(heads * tokens, -1))
        outward.append((v @ outputs.view(-1, heads, width).permute(1, 2, 0)).view(heads * tokens, -1).t())
    return FoldedCross(torch.stack(inward), torch.stack(outward))
