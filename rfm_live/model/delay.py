"""MusicGen's delay pattern: codebook k runs k columns behind codebook 0. Used by the token stream and by training.

A column is what one decoder step reads or writes; a frame is 20 ms of codes. Column 0 is all pad (begin of stream), and
column s holds frame s - 1 - k of codebook k.
"""

import torch
from torch import Tensor


def delay(codes: Tensor, pad: int) -> Tensor:
    """Lay frames out in columns: codes [K, T] -> columns [K, T + K], with `pad` where no code belongs."""
    codebooks, frames = codes.shape
    columns = codes.new_full((codebooks, frames + codebooks), pad)  # [K, T + K]
    for k in range(codebooks):
        columns[k, 1 + k : 1 + k + frames] = codes[k]
    return columns


def undelay(columns: Tensor) -> Tensor:
    """Gather the complete frames of columns [K, S] (column 0 is the begin of stream) -> codes [K, max(S - K, 0)]."""
    codebooks, length = columns.shape
    frames = max(length - codebooks, 0)
    return torch.stack([columns[k, 1 + k : 1 + k + frames] for k in range(codebooks)])  # [K, T]
