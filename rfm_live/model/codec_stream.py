"""Decode codes as they come: the codec's decoder with one small state per layer, equal to the offline pass.

Used by the engine process, frame by frame. Nothing is padded in the middle of a stream and nothing computed twice, so
any chunking gives the samples of one offline decode but for float rounding, and the same chunking gives the same bits.
Time is the first axis, which makes every convolution one product of a window matrix with a weight matrix: a transposed
convolution of kernel 2r and stride r reads two neighbouring inputs and answers r samples.

A state is a tuple of tensors that are never written to once made. Taking one copies the few rows that are still needed,
so a state per frame is cheap, and restoring it is exact.

Shapes: n rows of time, C channels of a layer, K codebooks, r stride.
"""

from dataclasses import dataclass
from itertools import count
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rfm_live.model.codec import Codec, Conv, Lstm, ResidualBlock, TransposedConv

_FEW_NUMBERS = 1 << 14  # below, copying the windows for one product is cheaper than one product a tap
# A layer's memory: tensors, or None before its first input.
LayerState = tuple[Tensor, ...] | None


@dataclass(frozen=True)
class DecoderState:
    """Where a stream stands: one state per layer, and the codes [K, n] that wait for the start (reflect padding)."""

    layers: tuple[LayerState, ...]
    waiting: Tensor | None
    started: bool


class StreamLayer(Protocol):
    """A layer over time: rows in, the rows that are now final out, and the state that the next rows need.

    `last` says that the stream ends with these rows. The answer is a tensor of its own, which the next layer may
    overwrite. `lag` and `least_rows` are arithmetic on row counts.
    """

    def push(self, x: Tensor, state: LayerState, last: bool) -> tuple[Tensor, LayerState]: ...

    def lag(self, lag: int) -> int:
        """Rows by which the output trails a complete one, given the input's."""
        ...

    def least_rows(self) -> int:
        """Rows that the first push must bring."""
        ...


class StreamConv:
    """A stride-1 convolution. State: the last inputs that coming outputs still read."""

    def __init__(self, layer: Conv) -> None:
        weight, bias = layer.conv.weight, layer.conv.bias  # [O, C, k], [O]
        assert bias is not None
        self.bias = bias
        self.kernel, self.dilation, self.mode = weight.shape[2], layer.dilation, layer.pad_mode
        self.left, self.right = layer.pad_left, layer.pad_right
        self.taps = weight.permute(2, 1, 0).contiguous()  # [k, C, O]
        self.matrix = self.taps.view(-1, weight.shape[0])  # [k * C, O]

    def push(self, x: Tensor, state: LayerState, last: bool) -> tuple[Tensor, LayerState]:
        """[n, C] -> [m, O]"""
        total = self.left + self.right
        if total:
            past = state[0] if state is not None else self._before(x)  # [total, C], at the start [left, C]
            x = torch.cat((past, x))
            if last:
                x = torch.cat((x, self._after(x)))
            state = (x[x.shape[0] - total :],)
        return self._product(x, x.shape[0] - total), state

    def _product(self, x: Tensor, rows: int) -> Tensor:
        channels = x.shape[1]
        if self.kernel == 1:
            return torch.addmm(self.bias, x, self.matrix)
        if rows * channels < _FEW_NUMBERS:
            shape, strides = (rows, self.kernel, channels), (channels, self.dilation * channels, 1)
            windows = x.as_strided(shape, strides).reshape(rows, -1)  # [rows, k * C]
            return torch.addmm(self.bias, windows, self.matrix)
        y = torch.addmm(self.bias, x[:rows], self.taps[0])  # [rows, O]
        for tap in range(1, self.kernel):
            y.addmm_(x[tap * self.dilation :][:rows], self.taps[tap])
        return y

    def _before(self, x: Tensor) -> Tensor:
        if self.mode == "reflect":
            return x[1 : self.left + 1].flip(0)
        return x.new_zeros(self.left, x.shape[1])

    def _after(self, x: Tensor) -> Tensor:
        if self.mode == "reflect":
            return x[-1 - self.right : -1].flip(0)
        return x.new_zeros(self.right, x.shape[1])

    def lag(self, lag: int) -> int:
        return lag + self.right

    def least_rows(self) -> int:
        return self.left + 1 if self.mode == "reflect" and self.left else 1


class StreamTransposedConv:
    """An upsampling convolution. State: the last input row, whose second half overlaps the next one's first."""

    def __init__(self, layer: TransposedConv) -> None:
        weight, bias = layer.conv.weight, layer.conv.bias  # [C, O, 2r], [O]
        assert bias is not None
        self.stride, self.outputs, self.trim_left = layer.stride, weight.shape[1], layer.trim_left
        halves = weight.permute(0, 2, 1).reshape(weight.shape[0], 2, -1)  # [C, 2, r * O]
        # The earlier input gives its second half, the later one its first; the bias counts once.
        self.matrix = halves.flip(1).transpose(0, 1).reshape(2 * weight.shape[0], -1).contiguous()  # [2 * C, r * O]
        self.bias = bias.repeat(self.stride)  # [r * O]

    def push(self, x: Tensor, state: LayerState, last: bool) -> tuple[Tensor, LayerState]:
        """[n, C] -> [n * r, O], less what is trimmed at the start, more at the end."""
        channels = x.shape[1]
        past = state[0] if state is not None else x.new_zeros(1, channels)
        overhang = last and self.trim_left > 0
        x = torch.cat((past, x, x.new_zeros(1, channels)) if overhang else (past, x))  # [n + 1 (+ 1), C]
        rows = x.shape[0] - 1
        windows = x.as_strided((rows, 2 * channels), (channels, 1))  # [n, 2 * C]
        y = torch.addmm(self.bias, windows.contiguous(), self.matrix).view(rows * self.stride, self.outputs)
        start = self.trim_left if state is None else 0
        end = y.shape[0] - (self.stride - self.trim_left if overhang else 0)
        return (y[start:end] if end - start < y.shape[0] else y), (x[rows:],)

    def lag(self, lag: int) -> int:
        return lag * self.stride + self.trim_left

    def least_rows(self) -> int:
        return 1


class StreamLstm:
    """The LSTM, layer by layer: a push reads the inputs' weights once, the others stay in the cache between its rows.

    State: hidden and cell rows of every layer. A layer is i, f, o = sigmoid(...), g = tanh(...), c = f * c + i * g,
    h = o * tanh(c), its four gates side by side in this order.
    """

    def __init__(self, layer: Lstm) -> None:
        lstm = layer.lstm
        self.width = lstm.hidden_size
        self.layers = []
        for n in range(lstm.num_layers):
            names = (f"{part}_l{n}" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
            inputs, hidden, one, other = (_with_gates_in_order(getattr(lstm, name)) for name in names)
            self.layers.append((inputs.t().contiguous(), hidden.t().contiguous(), one + other))  # [D, 4 * D] twice

    def push(self, x: Tensor, state: LayerState, last: bool) -> tuple[Tensor, LayerState]:
        """[n, D] -> [n, D]"""
        if state is None:
            state = (x.new_zeros(1, self.width),) * (2 * len(self.layers))
        memory: tuple[Tensor, ...] = ()
        y = x
        for n, (inputs, hidden, bias) in enumerate(self.layers):
            h, c = state[2 * n], state[2 * n + 1]
            rows = []
            for given in torch.split(torch.addmm(bias, y, inputs), 1):  # [1, 4 * D]
                gates = torch.addmm(given, h, hidden)
                i, f, o = torch.sigmoid(gates[:, : 3 * self.width]).chunk(3, dim=1)
                c = torch.addcmul(f * c, i, torch.tanh(gates[:, 3 * self.width :]))
                h = o * torch.tanh(c)
                rows.append(h)
            y = torch.cat(rows) if len(rows) > 1 else h
            memory += (h, c)
        return y + x, memory

    def lag(self, lag: int) -> int:
        return lag

    def least_rows(self) -> int:
        return 1


class StreamResidual:
    """A residual block; the skip waits for what the convolutions hold back. State: the skip's rows, then theirs."""

    def __init__(self, layer: ResidualBlock) -> None:
        convs = [part for part in layer.block if isinstance(part, Conv)]
        self.convs = [StreamConv(conv) for conv in convs]
        self.delay = sum(conv.right for conv in self.convs)
        self.shortcut = StreamConv(layer.shortcut) if isinstance(layer.shortcut, Conv) else None

    def push(self, x: Tensor, state: LayerState, last: bool) -> tuple[Tensor, LayerState]:
        """[n, C] -> [m, C]"""
        y = x
        memory: tuple[Tensor, ...] = ()
        skip = x if state is None or not self.delay else torch.cat((state[0], x))
        for n, conv in enumerate(self.convs):
            y = F.elu_(y) if n else F.elu(y)  # x is still needed
            y, kept = conv.push(y, None if state is None else state[n + 1 : n + 2], last)
            memory += kept or (x[:0],)  # a 1-tap convolution remembers nothing
        held = skip[y.shape[0] :]
        skip = skip[: y.shape[0]] if held.shape[0] else skip
        if self.shortcut is not None:
            skip, _ = self.shortcut.push(skip, None, last)
        return skip + y, (held, *memory)

    def lag(self, lag: int) -> int:
        return lag + self.delay

    def least_rows(self) -> int:
        return max(conv.least_rows() for conv in self.convs)


class StreamElu:
    """The activation between layers. No state."""

    def push(self, x: Tensor, state: LayerState, last: bool) -> tuple[Tensor, LayerState]:
        return F.elu_(x), None

    def lag(self, lag: int) -> int:
        return lag

    def least_rows(self) -> int:
        return 1


class StreamingDecoder:
    """One stream of audio out of one codec. Not thread-safe; any number of streams may share a codec.

    A causal codec with constant padding answers n * hop samples to every push. Reflect padding looks at the stream's
    own beginning, so such a codec answers nothing until `start_frames` frames have come, then catches up.
    A codec that is not causal trails its input by `lookahead_samples`, until `flush`.
    """

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._layers = [_stream_layer(layer) for layer in codec.decoder.layers]
        codebooks, codes, _ = codec.quantizer.codebooks.shape
        self._entries = codec.quantizer.codebooks.flatten(0, 1)  # [K * codes, hidden]
        self._offsets = (torch.arange(codebooks, device=self._entries.device) * codes)[:, None]  # [K, 1]
        lag = 0
        for layer in self._layers:
            lag = layer.lag(lag)
        self._lookahead = lag
        self.start_frames = next(n for n in count(1) if _can_start(self._layers, n))
        self.reset()

    @property
    def lookahead_samples(self) -> int:
        """Samples by which the output trails the newest frame's end, once started; 0 for a causal codec."""
        return self._lookahead

    def reset(self) -> None:
        """Begin a stream of its own."""
        self._state: list[LayerState] = [None] * len(self._layers)
        self._waiting: Tensor | None = None
        self._started = False

    @torch.inference_mode()
    def push(self, codes: Tensor) -> Tensor:
        """Decode the next frames: codes int64 [K, n], n >= 1 -> the samples fp32 [m] that are final after them."""
        if not self._started:
            codes = codes if self._waiting is None else torch.cat((self._waiting, codes), dim=1)
            if codes.shape[1] < self.start_frames:
                self._waiting = codes
                return self._entries.new_zeros(0)
            self._waiting, self._started = None, True
        return self._run(F.embedding(codes + self._offsets, self._entries).sum(0), last=False)

    @torch.inference_mode()
    def flush(self) -> Tensor:
        """End the stream: the samples fp32 [m] that waited for more, none for a started causal codec. Resets."""
        if self._waiting is not None:  # too short a stream to reflect: padded as only the offline pass can
            samples: Tensor = self._codec.decode(self._waiting[None])[0, 0]
        elif self._started and self._lookahead:
            samples = self._run(self._entries.new_zeros(0, self._entries.shape[1]), last=True)
        else:
            samples = self._entries.new_zeros(0)
        self.reset()
        return samples

    def copy_state(self) -> DecoderState:
        """Take the stream's state. It stays valid whatever is pushed later; compact, a few kilobytes."""
        layers = tuple(None if state is None else tuple(part.clone() for part in state) for state in self._state)
        return DecoderState(layers, self._waiting, self._started)

    def restore_state(self, state: DecoderState) -> None:
        """Go to a state taken from any stream of the same codec. It may be restored any number of times."""
        self._state, self._waiting, self._started = list(state.layers), state.waiting, state.started

    def _run(self, x: Tensor, last: bool) -> Tensor:
        for n, layer in enumerate(self._layers):
            x, self._state[n] = layer.push(x, self._state[n], last)
        return x.view(-1)  # mono: [m]


def _stream_layer(layer: nn.Module) -> StreamLayer:
    if isinstance(layer, Conv):
        return StreamConv(layer)
    if isinstance(layer, TransposedConv):
        return StreamTransposedConv(layer)
    if isinstance(layer, Lstm):
        return StreamLstm(layer)
    if isinstance(layer, ResidualBlock):
        return StreamResidual(layer)
    return StreamElu()


def _with_gates_in_order(parameter: Tensor) -> Tensor:
    """torch's order of gates, i, f, g, o, to ours: i, f, o share a sigmoid."""
    i, f, g, o = parameter.chunk(4)
    return torch.cat((i, f, o, g))


def _can_start(layers: list[StreamLayer], frames: int) -> bool:
    """Whether a first push of so many frames brings every layer the rows that its left padding reflects."""
    done, lag = frames, 0
    for layer in layers:
        if done - lag < layer.least_rows():
            return False
        lag = layer.lag(lag)
        done *= layer.stride if isinstance(layer, StreamTransposedConv) else 1
    return done > lag
