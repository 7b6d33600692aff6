"""A whole step of a stream as one unit: from one column of codes to the next, without the host in between.

Used by the token stream on CUDA devices, where each of a step's hundreds of launches would cost more than its
arithmetic: the step is captured once per context bucket and replayed. Everything that changes from step to step is read
from buffers that stay where they are, so turning a knob captures nothing, and every form that a step can take is
captured when the stream is made, so playing captures nothing either. Elsewhere the same function runs as it is, which
is how it is tested without a GPU.

A step attends to the first `bucket` columns of its cache and masks what lies beyond its own. Steering is one push per
layer, summed over concepts within the step; its strength is 0 where nothing steers, which leaves the rows bit for bit.

Shapes as in `rfm_live.model.decoder`; C concepts, S places for text tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from rfm_kernels.backend import kernels_for
from rfm_kernels.buffers import Injection, SamplingBuffers
from torch import Tensor, nn

from rfm_live.model.cross import CrossCache
from rfm_live.model.decoder import Block, Decoder, KVCache
from rfm_live.model.sampling import Codes, SamplingSettings

BUCKETS = (128, 256, 512, 1024, 1536)
TEXT_ROOM = 128
"""A step has room for a text of so many tokens, some eighty words; what is longer is not for steps as one unit."""
_ROWS = ((1, False), (1, True), (2, True))  # how many, and whether the first has text


def buckets_of(length: int) -> list[int]:
    """How many columns steps attend to in a cache of `length`, ascending."""
    return [bucket for bucket in BUCKETS if bucket < length] + [length]


def bucket_of(columns: int, length: int) -> int:
    """How many columns a step attends to that has `columns` of them, in a cache of `length`."""
    return next(bucket for bucket in buckets_of(length) if bucket >= columns)


@dataclass(frozen=True)
class StepBuffers:
    """What a step reads beside weights and caches, and the codes it writes, all on the device.

    `inputs` int64 [K + 2]: the column's codes, its position in the context, the step. `coefficients` [L, 1, C] weigh
    `directions` [L, C, D]; `is_steered` fp32 [1, 1] is 1 or 0. `codes` int64 [K].
    """

    inputs: Tensor
    coefficients: Tensor
    directions: Tensor
    is_steered: Tensor
    sampling: SamplingBuffers
    codes: Tensor

    @classmethod
    def on(cls, device: torch.device, codebooks: int, directions: Tensor) -> "StepBuffers":
        """Empty buffers for `directions` [L, C, D]."""
        layers, concepts = directions.shape[:2]

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        sampling = SamplingBuffers(
            zeros(1), zeros(1), zeros(1, dtype=torch.int32), zeros(1), zeros(1, dtype=torch.int64)
        )
        return cls(
            inputs=zeros(codebooks + 2, dtype=torch.int64),
            coefficients=zeros(layers, 1, concepts, dtype=directions.dtype),
            directions=directions,
            is_steered=zeros(1, 1),
            sampling=sampling,
            codes=zeros(codebooks, dtype=torch.int64),
        )


@dataclass(frozen=True)
class _Form:
    """What a step is captured for; all else it reads from buffers."""

    cache: int  # where the cache lies in memory
    bucket: int
    rows: int
    has_text: bool


class WholeStep:
    """The step of one stream. The decoder's weights and the caches must stay where they are."""

    def __init__(self, decoder: Decoder, directions: Tensor, caches: Sequence[KVCache]) -> None:
        """`directions` [C, L, D] are what coefficients weigh; `caches` of two rows, and empty, are what steps read."""
        self._decoder, config = decoder, decoder.config
        weight = decoder.embedding.weight
        self._device, self._kernels = weight.device, kernels_for(weight.device)
        by_layer = directions.transpose(0, 1).to(weight).contiguous()  # [L, C, D]
        self._buffers = StepBuffers.on(weight.device, config.codebooks, by_layer)
        self._host_inputs = torch.zeros(config.codebooks + 2, dtype=torch.int64, pin_memory=self._device.type == "cuda")
        self._books = torch.arange(config.codebooks, device=self._device)
        self._numbers = torch.arange(config.layers, dtype=torch.int32, device=self._device)[:, None].unbind()
        self._still = [_injection(by_layer[:, :0], rows) for rows in (1, 2)]
        self._settings: SamplingSettings | None = None
        self._coefficients: npt.NDArray[np.float32] | None = None
        self._cross: CrossCache | None = None
        self._text = self._room_for_text(TEXT_ROOM)
        is_cuda = self._device.type == "cuda"
        self._pool = torch.cuda.graph_pool_handle() if is_cuda else None  # one for all: they never run at the same time
        self._forms = self._every_form(caches)

    @torch.inference_mode()
    def _every_form(self, caches: Sequence[KVCache]) -> dict[_Form, Callable[[], None]]:
        """What to call for a step, by the form that it takes."""
        forms = {}
        for cache in caches:
            for rows, has_text in _ROWS:
                part = KVCache(cache.kv[:, :, :rows])
                for bucket in buckets_of(cache.length):
                    form = _Form(cache.kv.data_ptr(), bucket, rows, has_text)
                    forms[form] = self._made(partial(self._run, part, form))
        return forms

    def has_room(self, cross: CrossCache | None) -> bool:
        """Whether a step as one unit can read this text."""
        return cross is None or cross.keys.shape[3] <= TEXT_ROOM

    def codes(
        self,
        column: npt.NDArray[np.int64],
        position: int,
        step: int,
        cache: KVCache,
        cross: CrossCache | None,
        coefficients: npt.NDArray[np.float32] | None,
        settings: SamplingSettings,
    ) -> Codes:
        """Read `column` [K] at `position` of a context and draw the codes of the next column -> int64 [K].

        `cache` holds the rows of one of the stream's caches that are read: [with text] or [with text, without]; there
        must be room for the text. `coefficients` [C, L]. Codes that the delay pattern has no place for at `step` are
        pad, and so are those of a column at a context's begin.
        """
        self._host_inputs[:-2] = torch.from_numpy(column)
        self._host_inputs[-2], self._host_inputs[-1] = position, step
        self._buffers.inputs.copy_(self._host_inputs, non_blocking=True)
        self._take_settings(settings)
        self._take_coefficients(coefficients)
        if cross is not None:
            self._take_text(cross)
        form = _Form(cache.kv.data_ptr(), bucket_of(position + 1, cache.length), cache.rows, cross is not None)
        self._forms[form]()
        codes: Codes = self._buffers.codes.cpu().numpy().copy()
        return codes

    def _made(self, run: Callable[[], None]) -> Callable[[], None]:
        """What to call for a step: `run` itself, or on CUDA the replay of its capture."""
        if self._device.type != "cuda":
            return run
        aside = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(aside):
            for _ in range(2):  # compiles kernels and makes workspaces outside of the capture; a step may be repeated
                run()
        torch.cuda.current_stream(self._device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            run()
        return graph.replay

    def _take_settings(self, settings: SamplingSettings) -> None:
        if settings == self._settings:
            return
        for name in ("temperature", "guidance", "top_k", "top_p", "seed"):
            getattr(self._buffers.sampling, name).fill_(getattr(settings, name))
        self._settings = settings

    def _take_coefficients(self, coefficients: npt.NDArray[np.float32] | None) -> None:
        before = self._coefficients
        if coefficients is None:
            if before is not None:
                self._buffers.is_steered.zero_()
        elif before is None or not np.array_equal(before, coefficients):
            self._buffers.coefficients.copy_(torch.from_numpy(coefficients).t()[:, None])
            self._buffers.is_steered.fill_(1.0)
        self._coefficients = coefficients

    def _take_text(self, cross: CrossCache) -> None:
        """Copy a prompt's keys and values to where the step reads them."""
        if cross is self._cross:
            return
        if cross.rows != 1:
            raise ValueError(f"a text of {cross.rows} rows, expected 1")
        tokens = cross.keys.shape[3]
        self._text.keys[:, :, :, :tokens] = cross.keys
        self._text.values[:, :, :, :tokens] = cross.values
        assert self._text.mask is not None
        self._text.mask.zero_()
        self._text.mask[..., :tokens] = True if cross.mask is None else cross.mask
        self._cross = cross

    def _room_for_text(self, tokens: int) -> CrossCache:
        config, weight = self._decoder.config, self._decoder.embedding.weight
        shape = (config.layers, 1, config.heads, tokens, config.head_width)
        keys, values = torch.zeros(2, *shape, dtype=weight.dtype, device=weight.device)
        mask = torch.ones(1, 1, 1, tokens, dtype=torch.bool, device=weight.device)  # no share of nothing in a capture
        return CrossCache(keys, values, mask)

    def _run(self, cache: KVCache, form: _Form) -> None:
        """The step itself. It reads and writes buffers and caches only, and may be repeated."""
        decoder, buffers, add = self._decoder, self._buffers, self._kernels.add_inject_norm
        codes, position, step = buffers.inputs.split((self._decoder.config.codebooks, 1, 1))  # type: ignore[no-untyped-call]
        h = self._embedded(codes, position).expand(form.rows, -1).contiguous()  # [B, D]
        is_heard = (torch.arange(form.bucket, device=self._device) <= position)[None, None, None]  # [1, 1, 1, bucket]
        pushes = torch.bmm(buffers.coefficients, buffers.directions)  # [L, 1, D]
        pushing = _injection(pushes, form.rows, buffers.is_steered)
        still = self._still[form.rows - 1]
        normed = _normed(h, decoder.layers[0].self_norm)
        following = [block.self_norm for block in decoder.layers[1:]] + [decoder.out_norm]
        for layer, (block, next_norm) in enumerate(zip(decoder.layers, following, strict=True)):
            number = self._numbers[layer]
            attended = _attended(block, normed, cache.kv[:, layer, :, :, : form.bucket], position, is_heard)
            h, normed = add(h, attended, block.cross_norm if form.has_text else block.ffn_norm, still, number)
            if form.has_text:
                h, normed = add(h, self._told(block, normed, layer), block.ffn_norm, still, number)
            fed = F.linear(F.gelu(F.linear(normed, block.ffn_in.weight)), block.ffn_out.weight)  # [B, D]
            h, normed = add(h, fed, next_norm, pushing, number)
        config = decoder.config
        logits = F.linear(normed, decoder.heads.weight).float().view(form.rows, 1, config.codebooks, config.vocab)
        drawn = self._kernels.sample_codes(logits.contiguous(), buffers.sampling, step)[0]  # [K]
        buffers.codes.copy_(torch.where(self._books > step, config.pad_id, drawn))

    def _embedded(self, codes: Tensor, position: Tensor) -> Tensor:
        """The first block's input [1, D]; a column at the begin of a context holds pad where the delay pattern asks."""
        decoder = self._decoder
        codes = torch.where(self._books >= position, decoder.config.pad_id, codes)  # [K]
        rows = F.embedding(codes + decoder.code_offsets[:, 0], decoder.embedding.weight)  # [K, D]
        return rows.sum(0, keepdim=True) + decoder.positions.index_select(0, position).to(rows.dtype)

    def _told(self, block: Block, normed: Tensor, layer: int) -> Tensor:
        """Cross-attention's contribution [B, D]: the first row's, and zero for the row without text."""
        queries = F.linear(normed[:1], block.cross_q.weight).view(1, block.heads, 1, -1)  # [1, H, 1, E]
        keys, values = self._text.keys[layer], self._text.values[layer]
        told = F.scaled_dot_product_attention(queries, keys, values, self._text.mask).view(1, -1)  # [1, D]
        contribution = F.linear(told, block.cross_out.weight)  # [1, D]
        return F.pad(contribution, (0, 0, 0, len(normed) - 1))


def _attended(block: Block, normed: Tensor, kv: Tensor, position: Tensor, is_heard: Tensor) -> Tensor:
    """Self-attention's contribution [B, D]; writes `position` of `kv` [2, B, H, bucket, E]."""
    rows, width = normed.shape
    qkv = F.linear(normed, block.qkv.weight).view(rows, 3, block.heads, 1, -1).transpose(0, 1)  # [3, B, H, 1, E]
    kv.index_copy_(3, position, qkv[1:])
    attended = F.scaled_dot_product_attention(qkv[0], kv[0], kv[1], is_heard)  # [B, H, 1, E]
    return F.linear(attended.reshape(rows, width), block.self_out.weight)


def _injection(pushes: Tensor, rows: int, strength: Tensor | None = None) -> Injection:
    """Add `pushes` [L, 0 or 1, D] to every row, times `strength` fp32 [1, 1] (None: there are none)."""
    layers, concepts = pushes.shape[:2]

    def full(*shape: int, value: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.full(shape, value, dtype=dtype, device=pushes.device)

    eta = full(rows, concepts) if strength is None else strength.expand(rows, concepts).contiguous()
    return Injection(
        eta=eta,
        gate=full(rows, concepts),
        mode=full(rows, concepts, value=0, dtype=torch.int32),
        target=full(rows, layers, concepts, value=0.0),
        layer_weights=full(layers, concepts),
        directions=pushes.contiguous(),
    )


def _normed(h: Tensor, norm: nn.LayerNorm) -> Tensor:
    return F.layer_norm(h, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
